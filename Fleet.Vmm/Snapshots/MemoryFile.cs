using System.Runtime.InteropServices;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Snapshots;

/// <summary>The guest's memory as a file: low memory, and behind it high memory. What is all zeros is a hole.</summary>
internal static unsafe class MemoryFile
{
    private const int Page = 4096;

    /// <summary>Writes it anew, and replaces what had the name in one step. Throws <see cref="SystemCallException"/>.</summary>
    public static void Write(string path, GuestMemory memory) => Descriptors.ReplaceFile(path, fd =>
    {
        Descriptors.SetSize(fd, (long)(memory.Low.Size + memory.High.Size));
        Write(fd, 0, memory, memory.Low);
        Write(fd, memory.Low.Size, memory, memory.High);
    });

    private static void Write(int fd, ulong position, GuestMemory memory, MemoryRange range)
    {
        // Runs of pages with something in them, each in one call.
        var run = 0ul;
        for (var at = 0ul; at <= range.Size; at += Page)
        {
            if (at < range.Size && memory.Slice(range.Start + at, Page).ContainsAnyExcept((byte)0))
            {
                continue;
            }

            if (run < at)
            {
                // SAFETY: Locate checked the range; the kernel only reads it.
                Descriptors.WriteAt(fd, memory.Locate(range.Start + run, at - run), at - run, position + run);
            }

            run = at + Page;
        }
    }
}
