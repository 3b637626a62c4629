using Fleet.Shared.Contracts;
using Google.Protobuf;
using Xunit;

namespace Fleet.Host.Tests.Agent;

/// <summary>What no honest control plane sends.</summary>
public sealed class HostileSchedulerTests : AgentTest
{
    private static readonly string[] BadIds =
    [
        "", "vm-", "../../etc", "vm-../../../../../../etc/pass", Id + "/x", Id + "\n", Id.ToUpperInvariant(), "vm-81jd8mbr4v3s6q8k2n0x5t7w9z", new('v', 200_000),
    ];

    [Fact]
    public async Task Should_not_make_anything_of_what_is_no_id()
    {
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        foreach (var id in BadIds)
        {
            await stream.SendAsync(Launch(id: id));
            await stream.SendAsync(new SchedulerMessage { Stop = new StopVm { VmId = id, Epoch = 1 } });
            await stream.SendAsync(new SchedulerMessage { Remove = new RemoveVm { VmId = id, Epoch = 1 } });
            await stream.SendAsync(new SchedulerMessage { ConsoleInput = new ConsoleInput { VmId = id, Data = ByteString.CopyFromUtf8("x") } });
            await stream.SendAsync(new SchedulerMessage { ReportAck = new VmReportAck { VmId = id, Epoch = 1, Sequence = ulong.MaxValue } });
            await stream.SendAsync(new SchedulerMessage { OpenConsole = new OpenConsole { StreamId = 9, VmId = id } });
            Assert.Equal("not_found", (await stream.ExpectAsync(message => message.Console is { End: true })).Console.Error.Code);
        }

        await StillServesAsync(stream);
        Assert.Equal(1, driver.Launches);
        Assert.Equal([Id], Directory.GetDirectories(Path.Combine(Root, "vms")).Select(Path.GetFileName));
        Assert.All(Lines.All, line => Assert.True(line.Length < 2000, "a log line takes what it is given"));
    }

    [Fact]
    public async Task Should_refuse_a_launch_that_breaks_the_rules_of_specs()
    {
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        Action<VmSpec>[] wrongs =
        [
            spec => spec.Name = "Not A Name", spec => spec.Cpus = 0, spec => spec.Cpus = uint.MaxValue, spec => spec.MemoryMib = 1,
            spec => spec.Command.Add(new string('x', 100_000)), spec => spec.Driver = "../driver", spec => spec.Simulated.Fault = "unheard_of",
            spec => spec.Simulated.ExitStatus = -1, spec => spec.BootTimeoutSeconds = uint.MaxValue,
        ];
        for (var i = 0; i < wrongs.Length; i++)
        {
            var launch = Launch(id: IdOf(i));
            wrongs[i](launch.Launch.Spec);
            await stream.SendAsync(launch);
            var report = await stream.ExpectReportAsync(IdOf(i), HostVmState.Failed);
            Assert.Equal("launch_failed", report.Reason.Code);
            Assert.True(report.Reason.Message.Length < 1000);
            // It ends as any other: what was refused can be removed.
            await stream.SendAsync(new SchedulerMessage { Remove = new RemoveVm { VmId = IdOf(i), Epoch = 1 } });
            await stream.ExpectReportAsync(IdOf(i), HostVmState.Removed);
        }

        await stream.SendAsync(new SchedulerMessage { Launch = new LaunchVm { VmId = IdOf(99), Epoch = 1 } });
        await stream.ExpectReportAsync(IdOf(99), HostVmState.Failed);
        await stream.SendAsync(Launch(epoch: 0, id: IdOf(98)));
        await StillServesAsync(stream);
        Assert.Equal(1, driver.Launches);
    }

    [Fact]
    public async Task Should_bound_the_readers_of_consoles()
    {
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        for (ulong i = 1; i <= 300; i++)
            await stream.SendAsync(new SchedulerMessage { OpenConsole = new OpenConsole { StreamId = i, VmId = Id, Follow = true, Offset = ulong.MaxValue, Credit = uint.MaxValue } });
        for (var i = 0; i < 300 - 16; i++)
            Assert.Equal("unavailable", (await stream.ExpectAsync(message => message.Console is { End: true })).Console.Error.Code);
        for (ulong i = 1; i <= 300; i++)
        {
            await stream.SendAsync(new SchedulerMessage { ConsoleCredit = new ConsoleCredit { StreamId = i, Bytes = uint.MaxValue } });
            await stream.SendAsync(new SchedulerMessage { CloseConsole = new CloseConsole { StreamId = i } });
        }

        await stream.SendAsync(new SchedulerMessage { OpenConsole = new OpenConsole { StreamId = 1, VmId = Id, Credit = 100 } });
        var last = await stream.ExpectAsync(message => message.Console is { End: true });
        Assert.Null(last.Console.Error);
    }

    [Fact]
    public async Task Should_drop_a_stream_whose_messages_are_too_large()
    {
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        try
        {
            await stream.SendAsync(new SchedulerMessage { ConsoleInput = new ConsoleInput { VmId = Id, Data = ByteString.CopyFrom(new byte[2 << 20]) } });
        }
        catch (Exception cut) when (cut is InvalidOperationException or IOException or OperationCanceledException)
        {
            // The agent may end the stream before the message is out.
        }

        await StillServesAsync(await Scheduler.NextAsync());
    }

    [Fact]
    public async Task Should_survive_a_flood_about_microvms_that_it_never_had()
    {
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        for (ulong i = 1; i <= 20_000; i++)
            await stream.SendAsync(new SchedulerMessage { Remove = new RemoveVm { VmId = IdOf((int)(i % 10_000)), Epoch = i } });
        while (stream.Incoming.Reader.TryRead(out var message))
        {
            if (message.Report is { } report)
                await stream.AckAsync(report);
        }

        await StillServesAsync(stream);
    }

    private static async Task StillServesAsync(Link.AgentStream stream)
    {
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
    }
}
