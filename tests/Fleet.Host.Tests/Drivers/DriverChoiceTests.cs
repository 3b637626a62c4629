using Fleet.Host.Drivers;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Tests.Drivers;

public sealed class DriverChoiceTests
{
    private static readonly HashSet<string> Plain = ["fpu", "sse2"];
    private static readonly HashSet<string> Svm = ["fpu", "svm"];

    private static DriverStatus Status(string name, bool usable, bool stock) =>
        new() { Name = name, Usable = usable, StockKernels = stock, Detail = $"about {name}" };

    [Theory]
    [InlineData(true, true, true, "kvm")]
    [InlineData(true, false, true, "qemu")]
    [InlineData(false, false, true, "qemu")]
    [InlineData(true, false, false, "")]
    public void Should_pick_the_first_that_boots_a_stock_kernel(bool kvm, bool kvmStock, bool qemu, string expected)
    {
        DriverStatus[] statuses = [Status("simulated", true, true), Status("qemu", qemu, qemu), Status("kvm", kvm, kvmStock)];
        Assert.Equal(expected, DriverChoice.Auto(statuses));
        var lines = DriverChoice.Explain(statuses);
        Assert.Equal(4, lines.Count);
        Assert.StartsWith(expected.Length > 0 ? $"auto picks {expected}: " : "auto picks nothing: ", lines[3], StringComparison.Ordinal);
        if (expected == "qemu") Assert.Contains("about kvm", lines[3], StringComparison.Ordinal);
    }

    [Fact]
    public void Should_tell_the_kinds_of_KVM_apart()
    {
        Assert.Equal(KvmKind.Hardware, KvmProbe.Classify(12, null, Svm, name => name == "kvm_amd").Kind);
        Assert.Equal(KvmKind.Interpreting, KvmProbe.Classify(12, null, Plain, name => name == "kvm_pvm").Kind);
        Assert.Equal(KvmKind.Interpreting, KvmProbe.Classify(12, null, Svm, name => name == "kvm_pvm").Kind);
        Assert.Equal(KvmKind.Interpreting, KvmProbe.Classify(12, null, Plain, _ => false).Kind);
        Assert.Equal(KvmKind.None, KvmProbe.Classify(11, null, Svm, _ => true).Kind);
        var none = KvmProbe.Classify(null, "there is no /dev/kvm", Svm, _ => false);
        Assert.Equal(KvmKind.None, none.Kind);
        Assert.Contains("modprobe kvm_amd", none.Detail, StringComparison.Ordinal);
        var denied = KvmProbe.Classify(null, "/dev/kvm can't be opened: permission denied", Plain, _ => false);
        Assert.Equal((KvmKind.None, "/dev/kvm can't be opened: permission denied"), (denied.Kind, denied.Detail));
    }

    [Fact]
    public void Should_not_take_an_ordinary_file_for_KVM()
    {
        string root = Directory.CreateTempSubdirectory("fleet-probe-").FullName;
        try
        {
            Assert.Equal(KvmKind.None, new KvmProbe(root).Look().Kind);
            Directory.CreateDirectory(Path.Combine(root, "dev"));
            Directory.CreateDirectory(Path.Combine(root, "proc"));
            File.WriteAllText(Path.Combine(root, "dev/kvm"), "");
            File.WriteAllText(Path.Combine(root, "proc/cpuinfo"), "processor\t: 0\nflags\t\t: fpu vmx\n");
            Assert.Equal(KvmKind.None, new KvmProbe(root).Look().Kind);
        }
        finally
        {
            Directory.Delete(root, recursive: true);
        }
    }

    [Fact]
    public async Task Should_say_what_is_not_installed()
    {
        var options = new DriverOptions("/nonexistent/fleet-vmm", "no-such-qemu", new Scratch.NoImage());
        var qemu = await new QemuDriver(options).ProbeAsync(default);
        Assert.False(qemu.Usable);
        Assert.Contains("no-such-qemu", qemu.Detail, StringComparison.Ordinal);
        var kvm = await new KvmDriver(options).ProbeAsync(default);
        Assert.False(kvm.Usable);
        Assert.Contains("/nonexistent/fleet-vmm", kvm.Detail, StringComparison.Ordinal);
    }
}
