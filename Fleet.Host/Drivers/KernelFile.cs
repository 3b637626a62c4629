using System.Buffers.Binary;
using Fleet.Host.Drivers.Processes;

namespace Fleet.Host.Drivers;

/// <summary>What kind of kernel a file holds.</summary>
internal enum KernelFormat
{
    /// <summary>Linux's bzImage.</summary>
    BzImage,

    /// <summary>A 64-bit ELF program for x86-64.</summary>
    Elf,
}

/// <summary>
/// A kernel of the user's own, looked at before anything is started, so that a wrong file is named as what it is and
/// not as some VMM's failure. Layout: Linux's Documentation/x86/boot.rst, ELF-64 and Xen's PVH start protocol.
/// </summary>
internal sealed record KernelFile(KernelFormat Format, bool HasPvhEntry)
{
    private const int HeaderBytes = 4096;
    private const int MaxProgramHeaders = 64;
    private const int MaxNoteBytes = 64 * 1024;
    private const ushort X86_64 = 62;
    private const uint NoteSegment = 4;
    private const uint PvhEntryNote = 18;
    private const ushort ProtocolWithInitSize = 0x20a;

    /// <summary>Looks at a kernel and its initrd by their paths.</summary>
    /// <param name="memoryMib">Memory of the microVM: a kernel that can't fit is refused.</param>
    /// <exception cref="LaunchFailedException"><c>kernel_missing</c>, <c>initrd_missing</c> or <c>kernel_invalid</c>.</exception>
    public static KernelFile Check(string kernelPath, string initrdPath, uint memoryMib)
    {
        using var kernel = OpenOrRefuse(kernelPath, "kernel", "kernel_missing");
        long initrdBytes = 0;
        if (initrdPath.Length > 0)
        {
            using var initrd = OpenOrRefuse(initrdPath, "initrd", "initrd_missing");
            initrdBytes = initrd.Length;
        }

        return Check(kernelPath, kernel, initrdBytes, memoryMib);
    }

    /// <summary>The same for a kernel that is open.</summary>
    public static KernelFile Check(string kernelPath, FileStream kernel, long initrdBytes, uint memoryMib)
    {
        var header = new byte[HeaderBytes];
        int length = kernel.ReadAtLeast(header, header.Length, throwOnEndOfStream: false);
        header.AsSpan(length).Clear();
        if (IsBzImage(header)) return CheckBzImage(kernelPath, header, length, initrdBytes, memoryMib);
        if (header.AsSpan().StartsWith("\u007fELF"u8)) return CheckElf(kernelPath, kernel, header, length);
        throw Invalid(kernelPath, "is neither a bzImage nor an ELF program");
    }

    private static bool IsBzImage(ReadOnlySpan<byte> header) =>
        BinaryPrimitives.ReadUInt16LittleEndian(header[0x1fe..]) == 0xaa55 && header[0x202..].StartsWith("HdrS"u8);

    private static KernelFile CheckBzImage(string path, ReadOnlySpan<byte> header, int length, long initrdBytes, uint memoryMib)
    {
        if (length < 0x268) throw Invalid(path, "is a bzImage cut short");
        ushort protocol = BinaryPrimitives.ReadUInt16LittleEndian(header[0x206..]);
        const ushort oldest = 0x20c;
        const ushort xlfKernel64 = 1;
        if (protocol < oldest || (BinaryPrimitives.ReadUInt16LittleEndian(header[0x236..]) & xlfKernel64) == 0)
        {
            throw Invalid(path, $"is a bzImage without a 64-bit entry (boot protocol {protocol >> 8}.{protocol & 0xff:d2})");
        }
        if (protocol >= ProtocolWithInitSize)
        {
            ulong preferred = BinaryPrimitives.ReadUInt64LittleEndian(header[0x258..]);
            uint initSize = BinaryPrimitives.ReadUInt32LittleEndian(header[0x260..]);
            UInt128 needed = (UInt128)preferred + initSize + (ulong)initrdBytes;
            if (needed > (UInt128)memoryMib << 20)
            {
                throw Invalid(path, $"needs {(needed + 0xfffff) >> 20} MiB of memory to start, with its initrd, and the microVM has {memoryMib} MiB");
            }
        }
        return new KernelFile(KernelFormat.BzImage, HasPvhEntry: false);
    }

    private static KernelFile CheckElf(string path, FileStream file, ReadOnlySpan<byte> header, int length)
    {
        const byte class64 = 2;
        const byte littleEndian = 1;
        if (length < 64 || header[4] != class64 || header[5] != littleEndian
            || BinaryPrimitives.ReadUInt16LittleEndian(header[18..]) != X86_64)
        {
            throw Invalid(path, "is an ELF file but no 64-bit program for x86-64");
        }
        ulong at = BinaryPrimitives.ReadUInt64LittleEndian(header[32..]);
        ushort size = BinaryPrimitives.ReadUInt16LittleEndian(header[54..]);
        ushort count = BinaryPrimitives.ReadUInt16LittleEndian(header[56..]);
        if (count is 0 or > MaxProgramHeaders || size < 56 || at > (ulong)file.Length)
        {
            throw Invalid(path, "is an ELF file without program headers that make sense");
        }
        bool pvh = false;
        Span<byte> program = stackalloc byte[56];
        for (int i = 0; i < count && !pvh; i++)
        {
            file.Position = (long)at + (long)i * size;
            if (file.ReadAtLeast(program, program.Length, throwOnEndOfStream: false) < program.Length)
            {
                throw Invalid(path, "is an ELF file cut short");
            }
            if (BinaryPrimitives.ReadUInt32LittleEndian(program) == NoteSegment) pvh = HasPvhNote(file, program);
        }
        return new KernelFile(KernelFormat.Elf, pvh);
    }

    private static bool HasPvhNote(FileStream file, ReadOnlySpan<byte> program)
    {
        ulong start = BinaryPrimitives.ReadUInt64LittleEndian(program[8..]);
        ulong bytes = Math.Min(BinaryPrimitives.ReadUInt64LittleEndian(program[32..]), MaxNoteBytes);
        if (start >= (ulong)file.Length) return false;
        var notes = new byte[bytes];
        file.Position = (long)start;
        int length = file.ReadAtLeast(notes, notes.Length, throwOnEndOfStream: false);
        for (long at = 0; at + 12 <= length;)
        {
            var note = notes.AsSpan((int)at);
            uint name = BinaryPrimitives.ReadUInt32LittleEndian(note);
            uint data = BinaryPrimitives.ReadUInt32LittleEndian(note[4..]);
            uint type = BinaryPrimitives.ReadUInt32LittleEndian(note[8..]);
            if (type == PvhEntryNote && name == 4 && note.Length >= 16 && note[12..].StartsWith("Xen\0"u8)) return true;
            at += 12 + ((long)name + 3) / 4 * 4 + ((long)data + 3) / 4 * 4;
        }
        return false;
    }

    private static FileStream OpenOrRefuse(string path, string what, string code)
    {
        try
        {
            if (!Posix.IsRegularFile(path)) throw new IOException("it is no ordinary file");
            return new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, bufferSize: 0);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            string why = e is DirectoryNotFoundException ? "there is no such file" : e.Message;
            throw new LaunchFailedException(code, $"The {what} {path} can't be read on this host: {why}.", e);
        }
    }

    private static LaunchFailedException Invalid(string path, string why) => new("kernel_invalid", $"The kernel {path} {why}.");
}
