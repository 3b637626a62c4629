using System.Net;
using System.Net.Sockets;
using Fleet.Host.Networks;
using Fleet.Host.Tests.Images.Oci;
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
    public async Task Should_refuse_who_finds_no_address_and_give_what_is_freed_to_the_next()
    {
        // Who waits for an image has an address, and nothing is made of it yet.
        using var registry = new FakeRegistry(TestImage.Small());
        using var goOn = new ManualResetEventSlim();
        registry.Fault = context =>
        {
            goOn.Wait();
            return FakeRegistry.Answer(context, 404);
        };
        await using (await StartAsync(new ScriptedDriver { Name = "qemu" }, networks: Small))
        {
            var stream = await Scheduler.NextAsync();
            await stream.SendAsync(Waiting(IdOf(1), "acme"));
            await stream.ExpectAsync(message => message.Report is { State: HostVmState.Launching, Reason.Code: "pulling_image" } report && report.VmId == IdOf(1));
            await stream.SendAsync(Waiting(IdOf(2), "umbrella"));
            var refused = await stream.ExpectReportAsync(IdOf(2), HostVmState.Failed);
            Assert.Equal(("addresses_exhausted", true), (refused.Reason.Code, refused.NeverRan));
            Assert.Contains("--network-pool", refused.Reason.Message, StringComparison.Ordinal);
            Assert.False(Directory.Exists(Path.Combine(Root, "vms", IdOf(2))));

            await stream.SendAsync(new SchedulerMessage { Stop = new StopVm { VmId = IdOf(1), Epoch = 1 } });
            await stream.ExpectReportAsync(IdOf(1), HostVmState.Ended);
            await stream.SendAsync(Waiting(IdOf(3), "umbrella"));
            await stream.ExpectAsync(message => message.Report is { State: HostVmState.Launching, Reason.Code: "pulling_image" } report && report.VmId == IdOf(3));
            await stream.SendAsync(new SchedulerMessage { Stop = new StopVm { VmId = IdOf(3), Epoch = 1 } });
            await stream.ExpectReportAsync(IdOf(3), HostVmState.Ended);
        }

        goOn.Set();
        Assert.False(Directory.Exists(Path.Combine(Root, "network")));

        SchedulerMessage Waiting(string id, string tenant)
        {
            var launch = Launch(id: id);
            launch.Launch.Spec.Simulated = null;
            (launch.Launch.Spec.Driver, launch.Launch.Spec.Tenant, launch.Launch.Spec.Network, launch.Launch.Spec.Image) = ("qemu", tenant, "tenant", registry.Reference);
            return launch;
        }
    }

    [Fact]
    public async Task Should_use_up_a_tenants_addresses_to_the_last_and_keep_nothing_of_who_finds_none()
    {
        await using var networks = new HostNetworks(Small, "rack1", Root, Lines.Log);
        for (var i = 0; i < 1021; i++)
            networks.Assign($"vm{i}", Wanting());
        using var probe = new TcpListener(IPAddress.Loopback, 0);
        probe.Start();
        var port = (uint)((IPEndPoint)probe.LocalEndpoint).Port;
        probe.Stop();
        for (var tried = 0; tried < 2; tried++)
            Assert.Equal("addresses_exhausted", Assert.Throws<NetworkRefusedException>(() => networks.Assign("more", Wanting(port))).Code);
        Assert.Null(networks.Find("more"));
        Assert.False(networks.Release("more"));
        Listen((int)port);

        // What one gives back the next has, with the port that could not be had before.
        var freed = networks.Find("vm500")!;
        Assert.True(networks.Release("vm500"));
        var next = networks.Assign("more", Wanting(port));
        Assert.Equal((freed.Address4, freed.Address6, freed.Mac), (next.Address4, next.Address6, next.Mac));
        Assert.Throws<SocketException>(() => Listen((int)port));
        Assert.Equal("addresses_exhausted", Assert.Throws<NetworkRefusedException>(() => networks.Assign("vm500", Wanting())).Code);
    }

    // One tenant's network.
    private static NetworkOptions Small => new() { Pool = IPNetwork.Parse("10.239.248.0/22") };

    private static VmSpec Wanting(params uint[] ports) => new()
    {
        Tenant = "acme", Name = "one", Network = "tenant", Ports = { ports.Select(port => new PublishedPort { Host = port, Guest = 80, Protocol = "tcp" }) },
    };

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
