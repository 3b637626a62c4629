using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>struct iovec: one of several pieces of memory that a system call reads or fills in one go.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct IoPiece
{
    public byte* Start;
    public nuint Length;

    /// <summary>Steps over so many bytes of several pieces, at most all of them: they and their count become what is left.</summary>
    public static void Advance(ref IoPiece* pieces, ref int count, nuint moved)
    {
        while (moved > 0)
        {
            var part = Math.Min(moved, pieces->Length);

            // SAFETY of the callers: the pieces hold as many bytes as are stepped over.
            pieces->Start += part;
            pieces->Length -= part;
            moved -= part;
            if (pieces->Length == 0)
            {
                pieces++;
                count--;
            }
        }
    }
}
