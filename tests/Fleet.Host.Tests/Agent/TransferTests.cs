using System.Net;
using Fleet.Host.Consoles;
using Fleet.Host.Drivers;
using Fleet.Host.Snapshots;
using Fleet.Host.Tests.Drivers;
using Fleet.Host.Tests.Link;
using Fleet.Shared.Contracts;
using Fleet.Tests;
using Google.Protobuf;
using Xunit;

namespace Fleet.Host.Tests.Agent;

/// <summary>Two agents on loopback: what one has saved goes on at the other, which fetches it, and at nobody else.</summary>
public sealed class TransferTests : AgentTest
{
    private static readonly IPEndPoint Loopback = new(IPAddress.Loopback, 0);

    private string Other => Path.Combine(Path.GetDirectoryName(Root)!, "other");

    private static string FolderOf(string root) => Path.Combine(root, "vms", Id);

    private static SchedulerMessage Suspend(string forHost, uint enrolment) => new() { Suspend = new SuspendVm { VmId = Id, Epoch = 1, Attempt = 1, ForHost = forHost, ForEnrolment = enrolment } };

    private static SchedulerMessage GoOn(SchedulerMessage launch, SnapshotTicket ticket)
    {
        var again = launch.Clone();
        (again.Launch.Epoch, again.Launch.SnapshotEpoch, again.Launch.Ticket) = (2, 1, ticket);
        return again;
    }

    /// <summary>Two hosts, and a microVM that the first has saved for one.</summary>
    private async Task<Pair> PairAsync(string forHost, uint enrolment = 1)
    {
        var source = await StartAsync(transfer: Loopback);
        var from = await Scheduler.NextAsync();
        var target = await StartAsync(root: Other, id: "rack2");
        var to = await Scheduler.NextAsync();
        await from.SendAsync(Launch());
        await from.ExpectReportAsync(Id, HostVmState.Running);
        return new Pair(source, target, to, await SaveAsync(from, forHost, enrolment));
    }

    private sealed record Pair(IAsyncDisposable Source, IAsyncDisposable Target, AgentStream To, SnapshotTicket Ticket) : IAsyncDisposable
    {
        public async ValueTask DisposeAsync()
        {
            await Target.DisposeAsync();
            await Source.DisposeAsync();
        }
    }

    private static async Task<SnapshotTicket> SaveAsync(AgentStream from, string forHost, uint enrolment = 1)
    {
        await from.SendAsync(Suspend(forHost, enrolment));
        var saved = await from.ExpectReportAsync(Id, HostVmState.Suspended);
        return new SnapshotTicket { Host = "rack1", Address = from.Hello.Inventory.TransferAddress, Digest = saved.Snapshot, Enrolment = 1 };
    }

    [SkippableFact]
    public async Task Should_have_a_guest_go_on_at_another_host_with_its_memory()
    {
        KvmDriver Driver() => new(new DriverOptions(Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm"), DriverOptions.DefaultQemu, new Scratch.NoImage()));
        var status = await Driver().ProbeAsync(default);
        Skip.IfNot(status.Usable, "kvm: " + status.Detail);
        Scheduler.Answer = _ => new SchedulerMessage { Welcome = new Welcome { HeartbeatMs = 60_000, Lease = new Lease { LifetimeMs = 600_000, EndsAfterMs = 60_000 } } };
        var launch = Launch();
        launch.Launch.Spec = new VmSpec { Name = "one", Cpus = 2, MemoryMib = 64, Driver = "kvm", Boot = new BootSource { KernelPath = TinyKernel.Write(NewFolder("kernels"), TinyKernel.Counting()) } };
        await using var source = await StartAsync(Driver(), transfer: Loopback);
        var from = await Scheduler.NextAsync();
        await using var target = await StartAsync(Driver(), root: Other, id: "rack2");
        var to = await Scheduler.NextAsync();
        try
        {
            await from.SendAsync(launch);
            var pid = (await from.ExpectReportAsync(Id, HostVmState.Running)).VmmPid;
            await TypeAsync(from, Root, "12");
            var ticket = await SaveAsync(from, "rack2");
            Assert.False(Directory.Exists($"/proc/{pid}"));
            Assert.Equal(64UL << 20, ticket.Digest.MemoryBytes);
            await to.SendAsync(GoOn(launch, ticket));
            Assert.True((await to.ExpectReportAsync(Id, HostVmState.Running, epoch: 2)).VmmPid > 0);
            await TypeAsync(to, Other, "34");
            Assert.Equal("34", File.ReadAllText(Path.Combine(FolderOf(Other), ConsoleLog.FileName)));
            Assert.Equal("FLEET 1 ready\n", File.ReadAllText(Path.Combine(FolderOf(Other), "status.log")));
        }
        finally
        {
            await from.SendAsync(Remove());
            await to.SendAsync(Remove(epoch: 2));
            await to.ExpectReportAsync(Id, HostVmState.Removed, epoch: 2);
        }

        await from.ExpectReportAsync(Id, HostVmState.Removed);
        Assert.False(Directory.Exists(FolderOf(Root)) || Directory.Exists(FolderOf(Other)));
    }

    /// <summary>Nor to who holds a certificate of that host which its joining anew has made worthless.</summary>
    [Theory]
    [InlineData("rack3", 1)]
    [InlineData("rack2", 2)]
    public async Task Should_give_a_snapshot_to_nobody_but_the_host_that_it_is_for_and_take_none_that_is_another(string forHost, uint enrolment)
    {
        await using var pair = await PairAsync(forHost, enrolment);
        var (to, ticket) = (pair.To, pair.Ticket);

        async Task<string> FailAsync(SnapshotTicket shown)
        {
            await to.SendAsync(GoOn(Launch(), shown));
            var failed = await to.ExpectReportAsync(Id, HostVmState.Failed, epoch: 2);
            Assert.True(failed is { NeverRan: true, Reason.Code: "snapshot_unreachable" }, $"{failed}");
            Assert.Empty(Directory.GetFiles(FolderOf(Other), "snapshot.*"));
            await to.SendAsync(Remove(epoch: 2));
            await to.ExpectReportAsync(Id, HostVmState.Removed, epoch: 2);
            return failed.Reason.Message;
        }

        Assert.Contains("no such snapshot", await FailAsync(ticket), StringComparison.Ordinal);
        // Still there, for the one that it is for.
        Assert.NotNull(SnapshotFiles.Find(FolderOf(Root), 1));
    }

    [Theory]
    [InlineData("another host")]
    [InlineData("another enrolment")]
    [InlineData("another digest")]
    [InlineData("another size")]
    [InlineData("no digest")]
    [InlineData("nobody listens")]
    [InlineData("no address")]
    public async Task Should_take_nothing_that_is_not_what_the_ticket_says(string wrong)
    {
        await using var pair = await PairAsync("rack2");
        var (to, ticket) = (pair.To, pair.Ticket);
        switch (wrong)
        {
            case "another host":
                ticket.Host = "rack9";
                break;
            case "another enrolment":
                ticket.Enrolment = 2;
                break;
            case "another digest":
                ticket.Digest.MemorySha256 = ByteString.CopyFrom(new byte[32]);
                break;
            case "another size":
                ticket.Digest.StateBytes = 1;
                break;
            case "no digest":
                ticket.Digest = null;
                break;
            case "nobody listens":
                ticket.Address = $"127.0.0.1:{FreePort.Next()}";
                break;
            case "no address":
                ticket.Address = "nowhere";
                break;
        }

        await to.SendAsync(GoOn(Launch(), ticket));
        var failed = await to.ExpectReportAsync(Id, HostVmState.Failed, epoch: 2);
        Assert.True(failed is { NeverRan: true, Reason.Code: "snapshot_unreachable" }, $"{failed}");
        Assert.False(Directory.Exists(FolderOf(Other)) && Directory.GetFiles(FolderOf(Other), "snapshot.*").Length > 0);
        Assert.NotNull(SnapshotFiles.Find(FolderOf(Root), 1));
    }

    [Fact]
    public async Task Should_give_a_snapshot_to_its_host_while_strangers_hold_all_connections_that_they_get()
    {
        await using var pair = await PairAsync("rack2");
        var (to, ticket) = (pair.To, pair.Ticket);
        var strangers = new List<System.Net.Sockets.TcpClient>();
        try
        {
            for (var i = 0; i < 100; i++)
            {
                strangers.Add(new System.Net.Sockets.TcpClient(new IPEndPoint(IPAddress.Parse("127.0.0.2"), 0)));
                await strangers[i].ConnectAsync(IPEndPoint.Parse(ticket.Address));
            }

            // All but a few are closed on at once.
            var closed = await Task.WhenAll(strangers.Skip(16).Select(one => one.GetStream().ReadAsync(new byte[1]).AsTask())).WaitAsync(TimeSpan.FromSeconds(5));
            Assert.All(closed, read => Assert.Equal(0, read));
            await to.SendAsync(GoOn(Launch(), ticket));
            await to.ExpectReportAsync(Id, HostVmState.Running, epoch: 2);
        }
        finally
        {
            strangers.ForEach(one => one.Dispose());
        }
    }

    [Fact]
    public async Task Should_go_on_at_another_host_on_paper_and_leave_a_stranger_no_word()
    {
        await using var pair = await PairAsync("rack2");
        var (to, ticket) = (pair.To, pair.Ticket);
        using (var stranger = new System.Net.Sockets.TcpClient())
        {
            await stranger.ConnectAsync(IPEndPoint.Parse(ticket.Address));
            await stranger.GetStream().WriteAsync(new byte[] { 22, 3, 1, 0, 1, 0 });
            // Closed on, and nothing told but TLS's own alert.
            var told = new byte[64];
            var length = 0;
            for (int read; (read = await stranger.GetStream().ReadAsync(told.AsMemory(length))) > 0;)
                length += read;
            Assert.InRange(length, 0, 16);
        }

        await to.SendAsync(GoOn(Launch(), ticket));
        await to.ExpectReportAsync(Id, HostVmState.Running, epoch: 2);
        await to.SendAsync(Stop(epoch: 2));
        await to.ExpectReportAsync(Id, HostVmState.Ended, epoch: 2);
    }

    // One byte in for each digit.
    private static async Task TypeAsync(AgentStream stream, string root, string digits)
    {
        var path = Path.Combine(FolderOf(root), ConsoleLog.FileName);
        foreach (var digit in digits)
        {
            await stream.SendAsync(new SchedulerMessage { ConsoleInput = new ConsoleInput { VmId = Id, Data = ByteString.CopyFromUtf8("a") } });
            await UntilAsync($"digit {digit}", () => File.Exists(path) && File.ReadAllText(path).EndsWith(digit));
        }
    }
}
