using CsCheck;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;
using Xunit;

namespace Fleet.Shared.Tests.Vms;

public sealed class VmSpecRulesTests
{
    [Fact]
    public void A_plain_spec_is_right() => Assert.Null(VmSpecRules.FirstProblem(Spec()));

    public static TheoryData<string, Action<VmSpec>> Wrong => new()
    {
        { "name", s => s.Name = "" },
        { "name", s => s.Name = new string('a', 64) },
        { "name", s => s.Name = "ä" },
        { "cpus", s => s.Cpus = 0 },
        { "cpus", s => s.Cpus = 33 },
        { "memory_mib", s => s.MemoryMib = 31 },
        { "memory_mib", s => s.MemoryMib = 1_048_577 },
        { "command", s => s.Command.Add(new string('ü', 32_768)) },
        { "command", s => s.Command.AddRange(Enumerable.Repeat("x", 1025)) },
        { "command[0]", s => s.Command.Add("") },
        { "command[1]", s => s.Command.AddRange(["sh", "\0"]) },
        { "env", s => s.Env["A"] = new string('x', 32_766) },
        { "env.A B", s => s.Env["A B"] = "" },
        { "env." + new string('A', 64) + "…", s => s.Env[new string('A', 129)] = "" },
        { "driver", s => s.Driver = "" },
        { "boot.kernel_path", s => s.Boot = new BootSource { KernelPath = "vmlinuz" } },
        { "boot.initrd_path", s => s.Boot = new BootSource { KernelPath = "/k", InitrdPath = "./i" } },
        { "boot.boot_args", s => s.Boot = new BootSource { KernelPath = "/k", BootArgs = new string('x', 1537) } },
        { "boot_timeout_seconds", s => s.BootTimeoutSeconds = 3601 },
        { "labels.a-", s => s.Labels["a-"] = "" },
        { "labels.a", s => s.Labels["a"] = new string('x', 64) },
        { "labels.a", s => s.Labels["a"] = "x\ny" },
        { "disk_mib", s => s.DiskMib = VmLimits.MaxVolumeMib + 1 },
        { "disk_mib", s => s.DiskMib = ulong.MaxValue },
        { "network_mbit", s => s.NetworkMbit = uint.MaxValue },
        { "iops", s => s.Iops = ulong.MaxValue },
        { "architecture", s => s.Architecture = "sparc" },
        { "min_kernel", s => s.MinKernel = "6" },
        { "min_kernel", s => s.MinKernel = "6.1-amd64" },
        { "cpu_template", s => s.CpuTemplate = "T2" },
        { "cpu_template", s => (s.CpuTemplate, s.Driver) = ("t2", "qemu") },
        { "cpu_template", s => (s.CpuTemplate, s.Driver) = ("t2", "simulated") },
        { "host", s => s.Host = "-h" },
        { "host", s => s.Host = new string('h', 41) },
        { "placement.affinity", s => s.Placement = new PlacementWishes { Affinity = { Enumerable.Repeat(new Affinity { Group = "web", Within = "host" }, 17) } } },
        { "placement.affinity[0].within", s => s.Placement = new PlacementWishes { Affinity = { new Affinity { Group = "web" } } } },
        { "placement.spread", s => s.Placement = new PlacementWishes { Spread = { Enumerable.Repeat(new GroupSpread { Group = "web", Over = "host", MostAhead = 1 }, 5) } } },
        { "placement.spread[0].most_ahead", s => s.Placement = new PlacementWishes { Spread = { new GroupSpread { Group = "web", Over = "host", MostAhead = 1001 } } } },
        { "network", s => s.Network = "host" },
        { "network", s => { s.Driver = "simulated"; s.Network = "tenant"; } },
        { "ports", s => s.Ports.Add(Port(80)) },
        { "ports", s => { s.Network = "tenant"; s.Ports.AddRange(Enumerable.Range(1, 33).Select(i => Port((uint)i))); } },
        { "ports[0].host", s => { s.Network = "tenant"; s.Ports.Add(Port(0)); } },
        { "ports[0].guest", s => { s.Network = "tenant"; s.Ports.Add(new PublishedPort { Host = 1, Guest = 65_536, Protocol = "tcp" }); } },
        { "ports[0].protocol", s => { s.Network = "tenant"; s.Ports.Add(new PublishedPort { Host = 1, Guest = 1, Protocol = "sctp" }); } },
        { "ports[1].host", s => { s.Network = "tenant"; s.Ports.AddRange([Port(80), Port(80)]); } },
        { "rate_limits.net.rx", s => s.RateLimits["net.rx"] = new RateLimit { Ops = new TokenBucket { Size = 1, RefillTimeMs = 1 } } },
        { "simulated", s => s.Simulated = new SimulatedGuest() },
        { "simulated.exit_status", s => { s.Driver = "simulated"; s.Simulated = new SimulatedGuest { ExitStatus = -1 }; } },
        { "simulated.cpu_percent[1]", s => { s.Driver = "simulated"; s.Simulated = new SimulatedGuest { CpuPercent = { 100, 101 }, StepMs = 1000 }; } },
        { "simulated.memory_percent", s => { s.Driver = "simulated"; s.Simulated = new SimulatedGuest { MemoryPercent = { new uint[289] }, StepMs = 1000 }; } },
        { "simulated.step_ms", s => { s.Driver = "simulated"; s.Simulated = new SimulatedGuest { CpuPercent = { 1 } }; } },
        { "simulated.step_ms", s => { s.Driver = "simulated"; s.Simulated = new SimulatedGuest { StepMs = 999 }; } },
        { "simulated.fault", s => { s.Driver = "simulated"; s.Simulated = new SimulatedGuest { Fault = "x" }; } },
    };

    [Fact]
    public void The_same_port_may_be_published_for_both_protocols_and_limited()
    {
        var spec = Spec();
        spec.Network = "tenant";
        spec.Ports.AddRange([Port(80), new PublishedPort { Host = 80, Guest = 8080, Protocol = "udp" }]);
        spec.RateLimits["net.tx"] = new RateLimit { Ops = new TokenBucket { Size = 1, RefillTimeMs = 1 } };
        Assert.Null(VmSpecRules.FirstProblem(spec));
    }

    private static PublishedPort Port(uint number) => new() { Host = number, Guest = number, Protocol = "tcp" };

    [Theory]
    [MemberData(nameof(Wrong))]
    public void Each_rule_names_the_field_and_says_what_is_allowed(string field, Action<VmSpec> change)
    {
        var spec = Spec();
        change(spec);
        var problem = VmSpecRules.FirstProblem(spec);
        Assert.Equal(field, problem?.Field);
        Assert.EndsWith(".", problem!.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_largest_of_everything_is_right_and_stays_small()
    {
        var spec = Spec();
        spec.Name = new string('a', 63);
        spec.Cpus = 32;
        spec.MemoryMib = 1_048_576;
        spec.Command.Add(Enumerable.Repeat(new string('x', 63), 1024));
        for (var i = 0; i < 64; i++)
        {
            spec.Env[$"V{i:d9}"] = new string('x', 500);
            spec.Labels[$"l{i:d62}"] = new string('ü', 63);
        }
        spec.Host = new string('h', 40);
        spec.Boot = new BootSource { KernelPath = "/" + new string('k', 4094), InitrdPath = "/" + new string('i', 4094), BootArgs = new string('x', 1536) };
        spec.BootTimeoutSeconds = 3600;
        Assert.Null(VmSpecRules.FirstProblem(spec));
        Assert.InRange(spec.CalculateSize(), 100_000, 150_000);
    }

    [Fact]
    public void Any_spec_is_judged_without_fault()
    {
        Gen.Select(Gen.String, Gen.UInt, Gen.UInt, Gen.String.Array[0, 5], Gen.String, Gen.String).Sample((name, cpus, memory, command, key, value) =>
        {
            var spec = new VmSpec { Name = name, Cpus = cpus, MemoryMib = memory, Driver = value, Host = key, Boot = new BootSource { KernelPath = value, BootArgs = key } };
            spec.Command.Add(command);
            spec.Env[key] = value;
            spec.Labels[key] = value;
            Assert.NotNull(VmSpecRules.FirstProblem(spec));
        });
    }

    private static VmSpec Spec() => new() { Name = "hello", Cpus = 1, MemoryMib = 128, Driver = "auto" };
}
