using CsCheck;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Prediction;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Placement;

public sealed class PreemptionTests
{
    /// <summary>Against every subset: as few as any, of classes no higher than need be, enough, and none of them in vain.</summary>
    [Fact]
    public void Should_choose_the_smallest_set_of_the_lowest_classes()
    {
        var one = Gen.Select(Gen.Int[0, 2], Gen.Long[1, 4], Gen.Long[1, 8]);
        Gen.Select(one.Array[0, 9], Gen.Int[0, 2], Gen.Long[-2, 12], Gen.Long[-2, 30]).Sample(
            (all, rank, shortCpus, shortMemory) =>
            {
                var there = all.Select((vm, at) => new Preemptible($"vm-{at}", vm.Item1, new(vm.Item2, vm.Item3))).ToList();
                var chosen = Preemption.Choose(there, rank, new(shortCpus, shortMemory));
                var sets = Enumerable.Range(0, 1 << there.Count)
                    .Select(bits => there.Where((_, at) => (bits >> at & 1) == 1).ToList())
                    .Where(set => set.All(vm => vm.Rank < rank) && Enough(set, shortCpus, shortMemory))
                    .ToList();
                if (sets.Count == 0)
                {
                    Assert.Null(chosen);
                    return;
                }
                Assert.NotNull(chosen);
                Assert.Equal(chosen.Count, chosen.Select(vm => vm.VmId).Distinct().Count());
                Assert.All(chosen, vm => Assert.Contains(vm, there));
                Assert.True(Enough(chosen, shortCpus, shortMemory));
                var highest = sets.Min(set => set.Count == 0 ? -1 : set.Max(vm => vm.Rank));
                Assert.True(chosen.All(vm => vm.Rank <= highest), "a lower class would have done");
                Assert.Equal(sets.Where(set => set.All(vm => vm.Rank <= highest)).Min(set => set.Count), chosen.Count);
            },
            iter: 3000);
    }

    /// <summary>Where disk, network or disk operations are short: enough, none of them in vain, and nobody only when all that are lower are not enough or too many would have to.</summary>
    [Fact]
    public void Should_find_enough_where_other_resources_are_short()
    {
        var one = Gen.Select(Gen.Int[0, 2], Gen.Long[1, 4], Gen.Long[0, 8], Gen.Long[0, 8], Gen.Long[0, 8]);
        Gen.Select(one.Array[0, 9], Gen.Int[0, 2], Gen.Long[-2, 6], Gen.Long[1, 20], Gen.Long[-2, 20], Gen.Long[-2, 20]).Sample(
            (all, rank, cpus, disk, network, iops) =>
            {
                var there = all.Select((vm, at) => new Preemptible($"vm-{at}", vm.Item1, new(vm.Item2, 1, vm.Item3, vm.Item4, vm.Item5))).ToList();
                var missing = new Resources(cpus, 0, disk, network, iops);
                var chosen = Preemption.Choose(there, rank, missing);
                Resources Sum(IEnumerable<Preemptible> set) => set.Aggregate(default(Resources), (sum, vm) => sum + vm.Gives);
                bool Enough(IEnumerable<Preemptible> set) => missing.FitsIn(Sum(set));
                Assert.Equal(Enough(there.Where(vm => vm.Rank < rank)), chosen is not null);
                if (chosen is null)
                    return;
                Assert.True(Enough(chosen));
                Assert.All(chosen, vm => Assert.False(Enough(chosen.Where(other => other != vm))));
                var highest = chosen.Max(vm => vm.Rank);
                Assert.False(Enough(there.Where(vm => vm.Rank < Math.Min(rank, highest))), "a lower class would have done");
            },
            iter: 3000);
        var crowd = Enumerable.Range(0, 100).Select(at => new Preemptible($"vm-{at}", 0, new(1, 1, 1))).ToList();
        Assert.Equal(Preemption.Most, Preemption.Choose(crowd, 1, new(0, 0, Preemption.Most))!.Count);
        Assert.Null(Preemption.Choose(crowd, 1, new(0, 0, Preemption.Most + 1)));
    }

    /// <summary>Where what is predicted falls by less than the limits: enough by both, none in vain, of classes no higher than need be; and as few as any where one prediction alone is short.</summary>
    [Fact]
    public void Should_find_enough_where_less_is_freed_than_the_limits()
    {
        var one = Gen.Select(Gen.Int[0, 2], Gen.Long[1, 4], Gen.Long[1, 8], Gen.Int[1, 4], Gen.Int[1, 4]);
        Gen.Select(one.Array[0, 9], Gen.Int[0, 2], Gen.Long[-2, 8], Gen.Long[-2, 12], Gen.Int[-4, 24].Select(quarters => quarters / 4.0), Gen.Int[-4, 48].Select(quarters => quarters / 4.0), Gen.Bool).Sample(
            (all, rank, shortCpus, shortMemory, peakCpus, peakMemory, alone) =>
            {
                if (alone)
                    (shortCpus, shortMemory, peakMemory) = (0, 0, 0);
                var there = all.Select((vm, at) => new Preemptible($"vm-{at}", vm.Item1, new(vm.Item2, vm.Item3)) { Frees = new(vm.Item2 * vm.Item4 / 4.0, vm.Item3 * vm.Item5 / 4.0) }).ToList();
                bool IsEnough(IReadOnlyCollection<Preemptible> set) => Enough(set, shortCpus, shortMemory)
                    && set.Sum(vm => vm.Frees.Cpus) >= peakCpus && set.Sum(vm => vm.Frees.MemoryMib) >= peakMemory;
                var chosen = Preemption.Choose(there, rank, new(shortCpus, shortMemory), new(peakCpus, peakMemory));
                Assert.Equal(IsEnough([.. there.Where(vm => vm.Rank < rank)]), chosen is not null);
                if (chosen is null)
                    return;
                Assert.True(IsEnough(chosen));
                Assert.Equal(chosen.Count, chosen.Select(vm => vm.VmId).Distinct().Count());
                Assert.All(chosen, vm => Assert.False(IsEnough([.. chosen.Where(other => other != vm)])));
                if (chosen.Count == 0)
                    return;
                var highest = chosen.Max(vm => vm.Rank);
                Assert.False(IsEnough([.. there.Where(vm => vm.Rank < highest)]), "a lower class would have done");
                var lower = there.Where(vm => vm.Rank <= highest).ToList();
                if (alone)
                    Assert.Equal(Enumerable.Range(0, 1 << lower.Count).Select(bits => lower.Where((_, at) => (bits >> at & 1) == 1).ToList()).Where(IsEnough).Min(set => set.Count), chosen.Count);
            },
            iter: 3000);
        var crowd = Enumerable.Range(0, 100).Select(at => new Preemptible($"vm-{at:d2}", 0, new(4, 1)) { Frees = new(0.25, 1) }).ToList();
        Assert.Equal(Preemption.Most, Preemption.Choose(crowd, 1, default, new(0.25 * Preemption.Most, 0))!.Count);
        Assert.Null(Preemption.Choose(crowd, 1, default, new((0.25 * Preemption.Most) + 0.1, 0)));
        // Of those that free enough the smallest goes.
        Preemptible[] sizes = [new("large", 0, new(8, 512)) { Frees = new(4, 512) }, new("right", 0, new(4, 256)) { Frees = new(2, 256) }, new("idle", 0, new(8, 64)) { Frees = new(1, 64) }];
        Assert.Equal(["right"], Preemption.Choose(sizes, 1, default, new(2, 0))!.Select(vm => vm.VmId));
    }

    [Fact]
    public void Should_take_the_one_that_is_little_more_than_is_short()
    {
        Preemptible[] there = [new("huge", 0, new(8, 65536)), new("small", 0, new(1, 64)), new("right", 0, new(2, 300)), new("own", 1, new(2, 256))];
        Assert.Equal(["right"], Preemption.Choose(there, 1, new(2, 256))!.Select(vm => vm.VmId));
        Assert.Null(Preemption.Choose(there, 0, new(1, 1)));
        Assert.Empty(Preemption.Choose(there, 0, default)!);
    }

    [Fact]
    public void Should_not_send_away_a_crowd_and_not_reckon_long_over_a_full_host()
    {
        var crowd = Enumerable.Range(0, 4096).Select(at => new Preemptible($"vm-{at}", 0, new(1, 64))).ToList();
        Assert.Equal(Preemption.Most, Preemption.Choose(crowd, 1, new(Preemption.Most, 1))!.Count);
        Assert.Null(Preemption.Choose(crowd, 1, new(Preemption.Most + 1, 1)));
        Assert.Null(Preemption.Choose(crowd, 1, new(long.MaxValue / 2, 1)));
    }

    [Fact]
    public void Should_find_the_hosts_where_the_lowest_have_to_give_way()
    {
        HostView Full(string id, params ClassRoom[] rooms) => new()
        {
            HostId = id, Connected = true, Version = 1, CpuRatio = 1, MemoryRatio = 1, ReservedCpus = 8, ReservedMemoryMib = 8192, Preemptible = { rooms },
            Inventory = new Inventory { Cpus = 8, MemoryMib = 8192, AutoDriver = "kvm", Drivers = { new DriverStatus { Name = "kvm", Usable = true, StockKernels = true } } },
        };
        ClassRoom Room(uint rank, ulong cpus) => new() { Rank = rank, Vms = 1, Cpus = cpus, MemoryMib = 4096 };

        var index = new HostIndex();
        foreach (var view in new[] { Full("normals", Room(1, 4)), Full("both", Room(0, 1), Room(1, 4)), Full("lows", Room(0, 4)), Full("highs", Room(2, 8)), Full("little", Room(0, 1)) })
            index.Update(view, TimeSpan.Zero);
        var spec = new VmSpec { Cpus = 2, MemoryMib = 512, Priority = "high" };
        IReadOnlyList<string> Asked() => index.Find(Demand.Of(spec), new HashSet<string>(), "vm-1", "", TimeSpan.Zero, preempt: true).Hosts;
        Assert.Equal(["lows", "both", "normals"], Asked());
        Assert.True(index.Review(spec, new Dictionary<string, string>()) is { Preempts: true, Fitting: 3, Reason: null });
        spec.Priority = "";
        Assert.Equal(["lows"], Asked());
        spec.Priority = "low";
        Assert.Empty(Asked());
        Assert.Equal("no_capacity", index.Review(spec, new Dictionary<string, string>()).Reason!.Code);
        spec.Priority = "high";
        spec.Zones.Add("nowhere");
        Assert.Empty(Asked());
    }

    /// <summary>Against a look at every host, over hosts that come, change, close and go: nobody who could give way is missed, and nobody of a higher class than need be is asked.</summary>
    [Fact]
    public void Should_find_what_a_look_at_every_host_finds() =>
        Gen.Select(Gen.Int[0, 19], Gen.Int[0, 7], Gen.UInt[0, 8], Gen.Select(Gen.UInt[0, 5], Gen.ULong[0, 9000]).Array[3], Gen.Select(Gen.UInt[1, 12], Gen.ULong[1, 20_000], Gen.Int[1, 2])).Array[0, 120].Sample(
            steps =>
            {
                var index = new HostIndex();
                var hosts = new SortedDictionary<string, HostView>(StringComparer.Ordinal);
                var version = 0UL;
                foreach (var (number, what, free, rooms, (cpus, memoryMib, rank)) in steps)
                {
                    var id = $"host-{number:d2}";
                    var view = new HostView
                    {
                        HostId = id, Version = ++version, CpuRatio = 1, MemoryRatio = 1, Connected = what != 0, Cordoned = what == 1, Removed = what == 2,
                        ReservedCpus = 8 - free, ReservedMemoryMib = 8192 - (512 * free),
                        Inventory = new Inventory { Cpus = 8, MemoryMib = 8192, AutoDriver = "kvm", Drivers = { new DriverStatus { Name = "kvm", Usable = true, StockKernels = true } } },
                        Preemptible = { rooms.Select((room, at) => new ClassRoom { Rank = (uint)at, Vms = 1, Cpus = room.Item1, MemoryMib = room.Item2 }).Where(room => room.Cpus > 0) },
                    };
                    index.Update(view, TimeSpan.Zero);
                    if (view.Removed)
                        hosts.Remove(id);
                    else
                        hosts[id] = view;

                    var demand = new Demand(cpus, memoryMib, "kvm", false, "") { Rank = rank };
                    var able = hosts.Values.Where(one => one is { Connected: true, Cordoned: false }).Select(one => (Rank: Least(one, demand), Missing: Missing(one, demand), one.HostId)).Where(one => one.Rank is not null)
                        .OrderBy(one => one.Rank).ThenBy(one => one.Missing).ThenBy(one => one.HostId, StringComparer.Ordinal).Select(one => one.HostId).ToList();
                    Assert.Equal(able.Take(PlacementEngine.Candidates), index.Find(demand, new HashSet<string>(), "vm", "", TimeSpan.Zero, preempt: true).Hosts);
                    Assert.Equal(able.Skip(1).Take(PlacementEngine.Candidates), index.Find(demand, able.Take(1).ToHashSet(), "vm", "", TimeSpan.Zero, preempt: true).Hosts);
                }

                static int? Least(HostView view, Demand demand)
                {
                    for (var rank = 0; rank < demand.Rank; rank++)
                    {
                        var lower = view.Preemptible.Where(room => room.Rank <= rank).ToList();
                        if (lower.Any(room => room.Rank == rank) && view.Inventory.Cpus - view.ReservedCpus + (ulong)lower.Sum(room => (long)room.Cpus) >= demand.Cpus
                            && view.Inventory.MemoryMib - view.ReservedMemoryMib + (ulong)lower.Sum(room => (long)room.MemoryMib) >= demand.MemoryMib)
                            return rank;
                    }
                    return null;
                }

                static double Missing(HostView view, Demand demand) => Math.Max(
                    (demand.Cpus - ((double)view.Inventory.Cpus - view.ReservedCpus)) / 8, (demand.MemoryMib - ((double)view.Inventory.MemoryMib - view.ReservedMemoryMib)) / 8192);
            },
            iter: 300);

    private static bool Enough(IReadOnlyCollection<Preemptible> set, long shortCpus, long shortMemory) =>
        set.Sum(vm => vm.Gives.Cpus) >= shortCpus && set.Sum(vm => vm.Gives.MemoryMib) >= shortMemory;
}
