using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;

namespace Fleet.Vmm.Tests.Machines;

/// <summary>Machines that can't be built say why, and leave nothing behind.</summary>
public sealed class MachineFactoryTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("fleet-vmm-test-").FullName;
    private readonly EventLoop _loop = new();
    private readonly MachineSettings _good;

    public MachineFactoryTests()
    {
        var kernel = Path.Combine(_directory, "kernel");
        File.WriteAllBytes(kernel, ElfImage.Linux64(GuestPrograms.Spin));
        _good = new MachineSettings { Vcpus = 1, MemoryMib = 16, KernelPath = kernel, BootArgs = "" };
    }

    [Fact]
    public void Should_say_that_there_is_no_kernel() =>
        Assert.Contains("nowhere", Refusal(_good with { KernelPath = "/nowhere" }, MachineFault.KernelMissing), StringComparison.Ordinal);

    [Fact]
    public void Should_refuse_a_directory_as_kernel() =>
        Assert.Contains("not a regular file", Refusal(_good with { KernelPath = _directory }, MachineFault.KernelInvalid), StringComparison.Ordinal);

    [Fact]
    public void Should_say_that_there_is_no_initrd() =>
        Refusal(_good with { InitrdPath = "/nowhere" }, MachineFault.InitrdMissing);

    [Fact]
    public void Should_refuse_an_initrd_that_does_not_fit()
    {
        var initrd = Path.Combine(_directory, "initrd");
        using (var file = File.Create(initrd))
        {
            file.SetLength(16 << 20);
        }

        Assert.Contains("more memory", Refusal(_good with { InitrdPath = initrd }, MachineFault.InitrdInvalid), StringComparison.Ordinal);
    }

    [Fact]
    public void Should_refuse_memory_that_holds_no_kernel() => Refusal(_good with { MemoryMib = 1 }, MachineFault.KernelInvalid);

    [Fact]
    public void Should_refuse_boot_arguments_that_are_too_long() =>
        Refusal(_good with { BootArgs = new string('x', 2040) }, MachineFault.BootArgsInvalid);

    [SkippableFact]
    public void Should_refuse_a_status_port_without_a_place()
    {
        Skip.IfNot(File.Exists("/dev/kvm"), "there is no /dev/kvm on this machine");
        Assert.Contains("/nowhere/status", Refusal(_good with { StatusPortPath = "/nowhere/status" }, MachineFault.Other), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("/dev/nowhere")]
    [InlineData("/dev/null")]
    public void Should_say_what_is_wrong_with_kvm(string device) =>
        Assert.Contains(device, Refusal(_good, MachineFault.KvmUnavailable, device), StringComparison.Ordinal);

    public void Dispose()
    {
        _loop.Dispose();
        Directory.Delete(_directory, recursive: true);
    }

    private string Refusal(MachineSettings settings, MachineFault fault, string kvm = "/dev/kvm")
    {
        var refused = Assert.Throws<MachineException>(() => new MachineFactory(-1, -1, Assert.Fail, _ => { }, kvm).Build(settings, _loop));
        Assert.Equal(fault, refused.Fault);
        return refused.Message;
    }
}
