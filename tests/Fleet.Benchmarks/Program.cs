using Fleet.Benchmarks;
using Fleet.Benchmarks.Chaos;
using Fleet.Benchmarks.Adopt;
using Fleet.Benchmarks.Create;
using Fleet.Benchmarks.Durable;
using Fleet.Benchmarks.Exec;
using Fleet.Benchmarks.Fuzz;
using Fleet.Benchmarks.Images;
using Fleet.Benchmarks.Lab;
using Fleet.Benchmarks.Logs;
using Fleet.Benchmarks.Memory;
using Fleet.Benchmarks.Overcommit;
using Fleet.Benchmarks.Placement;
using Fleet.Benchmarks.RateLimit;
using Fleet.Benchmarks.Snapshot;
using Fleet.Benchmarks.Start;

// fleet bench NAME [--json] [--NAME VALUE]...
var benchmarks = new Dictionary<string, (string What, Func<BenchmarkOptions, IReadOnlyList<Measurement>> Run)>
{
    ["start"] = ("VMM start to API socket and to the first guest instruction, memory beyond guest RAM", _ => StartBenchmark.Run()),
    ["ratelimit"] = ("how near a limited device comes to its rate and its burst", _ => RateLimitBenchmark.Run()),
    ["boot"] = ("Linux to a line from user space, in the lab, against QEMU's microvm", _ => BootBenchmark.Run()),
    ["block"] = ("reads of a disk by Linux in the lab, against QEMU's microvm", _ => BlockBenchmark.Run()),
    ["net"] = ("TCP and ping of Linux in the lab, against QEMU's microvm", _ => NetBenchmark.Run()),
    ["network"] = ("the same by tap, bridge and rules of a tenant's network, to a network outside of the host", _ => NetBenchmark.RunInTenantsNetwork()),
    ["exec"] = ("a command in Linux in the lab by the agent's way into it, against a bare vsock connection into the same guest", ExecBenchmark.Run),
    ["create"] = ("jailed microVMs a second to the first guest instruction", _ => CreateBenchmark.Run()),
    ["adopt"] = ("a restarted agent to the last microVM taken over; --microvms N (200), --rounds N (5)", AdoptBenchmark.Run),
    ["memory"] = ("memory of a microVM with network, disk and vsock beyond its own, and of the 51st", _ => MemoryBenchmark.Run()),
    ["snapshot"] = ("a saved microVM taken up by a new process", _ => SnapshotBenchmark.Run()),
    ["image"] = ("an OCI image of 100 MB from a registry on this machine to a root that boots, against skopeo and umoci", _ => ImageBenchmark.Run()),
    ["logs"] = ("what a guest under qemu writes to the host's disk, each line checked; --rounds N (60) of 7 MB, --lab 1: under fleet-vmm in the lab too", LogsBenchmark.Run),
    ["chaos"] = ("a fleet that is broken in every way, and what of its promises breaks with it; --minutes N (10), --seed N, --schedulers N, --hosts N, --memory MIB, --lease S, --pace S", ChaosBenchmark.Run),
    ["failover"] = ("a host dies with 100 microVMs and three are left: until all run again", FailoverBenchmark.Run),
    ["nodes"] = ("a scheduler node is killed, then each of three stopped in order, under load: what callers and microVMs notice; --rate N (5)", NodesBenchmark.Run),
    ["restart"] = ("the control plane is killed with 10,000 microVMs in its journal: until all is back; --vms N, --schedulers N (3, on PostgreSQL; 1: on SQLite)", RestartBenchmark.Run),
    ["leases"] = ("CPU of a scheduler that 2,000 hosts renew their leases with; --hosts N", LeaseBenchmark.Run),
    ["durable"] = ("creates a second through the HTTP API to a reservation on the disk, with 5,000 simulated hosts, on SQLite and on PostgreSQL, and a small cell that is asked for more than it has room for; --hosts N, --seconds N (60), --window N", DurableBenchmark.Run),
    ["overcommit"] = ("what predictors save of the sum of limits, and how often the peak is above what they say; --traces FOLDER, --choosing 1: on the part that the settings were chosen by", OvercommitBenchmark.Run),
    ["placement"] = ("decisions of the placement engine a second, up to 10,000 hosts with 1,000,000 microVMs; --seed N, --preempt 1: the search for whom to have give way alone, --update 1: a host's word to the index alone", PlacementBenchmark.Run),
    ["packing"] = ("microVMs that fit, by the engine and by the rules of others; --traces FOLDER (Protean samples), else generated; --microvms N (20,000), --seed N, --ours 1: the engine alone", PackingBenchmark.Run),
    ["fuzz"] = ("hostile input to devices and parsers; --cases N (5,000,000), --seed N", FuzzBenchmark.Run),
};

if (BenchmarkOptions.Parse(args) is not { } options || !benchmarks.TryGetValue(options.Name, out var chosen))
{
    Console.Error.WriteLine("usage: fleet bench NAME [--json] [--OPTION VALUE]");
    foreach (var (name, (what, _)) in benchmarks)
        Console.Error.WriteLine($"  {name,-12} {what}");
    return 2;
}

try
{
    Report.Print(Console.Out, options.Name, chosen.Run(options), options.Json);
    return 0;
}
catch (BenchmarkException cannot)
{
    Console.Error.WriteLine($"fleet bench: {cannot.Message}");
    return 1;
}
