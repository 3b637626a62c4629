using Fleet.Host.Lab;
using Fleet.Tests;
using Serilog;
using Xunit;
using Xunit.Abstractions;

namespace Fleet.Host.Tests.Lab;

/// <summary>One node that boots once for all tests of <see cref="LabNodeTests"/>.</summary>
public sealed class LabNodeFixture : IAsyncLifetime
{
    internal LabOptions Options { get; } = new()
    {
        StateDirectory = Path.Combine(Path.GetTempPath(), $"fleet-lab-{Guid.NewGuid():N}"),
        CacheDirectory = Path.Combine(Checkout.Artifacts, "cache"),
    };

    internal LabMachine Node { get; private set; } = null!;

    public async Task InitializeAsync() => Node = await LabMachine.StartAsync(Options, Log.Logger, CancellationToken.None);

    public async Task DisposeAsync()
    {
        await Node.DisposeAsync();
        Directory.Delete(Options.StateDirectory);
    }
}

/// <summary>What a booted node is good for: real Linux, real KVM, the outer machine's files.</summary>
[Trait("Kind", "Slow")]
public sealed class LabNodeTests(LabNodeFixture fixture, ITestOutputHelper output) : IClassFixture<LabNodeFixture>
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    private async Task<LabResult> RunAsync(LabCommand command)
    {
        var result = await fixture.Node.RunAsync(command, Limit);
        output.WriteLine($"{result.ExitStatus} after {result.Elapsed.TotalSeconds:0.00} s\n{result.Output}\n{result.Errors}");
        return result;
    }

    [Fact]
    public async Task Should_have_a_kvm_that_makes_a_vm()
    {
        var result = await RunAsync(LabCommand.Shell("echo quit | timeout 30 qemu-system-x86_64 -machine microvm,accel=kvm -cpu host -nodefaults -display none -S -monitor stdio && cat /sys/module/kvm_amd/parameters/npt"));
        Assert.Equal(0, result.ExitStatus);
        Assert.EndsWith("Y\n", result.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_run_dotnet()
    {
        var result = await RunAsync(new LabCommand("dotnet", "--version"));
        Assert.Equal(0, result.ExitStatus);
        Assert.StartsWith("10.", result.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_show()
    {
        await RunAsync(LabCommand.Shell("uname -a; hostname; date; ip a; mount; ps aux | grep -v '\\['; cat /sys/fs/cgroup/cgroup.controllers; ulimit -n; cat /proc/uptime; cat /sys/module/kvm/parameters/halt_poll_ns; ls /dev /sys/fs/cgroup; free -m; dmesg | tail -5"));
    }
}
