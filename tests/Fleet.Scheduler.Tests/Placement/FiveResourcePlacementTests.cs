using CsCheck;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Xunit;

namespace Fleet.Scheduler.Tests.Placement;

/// <summary>The engine with all five resources, some of which some hosts are not limited in, and with what a host must be beside.</summary>
public sealed class FiveResourcePlacementTests
{
    private static readonly HashSet<string> Nobody = [];
    private static readonly string[] Kernels = ["5.10.0-28-amd64", "6.1.0", "6.12.3-cloud", "odd"];

    private sealed record Machine(string Architecture, int Kernel, bool HasTemplate, Resources Capacity, Resources Free)
    {
        public Inventory Inventory => new()
        {
            AutoDriver = "kvm", Drivers = { new DriverStatus { Name = "kvm", Usable = true, StockKernels = true } },
            Architecture = Architecture, Kernel = Kernels[Kernel], CpuTemplates = { HasTemplate ? ["t2"] : Array.Empty<string>() },
        };
    }

    private static readonly Gen<Machine> Machines = Gen.Select(Gen.Bool, Gen.Int[0, 3], Gen.Bool, Gen.Long[0, 1000].Array[5], Gen.Bool.Array[3]).Select((arm, kernel, template, dice, limited) =>
    {
        var capacity = new Resources(16, 4096, limited[0] ? 1000 : 0, limited[1] ? 100 : 0, limited[2] ? 50 : 0);
        return new Machine(arm ? "aarch64" : "x86_64", kernel, template, capacity, new(
            dice[0] % 17, dice[1] * 4, limited[0] ? dice[2] : Resources.Unlimited, limited[1] ? dice[3] % 101 : Resources.Unlimited, limited[2] ? dice[4] % 51 : Resources.Unlimited));
    });

    private static readonly Gen<Demand> Demands = Gen.Select(Gen.Int[0, 7], Gen.Long[0, 1000].Array[5]).Select((wish, dice) =>
        new Demand((uint)(1 + (dice[0] % 6)), (ulong)(1 + dice[1]), "auto", false, "") with
        {
            Needs = new(1 + (dice[0] % 6), 1 + dice[1], dice[2] % 3 == 0 ? dice[2] / 2 : 0, dice[3] % 3 == 0 ? dice[3] % 70 : 0, dice[4] % 3 == 0 ? dice[4] % 40 : 0),
            Architecture = wish == 1 ? "aarch64" : "",
            MinKernel = wish is 2 or 3 ? new KernelVersion(6, wish == 2 ? 0 : 2, 0) : null,
            CpuTemplate = wish == 4 ? "t2" : "",
        });

    private static bool Fits(Machine machine, Demand demand) =>
        demand.Needs.FitsIn(machine.Free)
        && (demand.Architecture.Length == 0 || demand.Architecture == machine.Architecture)
        && (demand.MinKernel is not { } least || (machine.Kernel != 3 && least <= new[] { new KernelVersion(5, 10, 0), new(6, 1, 0), new(6, 12, 3) }[machine.Kernel]))
        && (demand.CpuTemplate.Length == 0 || machine.HasTemplate);

    /// <summary>After any history a few hosts are found exactly when there are such, all that are found would do, and those that look at all say what an engine says that never saw anything else.</summary>
    [Fact]
    public void Should_find_a_host_exactly_when_there_is_one_after_any_history() => Gen.Select(Gen.Int[0, 24], Gen.Int[0, 4], Machines, Demands).Array[10, 120].Sample(
        steps =>
        {
            var (whole, sampled) = (new PlacementEngine(int.MaxValue), new PlacementEngine(6));
            var there = new Dictionary<string, Machine>(StringComparer.Ordinal);
            foreach (var (at, what, machine, demand) in steps)
            {
                var id = $"h{at:d2}";
                var known = there.GetValueOrDefault(id);
                foreach (var engine in new[] { whole, sampled })
                {
                    if (what == 0 && known is not null)
                        engine.Remove(id);
                    else if (what == 1 && known is not null && demand.Needs.FitsIn(known.Free))
                        engine.SetFree(engine.Find(id)!, known.Free - demand.Needs);
                    else if (what > 1)
                        engine.Put(id, machine.Inventory, machine.Capacity, machine.Free, null);
                }
                if (what == 0)
                    there.Remove(id);
                else if (what == 1 && known is not null && demand.Needs.FitsIn(known.Free))
                    there[id] = known with { Free = known.Free - demand.Needs };
                else if (what > 1)
                    there[id] = machine;

                var fitting = there.Where(host => Fits(host.Value, demand)).Select(host => host.Key).ToHashSet();
                var some = Choose(sampled, demand);
                Assert.Equal(Math.Min(fitting.Count, PlacementEngine.Candidates), some.Length);
                Assert.Subset(fitting, some.ToHashSet());
                foreach (var host in there.Keys)
                    Assert.Equal(fitting.Contains(host), whole.Refuse(demand, whole.Find(host)!) is null);
                var anew = new PlacementEngine(int.MaxValue);
                foreach (var (host, one) in there)
                    anew.Put(host, one.Inventory, one.Capacity, one.Free, null);
                Assert.Equal(Choose(anew, demand), Choose(whole, demand));
            }
        },
        iter: 100);

    /// <summary>What nobody asks for changes nothing: hosts that tell of it are chosen as if they did not.</summary>
    [Fact]
    public void Should_choose_as_if_there_were_two_resources_where_nobody_asks_for_more() => Gen.Select(Machines.Array[1, 40], Demands).Sample(
        (machines, demand) =>
        {
            var plain = demand with { Needs = new(demand.Needs.Cpus, demand.Needs.MemoryMib) };
            var (five, two) = (new PlacementEngine(), new PlacementEngine());
            for (var i = 0; i < machines.Length; i++)
            {
                var (inventory, capacity, free) = (machines[i].Inventory, machines[i].Capacity, machines[i].Free);
                five.Put($"h{i:d2}", inventory, capacity, free with { DiskMib = Empty(capacity.DiskMib), NetworkMbit = Empty(capacity.NetworkMbit), Iops = Empty(capacity.Iops) }, null);
                two.Put($"h{i:d2}", inventory, new(capacity.Cpus, capacity.MemoryMib), new(free.Cpus, free.MemoryMib), null);
            }
            Assert.Equal(Choose(two, plain), Choose(five, plain));
        },
        iter: 300);

    private static long Empty(long capacity) => capacity == 0 ? Resources.Unlimited : capacity;

    private static string[] Choose(PlacementEngine engine, Demand demand)
    {
        var best = engine.Choose(demand, Nobody);
        var ids = new string[best.Length];
        for (var i = 0; i < ids.Length; i++)
            ids[i] = best[i].Host.Id;
        return ids;
    }
}
