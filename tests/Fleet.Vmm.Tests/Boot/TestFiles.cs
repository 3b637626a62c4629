using Fleet.Vmm.Boot;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Tests.Boot;

/// <summary>A file of the test's own and guest memory to load it into.</summary>
internal sealed class TestFiles : IDisposable
{
    private readonly string _path = Path.GetTempFileName();

    public TestFiles(int mebibytes = 64) => Memory = new GuestMemory((ulong)mebibytes << 20);

    public GuestMemory Memory { get; }

    public LoadedKernel Load(byte[] image)
    {
        File.WriteAllBytes(_path, image);
        using var file = new FileContent(_path);
        return KernelImage.Load(Memory, file);
    }

    public MemoryRange LoadInitrd(byte[] content, LoadedKernel kernel)
    {
        File.WriteAllBytes(_path, content);
        using var file = new FileContent(_path);
        return InitialRamDisk.Load(Memory, file, kernel);
    }

    /// <summary>Loading works or says what is wrong with the kernel; anything else is a fault of ours.</summary>
    public void LoadOrRefuse(byte[] image)
    {
        try
        {
            var kernel = Load(image);
            _ = Memory.Slice(kernel.Entry, 1);
            Assert.InRange(kernel.End, GuestLayout.HighMemory, Memory.Low.End);
        }
        catch (MachineException refused)
        {
            Assert.Equal(MachineFault.KernelInvalid, refused.Fault);
            Assert.StartsWith("The kernel can't be booted: ", refused.Message, StringComparison.Ordinal);
        }
    }

    public void Dispose()
    {
        Memory.Dispose();
        File.Delete(_path);
    }
}
