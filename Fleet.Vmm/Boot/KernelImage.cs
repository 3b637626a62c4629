using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Boot;

/// <summary>How a loaded kernel wants to be entered.</summary>
internal enum EntryMode
{
    /// <summary>Linux, 64-bit boot protocol: long mode, rsi points at the zero page.</summary>
    Linux64,

    /// <summary>PVH: 32-bit protected mode without paging, ebx points at the start info.</summary>
    Pvh,
}

/// <summary>A kernel in guest memory, ready to be entered.</summary>
internal sealed record LoadedKernel
{
    public required EntryMode Mode { get; init; }

    /// <summary>Guest-physical address of the first instruction.</summary>
    public required ulong Entry { get; init; }

    /// <summary>First byte behind what the kernel needs before it manages memory itself; the initrd must not begin earlier.</summary>
    public required ulong End { get; init; }

    /// <summary>Last address that the initrd may occupy.</summary>
    public ulong InitrdLast { get; init; } = 0x7fffffff;

    /// <summary>Bytes of command line it takes, without the NUL.</summary>
    public int CommandLineLimit { get; init; } = GuestLayout.CommandLineCapacity - 1;

    /// <summary>The bzImage's setup header as the zero page carries it from 0x1f1 on; empty for an ELF file.</summary>
    public byte[] SetupHeader { get; init; } = [];
}

/// <summary>Tells the kernel formats apart. A kernel file is as hostile as its guest: every number in it is checked.</summary>
internal static class KernelImage
{
    private const int Smallest = 64;

    public static LoadedKernel Load(GuestMemory memory, FileContent file)
    {
        Span<byte> start = stackalloc byte[4];
        if (file.Size < Smallest || !file.TryRead(0, start))
        {
            throw Invalid($"it has only {file.Size} bytes");
        }

        if (start is [0x7f, (byte)'E', (byte)'L', (byte)'F'])
        {
            return ElfKernel.Load(memory, file);
        }

        Span<byte> magic = stackalloc byte[4];
        if (file.TryRead(BzImageKernel.MagicOffset, magic) && magic.SequenceEqual("HdrS"u8))
        {
            return BzImageKernel.Load(memory, file);
        }

        throw Invalid("it is neither an ELF file nor a bzImage");
    }

    internal static MachineException Invalid(string why) =>
        new(MachineFault.KernelInvalid, $"The kernel can't be booted: {why}.");

    /// <summary>Only low memory counts, in whole MiB.</summary>
    internal static MachineException NeedsMoreMemory(ulong needed, GuestMemory memory) =>
        Invalid($"it needs {(needed + 0xfffff) >> 20} MiB of memory before it can start, the microVM has {(memory.Low.Size + memory.High.Size) >> 20} MiB");
}
