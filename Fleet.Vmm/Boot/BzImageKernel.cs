using System.Buffers.Binary;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Boot;

/// <summary>
/// A bzImage by the 64-bit boot protocol (Documentation/arch/x86/boot.rst): the part behind the real-mode sectors goes
/// to 1 MiB, the entry is 0x200 behind that.
/// </summary>
internal static class BzImageKernel
{
    public const int MagicOffset = 0x202;

    private const int HeaderStart = 0x1f1;
    private const int HeaderRead = 0x280;
    private const int SectorSize = 512;
    private const int EntryOffset = 0x200;

    /// <summary>2.12: the first with xloadflags.</summary>
    private const ushort OldestProtocol = 0x20c;

    private const byte LoadedHigh = 1;
    private const ushort Has64BitEntry = 1;

    public static LoadedKernel Load(GuestMemory memory, FileContent file)
    {
        Span<byte> header = stackalloc byte[HeaderRead];
        if (!file.TryRead(0, header))
        {
            throw KernelImage.Invalid($"a bzImage of {file.Size} bytes is cut off");
        }

        if (header[0x1fe] != 0x55 || header[0x1ff] != 0xaa)
        {
            throw KernelImage.Invalid("its boot sector is not signed");
        }

        var protocol = U16(header, 0x206);
        if (protocol < OldestProtocol)
        {
            throw KernelImage.Invalid($"it speaks boot protocol {protocol >> 8}.{protocol & 0xff:d2}, the oldest that is understood is 2.12");
        }

        if ((header[0x211] & LoadedHigh) == 0)
        {
            throw KernelImage.Invalid("it is a zImage, which loads below 1 MiB");
        }

        if ((U16(header, 0x236) & Has64BitEntry) == 0)
        {
            throw KernelImage.Invalid("it has no 64-bit entry");
        }

        // The byte at 0x201 is the offset of a jump over the header, counted from behind it: so it tells the header's end.
        var headerEnd = MagicOffset + header[0x201];
        if (headerEnd < 0x268 || headerEnd > HeaderRead)
        {
            throw KernelImage.Invalid($"its setup header ends at 0x{headerEnd:x}");
        }

        var setupSectors = header[0x1f1] == 0 ? 4 : header[0x1f1];
        var codeOffset = (ulong)(setupSectors + 1) * SectorSize;
        var codeSize = (ulong)U32(header, 0x1f4) * 16;
        if (codeSize <= EntryOffset)
        {
            throw KernelImage.Invalid($"its code has only {codeSize} bytes");
        }

        // syssize counts paragraphs of 16 bytes, and the last one may be cut.
        if (codeOffset >= file.Size || codeSize - 15 > file.Size - codeOffset)
        {
            throw KernelImage.Invalid($"it is cut off: {codeOffset + codeSize} bytes are promised, {file.Size} are there");
        }

        codeSize = Math.Min(codeSize, file.Size - codeOffset);
        var end = Math.Max(GuestLayout.HighMemory + codeSize, UnpackedEnd(header));
        if (end > memory.Low.Size)
        {
            throw KernelImage.NeedsMoreMemory(end, memory);
        }

        if (!memory.TryLoad(file, codeOffset, GuestLayout.HighMemory, codeSize))
        {
            throw KernelImage.Invalid("it became shorter while it was read");
        }

        return new LoadedKernel
        {
            Mode = EntryMode.Linux64,
            Entry = GuestLayout.HighMemory + EntryOffset,
            End = end,
            InitrdLast = U32(header, 0x22c),
            CommandLineLimit = (int)Math.Min(U32(header, 0x238), GuestLayout.CommandLineCapacity - 1),
            SetupHeader = header[HeaderStart..headerEnd].ToArray(),
        };
    }

    // The kernel unpacks itself in place: from the address it prefers (or where it was loaded, aligned, if that is higher)
    // it needs init_size bytes. Less, and it dies of a triple fault before it can say a word.
    private static ulong UnpackedEnd(ReadOnlySpan<byte> header)
    {
        var preferred = BinaryPrimitives.ReadUInt64LittleEndian(header[0x258..]);
        var initSize = U32(header, 0x260);
        if (preferred < GuestLayout.HighMemory || preferred >= GuestLayout.IdentityMapped)
        {
            throw KernelImage.Invalid($"it prefers to run at 0x{preferred:x}");
        }

        var start = preferred;
        var relocatable = header[0x234] != 0;
        if (relocatable)
        {
            var alignment = (ulong)U32(header, 0x230);
            if (alignment < 4096 || alignment > GuestLayout.IdentityMapped || (alignment & (alignment - 1)) != 0)
            {
                throw KernelImage.Invalid($"it wants an alignment of 0x{alignment:x}");
            }

            start = Math.Max(preferred, (GuestLayout.HighMemory + alignment - 1) & ~(alignment - 1));
        }

        return start + initSize;
    }

    private static ushort U16(ReadOnlySpan<byte> header, int offset) => BinaryPrimitives.ReadUInt16LittleEndian(header[offset..]);

    private static uint U32(ReadOnlySpan<byte> header, int offset) => BinaryPrimitives.ReadUInt32LittleEndian(header[offset..]);
}
