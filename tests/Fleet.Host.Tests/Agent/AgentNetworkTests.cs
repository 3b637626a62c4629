using System.Net;
using System.Net.Sockets;
using Fleet.Host.Networks;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Tests.Agent;

/// <summary>What an agent says to microVMs that want a network, as far as it can be said without making one.</summary>
public sealed class AgentNetworkTests : AgentTest
{
    [Fact]
    public async Task Should_refuse_a_port_that_is_taken_and_give_back_that_of_a_launch_that_failed()
    {
        using var program = new TcpListener(IPAddress.Loopback, 0);
        program.Start();
        var port = (uint)((IPEndPoint)program.LocalEndpoint).Port;
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Publishing(IdOf(1), port));
        var refused = await stream.ExpectReportAsync(IdOf(1), HostVmState.Failed);
        Assert.Equal(("port_taken", true), (refused.Reason.Code, refused.NeverRan));
        Assert.False(Directory.Exists(Path.Combine(Root, "vms", IdOf(1))));

        program.Stop();
        // Its room may be another's by now, and the microVM elsewhere: what was refused is not begun after all.
        await stream.SendAsync(Publishing(IdOf(1), port));
        Assert.Equal("port_taken", (await stream.ExpectReportAsync(IdOf(1), HostVmState.Failed)).Reason.Code);
        for (var number = 2; number < 4; number++)
        {
            await stream.SendAsync(Publishing(IdOf(number), port));
            // This agent has no such driver, and the launch fails before anything is made.
            Assert.Equal("driver_unusable", (await stream.ExpectReportAsync(IdOf(number), HostVmState.Failed)).Reason.Code);
        }

        Assert.False(Directory.Exists(Path.Combine(Root, "network")));
    }

    [Fact]
    public void Should_hold_what_is_published_and_let_it_go()
    {
        using var probe = new TcpListener(IPAddress.Loopback, 0);
        probe.Start();
        var port = ((IPEndPoint)probe.LocalEndpoint).Port;
        probe.Stop();
        using var holds = new PortHolds(Lines.Log);
        var one = new Attachment("a", "", "a", IPNetwork.Parse("10.144.0.0/22"), IPNetwork.Parse("fd00::/64"), 2, [new PublishedPort { Host = (uint)port, Guest = 80, Protocol = "tcp" }]);
        Assert.Null(holds.TryHold(one, told: false));
        Assert.Throws<SocketException>(() => Listen(port));
        Assert.Equal(port, (int)holds.TryHold(one with { VmId = "b" }, told: false)!.Host);
        holds.Release("a");
        Listen(port);
    }

    private static void Listen(int port)
    {
        using var listener = new TcpListener(IPAddress.Any, port);
        listener.Start();
    }

    private static SchedulerMessage Publishing(string id, uint port) => new()
    {
        Launch = new LaunchVm
        {
            VmId = id,
            Epoch = 1,
            Spec = new VmSpec
            {
                Name = "one", Cpus = 1, MemoryMib = 64, Driver = "kvm", Network = "tenant", Ports = { new PublishedPort { Host = port, Guest = 80, Protocol = "tcp" } },
            },
        },
    };
}
