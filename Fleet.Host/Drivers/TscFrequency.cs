using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Fleet.Host.Drivers;

/// <summary>
/// The rate of this machine's time-stamp counter, which is also the rate of a guest's counter under QEMU's emulation.
/// </summary>
/// <remarks>
/// A guest of QEMU's microvm machine measures the rate against the emulated PIT. On a busy host that fails, and since the
/// machine's ACPI is of the reduced kind the kernel then has no clock at all and hangs without a word. Told the rate on its
/// command line (<c>tsc_early_khz</c>), it boots under any load.
/// </remarks>
internal static partial class TscFrequency
{
    private static readonly TimeSpan Span = TimeSpan.FromMilliseconds(50);
    private const int Samples = 32;
    private const int ProtReadWrite = 3;
    private const int ProtReadExecute = 5;
    private const int PrivateAnonymous = 0x22;
    private static readonly Lazy<Task<uint?>> Measured = new(MeasureAsync);

    // rdtsc; shl rdx, 32; or rax, rdx; ret
    private static ReadOnlySpan<byte> ReadCounterCode => [0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xc3];

    /// <summary>Kilohertz, measured once per process to about 10 ppm; null where it can't be measured.</summary>
    public static Task<uint?> GetKilohertzAsync() => Measured.Value;

    private static async Task<uint?> MeasureAsync()
    {
        if (RuntimeInformation.ProcessArchitecture != Architecture.X64) return null;
        const nuint page = 4096;
        nint code = Mmap(0, page, ProtReadWrite, PrivateAnonymous, -1, 0);
        if (code == -1) return null;
        try
        {
            Place(code, page);
            var (ticks, clock) = Sample(code);
            await Task.Delay(Span).ConfigureAwait(false);
            var (laterTicks, laterClock) = Sample(code);
            double khz = (laterTicks - ticks) / Stopwatch.GetElapsedTime(clock, laterClock).TotalMilliseconds;
            return khz is > 100_000 and < 20_000_000 ? (uint)Math.Round(khz) : null;
        }
        finally
        {
            _ = Munmap(code, page);
        }
    }

    private static unsafe void Place(nint code, nuint page)
    {
        // SAFETY: the mapping is ours, writable and larger than the code.
        ReadCounterCode.CopyTo(new Span<byte>((void*)code, (int)page));
        if (Mprotect(code, page, ProtReadExecute) != 0) throw new IOException($"mprotect failed with error {Marshal.GetLastPInvokeError()}");
    }

    // The sample with the shortest way round was not interrupted between the two clocks.
    private static unsafe (ulong Ticks, long Clock) Sample(nint code)
    {
        // SAFETY: the code takes nothing, returns in rax and touches rdx only, which the C calling convention allows.
        var read = (delegate* unmanaged<ulong>)code;
        long shortest = long.MaxValue;
        (ulong Ticks, long Clock) best = default;
        for (int i = 0; i < Samples; i++)
        {
            long before = Stopwatch.GetTimestamp();
            ulong ticks = read();
            long after = Stopwatch.GetTimestamp();
            if (after - before >= shortest) continue;
            shortest = after - before;
            best = (ticks, before + shortest / 2);
        }
        return best;
    }

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    private static partial nint Mmap(nint address, nuint length, int protection, int flags, int fd, long offset);

    [LibraryImport("libc", EntryPoint = "mprotect", SetLastError = true)]
    private static partial int Mprotect(nint address, nuint length, int protection);

    [LibraryImport("libc", EntryPoint = "munmap", SetLastError = true)]
    private static partial int Munmap(nint address, nuint length);
}
