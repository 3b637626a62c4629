using CsCheck;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;
using Xunit;

namespace Fleet.Scheduler.Tests.Hosts;

public sealed class CapacityLedgerTests
{
    private static readonly Inventory Host = new() { Cpus = 4, MemoryMib = 4096 };
    private static readonly CapacityCaps Caps = new(CpuRatio: 4.0, MemoryRatio: 1.0);

    private static Demand Wanting(uint cpus, ulong memoryMib) => new(cpus, memoryMib, Demand.AutoDriver, OwnKernel: false, Host: "");

    [Fact]
    public void Should_never_promise_more_than_its_caps_nor_lose_count()
    {
        // Each step: which microVM, what happens to it, how large it would be.
        Gen.Select(Gen.Int[0, 9], Gen.Int[0, 2], Gen.UInt[1, 8], Gen.ULong[1, 2048]).Array[0, 200].Sample(
            steps =>
            {
                var ledger = new CapacityLedger();
                HostRecord record = HostFold.Apply(null, new HostConnected { Id = "a", Inventory = Host });
                var model = new Dictionary<string, (uint Cpus, ulong Memory, bool Vacated)>();
                foreach (var (vm, what, cpus, memory) in steps)
                {
                    var id = $"vm-{vm}";
                    if (Step(id, what, cpus, memory, ledger, model) is not { } stored)
                        continue;
                    ledger.Apply(stored);
                    record = HostFold.Apply(record, stored);
                    var promised = model.Values.Where(held => !held.Vacated).ToList();
                    Assert.Equal((ulong)promised.Sum(held => held.Cpus), ledger.ReservedCpus);
                    Assert.Equal((ulong)promised.Sum(held => (long)held.Memory), ledger.ReservedMemoryMib);
                    Assert.Equal((record.ReservedCpus, record.ReservedMemoryMib, (int)record.Vms), ((uint)ledger.ReservedCpus, ledger.ReservedMemoryMib, promised.Count));
                    Assert.InRange(ledger.ReservedCpus, 0UL, 16UL);
                    Assert.InRange(ledger.ReservedMemoryMib, 0UL, 4096UL);
                    Assert.Equal(model.Count, ledger.Reservations.Count);
                }
            },
            iter: 1000);
    }

    [Fact]
    public void Should_keep_a_group_apart_also_within_one_write_and_not_from_its_own_past()
    {
        Demand Web(int most = 0) => Wanting(1, 128) with
        {
            Groups = ["acme/web"],
            Rules = new PlacementRules { Groups = [new("acme/web", RuleScope.Host, Apart: true, Hard: true) { Most = most }] },
        };
        HostReserved Reserved(string id, ulong epoch) => new() { VmId = id, Epoch = epoch, Cpus = 1, MemoryMib = 128, Groups = { "acme/web" } };

        var ledger = new CapacityLedger();
        Assert.False(ledger.KeepsOut(Web(), "vm-1", default));
        Assert.True(ledger.KeepsOut(Web(), "vm-2", new Promised().And(Web())));
        Assert.False(ledger.KeepsOut(Web(most: 1), "vm-2", new Promised().And(Web())));
        ledger.Apply(Reserved("vm-1", 1));
        Assert.Equal(1, ledger.Groups["acme/web"]);
        Assert.False(ledger.KeepsOut(Web(), "vm-1", default));
        Assert.True(ledger.KeepsOut(Web(), "vm-2", default));
        Assert.True(ledger.KeepsOut(Web(most: 1), "vm-2", new Promised().And(Web())));
        Assert.False(ledger.KeepsOut(Wanting(1, 128), "vm-2", default));
        ledger.Apply(new HostVacated { VmId = "vm-1", Epoch = 1, Cpus = 1, MemoryMib = 128 });
        Assert.Empty(ledger.Groups);
        Assert.False(ledger.KeepsOut(Web(), "vm-2", default));
        ledger.Apply(new HostReleased { VmId = "vm-1", Epoch = 1 });
        ledger.Apply(Reserved("vm-2", 1));
        ledger.Apply(new HostLost());
        Assert.Empty(ledger.Groups);
    }

    [Fact]
    public void Should_keep_apart_from_one_other_that_is_here()
    {
        var demand = Wanting(1, 128) with { Rules = new PlacementRules { Neighbours = [new("vm-1", RuleScope.Host, Apart: true, Hard: true)] } };
        var ledger = new CapacityLedger();
        Assert.False(ledger.KeepsOut(demand, "vm-2", default));
        ledger.Apply(new HostReserved { VmId = "vm-1", Epoch = 1, Cpus = 1, MemoryMib = 128 });
        Assert.True(ledger.KeepsOut(demand, "vm-2", default));
        Assert.False(ledger.KeepsOut(demand, "vm-1", default));
        ledger.Apply(new HostVacated { VmId = "vm-1", Epoch = 1, Cpus = 1, MemoryMib = 128 });
        Assert.False(ledger.KeepsOut(demand, "vm-2", default));
    }

    /// <summary>Long random histories in which those of higher classes take the room of lower ones: nothing is promised beyond the caps, and only who may gives way.</summary>
    [Fact]
    public void Should_keep_its_sums_and_caps_when_some_give_way()
    {
        Gen.Select(Gen.Int[0, 29], Gen.Int[0, 3], Gen.UInt[1, 8], Gen.ULong[1, 2048], Gen.Int[0, 2], Gen.Bool).Array[0, 200].Sample(
            steps =>
            {
                var ledger = new CapacityLedger();
                var record = HostFold.Apply(null, new HostConnected { Id = "a", Inventory = Host });
                void Apply(IMessage stored)
                {
                    ledger.Apply(stored);
                    record = HostFold.Apply(record, stored);
                }

                foreach (var (vm, what, cpus, memory, rank, settled) in steps)
                {
                    var id = $"vm-{vm}";
                    var demand = Wanting(cpus, memory) with { Rank = rank };
                    var known = ledger.Find(id, 1);
                    if (known is not null && what == 0 && !known.Vacated)
                    {
                        Apply(new HostVacated { VmId = id, Epoch = 1, Cpus = known.Holds ? known.Cpus : 0, MemoryMib = known.Holds ? known.MemoryMib : 0 });
                    }
                    else if (known is not null && what == 1)
                    {
                        Apply(new HostReleased { VmId = id, Epoch = 1, WasReserved = !known.Vacated, Cpus = known.Holds ? known.Cpus : 0, MemoryMib = known.Holds ? known.MemoryMib : 0 });
                    }
                    else if (known is null)
                    {
                        if (ledger.Check(demand, Host, Caps) is not null)
                        {
                            if (ledger.Preempt(demand, id, Host, Caps, null) is not { } giving)
                                continue;
                            Assert.All(giving, held => Assert.True(held is { Holds: true, Settled: false } && held.Rank < rank));
                            Assert.InRange(giving.Count, 1, Preemption.Most);
                            foreach (var held in giving)
                                Apply(new HostPreempted { VmId = held.VmId, Epoch = 1, Cpus = held.Cpus, MemoryMib = held.MemoryMib, ForVmId = id, ForEpoch = 1 });
                            Assert.Null(ledger.Check(demand, Host, Caps));
                        }
                        Apply(new HostReserved { VmId = id, Epoch = 1, Cpus = cpus, MemoryMib = memory, Priority = PriorityClass.Name(rank), Settled = settled && what == 3 });
                    }
                    var holds = ledger.Reservations.Where(held => held.Holds).ToList();
                    Assert.Equal(((ulong)holds.Sum(held => held.Cpus), (ulong)holds.Sum(held => (long)held.MemoryMib)), (ledger.ReservedCpus, ledger.ReservedMemoryMib));
                    Assert.Equal((record.ReservedCpus, record.ReservedMemoryMib, (int)record.Vms), ((uint)ledger.ReservedCpus, ledger.ReservedMemoryMib, ledger.Reservations.Count(held => !held.Vacated)));
                    Assert.InRange(ledger.ReservedCpus, 0UL, 16UL);
                    Assert.InRange(ledger.ReservedMemoryMib, 0UL, 4096UL);
                    Assert.Equal(
                        holds.Where(held => !held.Settled).GroupBy(held => held.Rank).OrderBy(kind => kind.Key).Select(kind => ((uint)kind.Key, (uint)kind.Count(), (ulong)kind.Sum(held => held.Cpus))),
                        ledger.Preemptible.Select(room => (room.Rank, room.Vms, room.Cpus)));
                }
            },
            iter: 1000);
    }

    [Fact]
    public void Should_hand_on_whom_they_give_way_to()
    {
        var ledger = new CapacityLedger();
        foreach (var (id, priority) in new[] { ("a", "low"), ("b", "normal"), ("c", "high") })
        {
            if (id != "a")
                ledger.Apply(new HostPreempted { VmId = id == "b" ? "a" : "b", Epoch = 1, Cpus = 16, MemoryMib = 128, ForVmId = id, ForEpoch = 1 });
            ledger.Apply(new HostReserved { VmId = id, Epoch = 1, Cpus = 16, MemoryMib = 128, Priority = priority });
        }
        Assert.Equal(("c", 1UL), ledger.Find("a", 1)!.GivesWayTo);
        Assert.Equal(("c", 1UL), ledger.Find("b", 1)!.GivesWayTo);
        Assert.Equal(16UL, ledger.ReservedCpus);
    }

    /// <summary>The late yes to an earlier search may stand beside the newer one until somebody is asked about it.</summary>
    [Fact]
    public void Should_have_a_microvm_give_way_once_that_holds_room_twice()
    {
        var ledger = new CapacityLedger();
        foreach (var epoch in new ulong[] { 1, 2 })
            ledger.Apply(new HostReserved { VmId = "a", Epoch = epoch, Cpus = 8, MemoryMib = 128, Priority = "low" });
        Assert.Null(ledger.Preempt(Wanting(16, 128) with { Rank = PriorityClass.Rank("high") }, "b", Host, Caps, null));
        var giving = ledger.Preempt(Wanting(8, 128) with { Rank = PriorityClass.Rank("high") }, "b", Host, Caps, null)!;
        Assert.Equal(("a", 2UL), Assert.Single(giving.Select(held => (held.VmId, held.Epoch))));
    }

    /// <summary>What is decided together must come to the same as one after the other.</summary>
    [Fact]
    public void Should_say_the_same_of_what_is_about_to_be_promised_as_of_what_is()
    {
        Gen.Select(Gen.UInt[1, 8], Gen.ULong[1, 2048]).Array[0, 20].Sample(
            wanted =>
            {
                var ledger = new CapacityLedger();
                var empty = new CapacityLedger();
                var promised = new Promised();
                for (var at = 0; at < wanted.Length; at++)
                {
                    var demand = Wanting(wanted[at].Item1, wanted[at].Item2);
                    var one = ledger.Check(demand, Host, Caps);
                    Assert.Equal(one, empty.Check(demand, Host, Caps, also: promised));
                    if (one is not null)
                        continue;
                    ledger.Apply(new HostReserved { VmId = $"vm-{at}", Epoch = 1, Cpus = demand.Cpus, MemoryMib = demand.MemoryMib });
                    promised = promised.And(demand);
                }
            },
            iter: 1000);
    }

    [Fact]
    public void Should_know_the_newest_epoch_of_each()
    {
        Gen.Select(Gen.Int[0, 2], Gen.ULong[1, 4], Gen.Bool).Array[0, 60].Sample(
            steps =>
            {
                var ledger = new CapacityLedger();
                var model = new HashSet<(int Vm, ulong Epoch)>();
                foreach (var (vm, epoch, comes) in steps)
                {
                    if (comes && model.Add((vm, epoch)))
                        ledger.Apply(new HostReserved { VmId = $"vm-{vm}", Epoch = epoch, Cpus = 1, MemoryMib = 1 });
                    else if (!comes && model.Remove((vm, epoch)))
                        ledger.Apply(new HostReleased { VmId = $"vm-{vm}", Epoch = epoch });
                    for (var each = 0; each < 3; each++)
                    {
                        Assert.Equal(model.Where(held => held.Vm == each).Select(held => held.Epoch).DefaultIfEmpty().Max(), ledger.NewestEpoch($"vm-{each}"));
                        Assert.Equal(
                            model.Where(held => held.Vm == each && held.Epoch < ledger.NewestEpoch($"vm-{each}") + 1).Select(held => held.Epoch).Order(),
                            ledger.OlderThan($"vm-{each}", ledger.NewestEpoch($"vm-{each}") + 1).Select(held => held.Epoch).Order());
                        Assert.DoesNotContain(ledger.OlderThan($"vm-{each}", ledger.NewestEpoch($"vm-{each}")), held => held.Epoch == ledger.NewestEpoch($"vm-{each}"));
                    }
                }
            },
            iter: 1000);
    }

    private static IMessage? Step(
        string id, int what, uint cpus, ulong memory, CapacityLedger ledger, Dictionary<string, (uint Cpus, ulong Memory, bool Vacated)> model)
    {
        switch (what)
        {
            case 0 when !model.ContainsKey(id) && ledger.Check(Wanting(cpus, memory), Host, Caps) is null:
                model[id] = (cpus, memory, false);
                return new HostReserved { VmId = id, Epoch = 1, Cpus = cpus, MemoryMib = memory };
            case 1 when model.TryGetValue(id, out var held) && !held.Vacated:
                model[id] = held with { Vacated = true };
                return new HostVacated { VmId = id, Epoch = 1, Cpus = held.Cpus, MemoryMib = held.Memory };
            case 2 when model.Remove(id, out var gone):
                return new HostReleased { VmId = id, Epoch = 1, WasReserved = !gone.Vacated, Cpus = gone.Cpus, MemoryMib = gone.Memory };
            default:
                return null;
        }
    }

    [Fact]
    public void Should_fill_to_the_last_unit_and_then_say_what_is_short()
    {
        var ledger = new CapacityLedger();
        Assert.Null(ledger.Check(Wanting(16, 4096), Host, Caps));
        ledger.Apply(new HostReserved { VmId = "vm-1", Epoch = 1, Cpus = 15, MemoryMib = 4000 });
        Assert.Null(ledger.Check(Wanting(1, 96), Host, Caps));
        Assert.Equal(new Rejection { Reason = "cpus", Hosts = 1, Wanted = 2, MostFree = 1 }, ledger.Check(Wanting(2, 1), Host, Caps));
        Assert.Equal(new Rejection { Reason = "memory", Hosts = 1, Wanted = 97, MostFree = 96 }, ledger.Check(Wanting(1, 97), Host, Caps));
    }

    [Fact]
    public void Should_have_nothing_free_when_the_host_came_back_smaller()
    {
        var ledger = new CapacityLedger();
        ledger.Apply(new HostReserved { VmId = "vm-1", Epoch = 1, Cpus = 8, MemoryMib = 4000 });
        var smaller = new Inventory { Cpus = 1, MemoryMib = 1024 };
        Assert.Equal(0UL, ledger.Check(Wanting(1, 1), smaller, Caps)?.MostFree);
    }

    [Fact]
    public void Should_refuse_events_that_do_not_add_up()
    {
        var ledger = new CapacityLedger();
        ledger.Apply(new HostReserved { VmId = "vm-1", Epoch = 1, Cpus = 1, MemoryMib = 1 });
        Assert.Throws<InvalidOperationException>(() => ledger.Apply(new HostReserved { VmId = "vm-1", Epoch = 1 }));
        Assert.Throws<InvalidOperationException>(() => ledger.Apply(new HostVacated { VmId = "vm-1", Epoch = 2 }));

        // But a release of what is not held gives nothing back: a stored one must never keep a host from coming back.
        ledger.Apply(new HostReleased { VmId = "vm-1", Epoch = 2 });
        Assert.Equal(1UL, ledger.ReservedCpus);
    }

    /// <summary>The agent would refuse one more, and the microVM would have failed instead of going elsewhere.</summary>
    [Fact]
    public void Should_be_full_when_its_agent_takes_no_more_microVMs_ended_ones_included()
    {
        var ledger = new CapacityLedger();
        var inventory = new Inventory { Cpus = 1, MemoryMib = 1024 };
        for (var i = 0; i < VmLimits.MaxVmsPerHost; i++)
        {
            Assert.Null(ledger.Check(new Demand(1, 32, "auto", false, ""), inventory, new CapacityCaps(1, 1)));
            ledger.Add(new Reservation($"vm-{i}", 1, 1, 32, Vacated: true));
        }
        Assert.Equal(RejectionReason.MicroVms, ledger.Check(new Demand(1, 32, "auto", false, ""), inventory, new CapacityCaps(1, 1))?.Reason);
        ledger.Apply(new HostReleased { VmId = "vm-7", Epoch = 1 });
        Assert.Null(ledger.Check(new Demand(1, 32, "auto", false, ""), inventory, new CapacityCaps(1, 1)));
    }
}
