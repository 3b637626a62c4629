using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Boot;

/// <summary>The initrd, as high in low memory as the kernel allows.</summary>
internal static class InitialRamDisk
{
    private const ulong PageMask = 4095;

    /// <summary>Returns where it lies; its size is the file's.</summary>
    public static MemoryRange Load(GuestMemory memory, FileContent file, LoadedKernel kernel)
    {
        if (file.Size == 0)
        {
            throw new MachineException(MachineFault.InitrdInvalid, "The initrd can't be used: it is empty.");
        }

        var top = Math.Min(memory.Low.Size, kernel.InitrdLast + 1) & ~PageMask;
        var lowest = (kernel.End + PageMask) & ~PageMask;
        if (lowest > top || file.Size > top - lowest)
        {
            throw new MachineException(
                MachineFault.InitrdInvalid,
                $"The initrd can't be used: its {file.Size} bytes don't fit between the kernel's end at {lowest >> 20} MiB and {top >> 20} MiB. Give the microVM more memory.");
        }

        var address = (top - file.Size) & ~PageMask;
        return memory.TryLoad(file, 0, address, file.Size)
            ? new MemoryRange(address, file.Size)
            : throw new MachineException(MachineFault.InitrdInvalid, "The initrd can't be used: it became shorter while it was read.");
    }
}
