using System.Text;
using Fleet.Host.Agent;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Simulated;
using Fleet.Host.State;
using Fleet.Host.Tests.Link;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Host.Tests.Agent;

/// <summary>A whole agent against a control plane that the test plays, over real gRPC.</summary>
public sealed class HostAgentTests : IAsyncLifetime
{
    private const string Id = "vm-01jd8mbr4v3s6q8k2n0x5t7w9z";
    private readonly string _root = Directory.CreateTempSubdirectory("fleet-agent-").FullName;
    private FakeScheduler _scheduler = null!;

    public async Task InitializeAsync() => _scheduler = await FakeScheduler.StartAsync();

    public async Task DisposeAsync()
    {
        await _scheduler.DisposeAsync();
        Directory.Delete(_root, true);
    }

    [Fact]
    public async Task Should_say_who_it_is_and_what_it_has()
    {
        await using var agent = await StartAsync();
        var hello = (await _scheduler.NextAsync()).Hello;
        Assert.Equal("rack1", hello.HostId);
        Assert.Equal("simulated", Assert.Single(hello.Inventory.Drivers).Name);
        Assert.True(hello.Inventory is { Cpus: > 0, MemoryMib: > 0, Kernel.Length: > 0 });
        Assert.NotEmpty(hello.BootId);
    }

    [Fact]
    public async Task Should_launch_once_report_until_heard_and_tell_the_exit_status()
    {
        await using var agent = await StartAsync();
        var stream = await _scheduler.NextAsync();
        var launch = Launch(new SimulatedGuest { RunMs = 1, ExitStatus = 7 });
        await stream.SendAsync(launch);
        await stream.SendAsync(launch);
        var ended = await stream.ExpectReportAsync(Id, HostVmState.Ended);
        Assert.Equal(7, ended.Exit.Status);

        var again = await stream.ExpectReportAsync(Id, HostVmState.Ended); // nobody acknowledged it
        Assert.Equal(ended.Sequence, again.Sequence);
        await stream.AckAsync(ended);

        await stream.SendAsync(new SchedulerMessage { Remove = new RemoveVm { VmId = Id, Epoch = 1 } });
        await stream.ExpectReportAsync(Id, HostVmState.Removed);
        Assert.Empty(Directory.GetDirectories(Path.Combine(_root, "vms")));
        Assert.Empty(Directory.GetDirectories(Path.Combine(_root, "trash")));
    }

    [Fact]
    public async Task Should_end_the_older_epoch_before_the_newer_begins()
    {
        await using var agent = await StartAsync();
        var stream = await _scheduler.NextAsync();
        await stream.SendAsync(Launch(new SimulatedGuest()));
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        await stream.SendAsync(Launch(new SimulatedGuest(), epoch: 2));
        await stream.ExpectReportAsync(Id, HostVmState.Removed, epoch: 1);
        await stream.ExpectReportAsync(Id, HostVmState.Running, epoch: 2);

        await stream.SendAsync(Launch(new SimulatedGuest(), epoch: 1)); // late, and refused
        await stream.SendAsync(new SchedulerMessage { Stop = new StopVm { VmId = Id, Epoch = 1 } });
        await stream.ExpectReportAsync(Id, HostVmState.Removed, epoch: 1);
        await stream.SendAsync(new SchedulerMessage { Stop = new StopVm { VmId = Id, Epoch = 2 } });
        Assert.Equal("stop_requested", (await stream.ExpectReportAsync(Id, HostVmState.Ended, epoch: 2)).Reason.Code);
    }

    [Fact]
    public async Task Should_take_over_what_an_earlier_agent_left()
    {
        await using (await StartAsync())
        {
            var first = await _scheduler.NextAsync();
            await first.SendAsync(Launch(new SimulatedGuest()));
            await first.ExpectReportAsync(Id, HostVmState.Running);
        }

        await using var second = await StartAsync();
        var stream = await _scheduler.NextAsync();
        var known = Assert.Single(stream.Hello.Vms);
        Assert.Equal((Id, 1UL), (known.VmId, known.Epoch));
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        await stream.SendAsync(new SchedulerMessage { Stop = new StopVm { VmId = Id, Epoch = 1 } });
        await stream.ExpectReportAsync(Id, HostVmState.Ended);
    }

    [Fact]
    public async Task Should_launch_what_an_earlier_agent_had_promised_and_not_begun()
    {
        using (var state = StateDirectory.Open(_root, Serilog.Core.Logger.None))
            state.Write(Promised(File.ReadAllText("/proc/sys/kernel/random/boot_id").Trim()), durable: true);
        await using var agent = await StartAsync();
        await (await _scheduler.NextAsync()).ExpectReportAsync(Id, HostVmState.Running);
    }

    [Fact]
    public async Task Should_say_that_the_machine_was_started_anew()
    {
        using (var state = StateDirectory.Open(_root, Serilog.Core.Logger.None))
            state.Write(Promised("another-boot"), durable: true);
        await using var agent = await StartAsync();
        Assert.Equal("host_rebooted", (await (await _scheduler.NextAsync()).ExpectReportAsync(Id, HostVmState.Failed)).Reason.Code);
    }

    [Fact]
    public async Task Should_remove_what_the_control_plane_does_not_know()
    {
        await using (await StartAsync())
        {
            var first = await _scheduler.NextAsync();
            await first.SendAsync(Launch(new SimulatedGuest()));
            await first.ExpectReportAsync(Id, HostVmState.Running);
        }

        _scheduler.Answer = _ => new SchedulerMessage { Welcome = new Welcome { HeartbeatMs = 5000, Unknown = { new VmEpoch { VmId = Id, Epoch = 1 } } } };
        await using var second = await StartAsync();
        await (await _scheduler.NextAsync()).ExpectReportAsync(Id, HostVmState.Removed);
    }

    [Fact]
    public async Task Should_dial_again_when_the_stream_breaks_or_goes_silent()
    {
        _scheduler.Answer = _ => new SchedulerMessage { Welcome = new Welcome { HeartbeatMs = 300 } };
        await using var agent = await StartAsync();
        var first = await _scheduler.NextAsync();
        await first.SendAsync(Launch(new SimulatedGuest()));
        await first.Cut.CancelAsync();
        var second = await _scheduler.NextAsync();
        Assert.Equal(first.Hello.AgentInstance, second.Hello.AgentInstance);
        _scheduler.Alive = false;
        await _scheduler.NextAsync();
    }

    [Fact]
    public async Task Should_give_up_a_guest_that_is_never_ready()
    {
        await using var agent = await StartAsync();
        var stream = await _scheduler.NextAsync();
        var launch = Launch(new SimulatedGuest { Fault = "never_boots" });
        launch.Launch.Spec.BootTimeoutSeconds = 1;
        await stream.SendAsync(launch);
        Assert.Equal("boot_timeout", (await stream.ExpectReportAsync(Id, HostVmState.Failed)).Reason.Code);
    }

    [Theory]
    [InlineData("launch_fails", "launch_failed")]
    [InlineData("vmm_dies", "vmm_killed")]
    public async Task Should_tell_what_went_wrong(string fault, string code)
    {
        await using var agent = await StartAsync();
        var stream = await _scheduler.NextAsync();
        await stream.SendAsync(Launch(new SimulatedGuest { Fault = fault, RunMs = 1 }));
        Assert.Equal(code, (await stream.ExpectReportAsync(Id, HostVmState.Failed)).Reason.Code);
    }

    [Fact]
    public async Task Should_send_a_console_no_faster_than_it_has_credit_for()
    {
        await using var agent = await StartAsync();
        var stream = await _scheduler.NextAsync();
        await stream.SendAsync(Launch(new SimulatedGuest()));
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        await stream.SendAsync(new SchedulerMessage { OpenConsole = new OpenConsole { StreamId = 1, VmId = Id, Credit = 4, Follow = true } });
        var text = new StringBuilder();
        while (text.Length < 4)
            text.Append((await stream.ExpectAsync(message => message.Console is not null)).Console.Data.ToStringUtf8());
        Assert.Equal("simu", text.ToString());
        await stream.SendAsync(new SchedulerMessage { ConsoleCredit = new ConsoleCredit { StreamId = 1, Bytes = 1000 } });
        await stream.SendAsync(new SchedulerMessage { Stop = new StopVm { VmId = Id, Epoch = 1 } });
        while (true)
        {
            var chunk = (await stream.ExpectAsync(message => message.Console is not null)).Console;
            Assert.Equal((ulong)text.Length, chunk.Offset);
            text.Append(chunk.Data.ToStringUtf8());
            if (chunk.End)
                break;
        }

        Assert.Equal("simulated guest\n", text.ToString());
    }

    [Fact]
    public async Task Should_not_do_what_no_honest_control_plane_asks()
    {
        await using var agent = await StartAsync();
        var stream = await _scheduler.NextAsync();
        await stream.SendAsync(new SchedulerMessage { Launch = new LaunchVm { VmId = "../../etc", Epoch = 1, Spec = new VmSpec() } });
        await stream.SendAsync(new SchedulerMessage { Remove = new RemoveVm { VmId = "../vms", Epoch = 9 } });
        await stream.SendAsync(new SchedulerMessage { OpenConsole = new OpenConsole { StreamId = 9, VmId = "no-such" } });
        var refused = await stream.ExpectAsync(message => message.Console is { End: true });
        Assert.Equal("not_found", refused.Console.Error.Code);
        Assert.Empty(Directory.GetDirectories(Path.Combine(_root, "vms")));
    }

    [Fact]
    public async Task Should_not_start_on_a_directory_in_use_or_with_a_bad_name()
    {
        await using var agent = await StartAsync();
        await Assert.ThrowsAsync<AgentStartException>(() => StartAsync());
        await Assert.ThrowsAsync<AgentStartException>(() => StartAsync("Not A Name"));
    }

    private Task<HostAgent> StartAsync(string id = "rack1") => HostAgent.StartAsync(
        new HostAgentOptions { HostId = id, StateDirectory = _root, SchedulerAddress = _scheduler.Address, Drivers = [new SimulatedDriver(TimeProvider.System)] },
        default);

    private static SchedulerMessage Launch(SimulatedGuest script, ulong epoch = 1) => new()
    {
        Launch = new LaunchVm { VmId = Id, Epoch = epoch, Spec = new VmSpec { Name = "one", Cpus = 1, MemoryMib = 64, Driver = "simulated", Simulated = script } },
    };

    private static LaunchRecord Promised(string bootId) => new()
    {
        Launch = Launch(new SimulatedGuest()).Launch,
        Driver = "simulated",
        BootId = bootId,
        Report = new VmReport { VmId = Id, Epoch = 1, Sequence = 1, State = HostVmState.Launching },
    };
}
