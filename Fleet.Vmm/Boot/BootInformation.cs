using System.Buffers.Binary;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Boot;

/// <summary>What a kernel finds at its entry: Linux's zero page, or PVH's start info.</summary>
internal static class BootInformation
{
    private const int PageSize = 4096;

    /// <summary><c>struct boot_params</c>; offsets of Documentation/arch/x86/zero-page.rst.</summary>
    public static void WriteZeroPage(GuestMemory memory, LoadedKernel kernel, int commandLineLength, MemoryRange initrd)
    {
        var page = memory.Slice(GuestLayout.ZeroPage, PageSize);
        page.Clear();
        if (kernel.SetupHeader.Length > 0)
        {
            kernel.SetupHeader.CopyTo(page[0x1f1..]);
        }
        else
        {
            U16(page, 0x1fe, 0xaa55);
            "HdrS"u8.CopyTo(page[0x202..]);
            U32(page, 0x230, 0x1000000);
        }

        // 0xff: a loader without a number of its own.
        page[0x210] = 0xff;
        U32(page, 0x218, (uint)initrd.Start);
        U32(page, 0x21c, (uint)initrd.Size);
        U32(page, 0x228, (uint)GuestLayout.CommandLine);
        U32(page, 0x238, (uint)commandLineLength);

        // A list of further data that the file can't rightly have made: the guest would follow it.
        U64(page, 0x250, 0);
        U64(page, 0x70, GuestLayout.Rsdp);

        var map = MemoryMap.Of(memory);
        page[0x1e8] = (byte)map.Length;
        for (var i = 0; i < map.Length; i++)
        {
            var entry = page.Slice(0x2d0 + i * 20, 20);
            U64(entry, 0, map[i].Start);
            U64(entry, 8, map[i].Size);
            U32(entry, 16, map[i].Type);
        }
    }

    /// <summary><c>struct hvm_start_info</c>, version 1 (xen/include/public/arch-x86/hvm/start_info.h).</summary>
    public static void WritePvhStartInfo(GuestMemory memory, MemoryRange initrd)
    {
        var info = memory.Slice(GuestLayout.PvhStartInfo, 56);
        info.Clear();
        U32(info, 0, 0x336ec578);
        U32(info, 4, 1);
        U64(info, 24, GuestLayout.CommandLine);
        U64(info, 32, GuestLayout.Rsdp);
        U64(info, 40, GuestLayout.PvhMemoryMap);
        if (initrd.Size > 0)
        {
            var module = memory.Slice(GuestLayout.PvhModules, 32);
            module.Clear();
            U64(module, 0, initrd.Start);
            U64(module, 8, initrd.Size);
            U32(info, 12, 1);
            U64(info, 16, GuestLayout.PvhModules);
        }

        var map = MemoryMap.Of(memory);
        U32(info, 48, (uint)map.Length);
        for (var i = 0; i < map.Length; i++)
        {
            var entry = memory.Slice(GuestLayout.PvhMemoryMap + (ulong)i * 24, 24);
            entry.Clear();
            U64(entry, 0, map[i].Start);
            U64(entry, 8, map[i].Size);
            U32(entry, 16, map[i].Type);
        }
    }

    private static void U16(Span<byte> target, int offset, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(target[offset..], value);

    private static void U32(Span<byte> target, int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(target[offset..], value);

    private static void U64(Span<byte> target, int offset, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(target[offset..], value);
}
