using System.Text;
using Fleet.Host.Consoles;
using Fleet.Shared.Contracts;
using Google.Protobuf;
using Xunit;

namespace Fleet.Host.Tests.Agent;

/// <summary>Consoles on their way from a microVM's log to the control plane, and back.</summary>
public sealed class AgentConsoleTests : AgentTest
{
    [Fact]
    public async Task Should_send_a_console_no_faster_than_it_has_credit_for()
    {
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        await stream.SendAsync(Open(1, credit: 4));
        var text = new StringBuilder();
        while (text.Length < 4)
            text.Append((await stream.ExpectAsync(message => message.Console is not null)).Console.Data.ToStringUtf8());
        Assert.Equal("simu", text.ToString());
        await stream.SendAsync(Credit(1, 1000));
        await stream.SendAsync(Stop());
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
    public async Task Should_not_lose_credit_that_comes_right_behind_the_opening()
    {
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch(new SimulatedGuest { RunMs = 1 }));
        await stream.ExpectReportAsync(Id, HostVmState.Ended);
        await stream.SendAsync(Open(1, credit: 0));
        await stream.SendAsync(Credit(1, 1000));
        Assert.Equal("simulated guest\n", await ReadAsync(stream, 1));
    }

    [Fact]
    public async Task Should_read_a_large_console_as_a_whole_beside_reports()
    {
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        var lines = string.Concat(Enumerable.Range(0, 200_000).Select(i => $"line {i}\n"));
        await File.WriteAllTextAsync(Path.Combine(Root, "vms", Id, ConsoleLog.FileName), lines);
        await stream.SendAsync(Stop());
        await stream.ExpectReportAsync(Id, HostVmState.Ended);
        await stream.SendAsync(Open(5, credit: 16 << 20, follow: false));
        Assert.Equal(lines, await ReadAsync(stream, 5));
    }

    [Fact]
    public async Task Should_stop_sending_when_it_is_closed()
    {
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        await stream.SendAsync(Open(1, credit: 1000));
        await stream.ExpectAsync(message => message.Console is { Data.Length: > 0 });
        await stream.SendAsync(new SchedulerMessage { CloseConsole = new CloseConsole { StreamId = 1 } });
        await stream.SendAsync(Stop());
        await stream.ExpectReportAsync(Id, HostVmState.Ended);
        await stream.SendAsync(Open(2, credit: 1000));
        var next = await stream.ExpectAsync(message => message.Console is { End: true });
        Assert.Equal(2UL, next.Console.StreamId);
    }

    /// <summary>Every input is answered, whatever became of it, or the control plane would take no more for that console.</summary>
    [Fact]
    public async Task Should_tell_of_every_input_that_it_was_taken()
    {
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await TypeAsync("vm-none");
        await TakenAsync("vm-none", 1);
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        await TypeAsync(Id);
        await TakenAsync(Id, 1);
        driver.Vmms[0].Ready.SetResult();
        await UntilAsync("the held input", () => driver.Vmms[0].Input.Count == 1);
        for (var i = 0; i < 20; i++)
            await TypeAsync(Id);
        await TakenAsync(Id, 20);
        Assert.Equal(21, driver.Vmms[0].Input.Count);
        driver.Vmms[0].End();
        await stream.ExpectReportAsync(Id, HostVmState.Ended);
        await TypeAsync(Id);
        await TakenAsync(Id, 1);

        Task TypeAsync(string id) => stream.SendAsync(new SchedulerMessage { ConsoleInput = new ConsoleInput { VmId = id, Data = ByteString.CopyFromUtf8("x") } });

        async Task TakenAsync(string id, uint messages)
        {
            while (messages > 0)
                messages -= (await stream.ExpectAsync(message => message.InputTaken?.VmId == id)).InputTaken.Messages;
        }
    }

    [Fact]
    public async Task Should_hold_input_until_the_guest_is_ready_and_pass_it_on_in_order()
    {
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        var vmm = driver.Vmms[0];
        // More than is held: had it been passed on at once, all of it would have come through.
        await TypeAsync(new string('a', HeldInput.Limit - 2));
        await TypeAsync("ls -l");
        // The agent works in order: what was typed before this answer is with the microVM.
        await stream.SendAsync(new SchedulerMessage { OpenConsole = new OpenConsole { StreamId = 9, VmId = "vm-none" } });
        await stream.ExpectAsync(message => message.Console is { StreamId: 9, End: true });
        vmm.Ready.SetResult();
        await UntilAsync("the held input", () => vmm.Input.Count > 0);
        await TypeAsync("!\n");
        await stream.SendAsync(Stop());
        await stream.ExpectReportAsync(Id, HostVmState.Ended);
        Assert.Equal(HeldInput.Limit + 2, vmm.Input.Count);
        Assert.Equal("als!\n", Encoding.UTF8.GetString([.. vmm.Input[^5..]]));

        Task TypeAsync(string text) =>
            stream.SendAsync(new SchedulerMessage { ConsoleInput = new ConsoleInput { VmId = Id, Data = ByteString.CopyFromUtf8(text) } });
    }

    [Fact]
    public void Should_hold_no_more_input_than_its_limit()
    {
        var input = new HeldInput();
        Assert.True(input.Take(new byte[HeldInput.Limit - 1]).IsEmpty);
        Assert.True(input.Take(new byte[] { 7, 8, 9 }).IsEmpty);
        var held = input.Release();
        Assert.Equal((HeldInput.Limit, 7), (held.Length, held.Span[^1]));
        Assert.Equal(3, input.Take(new byte[3]).Length);
        Assert.True(input.Release().IsEmpty);
    }

    private static async Task<string> ReadAsync(Link.AgentStream stream, ulong number)
    {
        var text = new StringBuilder();
        while (true)
        {
            var chunk = (await stream.ExpectAsync(message => message.Console?.StreamId == number)).Console;
            Assert.Null(chunk.Error);
            text.Append(chunk.Data.ToStringUtf8());
            if (chunk.End)
                return text.ToString();
        }
    }

    private static SchedulerMessage Open(ulong stream, uint credit, bool follow = true) =>
        new() { OpenConsole = new OpenConsole { StreamId = stream, VmId = Id, Credit = credit, Follow = follow } };

    private static SchedulerMessage Credit(ulong stream, uint bytes) => new() { ConsoleCredit = new ConsoleCredit { StreamId = stream, Bytes = bytes } };
}
