using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>getrandom(2): what the kernel itself would use for keys.</summary>
internal static unsafe partial class RandomBytes
{
    /// <summary>Fills the whole of it. Never blocks once the host has booted.</summary>
    public static void Fill(Span<byte> target)
    {
        while (!target.IsEmpty)
        {
            nint got;

            // SAFETY: the kernel writes at most the span's length, during the call.
            fixed (byte* start = target)
            {
                got = getrandom(start, (nuint)target.Length, 0);
            }

            if (got < 0)
            {
                if (Marshal.GetLastPInvokeError() == SystemCallException.Interrupted)
                {
                    continue;
                }

                throw SystemCallException.Last("getrandom");
            }

            target = target[(int)got..];
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint getrandom(byte* buffer, nuint length, uint flags);
}
