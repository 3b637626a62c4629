using System.Net.Sockets;
using System.Text.Json;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Snapshots;
using Fleet.Vmm.Tests.Machines;

namespace Fleet.Vmm.Tests.Snapshots;

/// <summary>Restore through a page fault handler of another thread, as of another process.</summary>
public sealed class FaultHandlerTests
{
    [SkippableFact]
    public void Should_let_a_handler_fill_the_memory_as_it_is_touched()
    {
        Skip.IfNot(File.Exists("/dev/userfaultfd"), "this host has no /dev/userfaultfd");
        using var first = new MachineRun(SteppingGuests.Counter);
        using var saved = SavedMachine.From(first, "aaa", 3);
        using var server = new MemoryServer(saved.File("h.sock"), saved.MemoryPath);
        using (var second = new MachineRun([], source: saved.Source with { MemoryPath = saved.File("h.sock"), ByFaultHandler = true }))
        {
            second.Type("aaq");
            Assert.Equal(MachineEndKind.GuestShutdown, second.RunToEnd().Kind);
            Assert.Equal("45", second.Console());
            Assert.Empty(second.Warnings);
        }

        Assert.Null(server.Failure);

        // 16 MiB have 4096 pages; a guest of 50 bytes touches few.
        Assert.InRange(server.Served, 3, 100);
        using var json = JsonDocument.Parse(server.Handshake);
        var region = Assert.Single(json.RootElement.EnumerateArray());
        Assert.Equal((16UL << 20, 0UL, 4096UL, 4096UL), (
            region.GetProperty("size").GetUInt64(), region.GetProperty("offset").GetUInt64(),
            region.GetProperty("page_size").GetUInt64(), region.GetProperty("page_size_kib").GetUInt64()));
        Assert.NotEqual(0UL, region.GetProperty("base_host_virt_addr").GetUInt64());
    }

    [SkippableFact]
    public void Should_save_what_a_handler_has_not_yet_filled()
    {
        Skip.IfNot(File.Exists("/dev/userfaultfd"), "this host has no /dev/userfaultfd");
        using var first = new MachineRun(SteppingGuests.Counter);
        using var saved = SavedMachine.From(first, "aaa", 3);
        using var server = new MemoryServer(saved.File("h.sock"), saved.MemoryPath);
        using var second = new MachineRun([], source: saved.Source with { MemoryPath = saved.File("h.sock"), ByFaultHandler = true });
        using var again = SavedMachine.From(second, "a", 1);
        using var third = new MachineRun([], source: again.Source);
        third.Type("aq");
        third.RunToEnd();
        Assert.Equal("5", third.Console());
    }

    [SkippableFact]
    public void Should_say_that_a_handler_has_gone()
    {
        Skip.IfNot(File.Exists("/dev/userfaultfd"), "this host has no /dev/userfaultfd");
        using var first = new MachineRun(SteppingGuests.Counter);
        using var saved = SavedMachine.From(first, "aaa", 3);

        // One page, so that the load succeeds: the generation id is written while it lasts.
        using var server = new MemoryServer(saved.File("h.sock"), saved.MemoryPath, pagesToServe: 1);
        using var second = new MachineRun([], source: saved.Source with { MemoryPath = saved.File("h.sock"), ByFaultHandler = true });
        second.Poll(() =>
        {
            if (second.Warnings.Count > 0)
            {
                second.Loop.Exit(0);
            }

            return second.Warnings.Count > 0;
        });
        second.After(TimeSpan.FromSeconds(20), () => second.Loop.Exit(1));
        Assert.Equal(0, second.Loop.Run());
        Assert.Equal(["The page fault handler is gone: the guest stops at its next page that nobody has filled."], second.Warnings);
    }

    [SkippableFact]
    public void Should_refuse_a_handler_that_is_not_there()
    {
        using var first = new MachineRun(SteppingGuests.Counter);
        using var saved = SavedMachine.From(first, "aaa", 3);
        var path = saved.File("h.sock");
        var source = saved.Source with { MemoryPath = path, ByFaultHandler = true };
        Assert.StartsWith($"no page fault handler listens at {path}: connect: No such file", Refusal(source), StringComparison.Ordinal);
        using (var dead = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            dead.Bind(new UnixDomainSocketEndPoint(path));
        }

        // Nobody listens any more, or the file has gone with the socket.
        Assert.StartsWith($"no page fault handler listens at {path}: connect: ", Refusal(source), StringComparison.Ordinal);
        Assert.StartsWith("no page fault handler listens at ", Refusal(source with { MemoryPath = new string('x', 200) }), StringComparison.Ordinal);
    }

    private static string Refusal(RestoreSource source) =>
        Assert.Throws<SnapshotException>(() => new MachineRun([], source: source)).Message;
}
