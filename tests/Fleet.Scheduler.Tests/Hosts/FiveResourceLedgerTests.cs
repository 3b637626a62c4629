using CsCheck;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;
using Xunit;

namespace Fleet.Scheduler.Tests.Hosts;

/// <summary>The ledger with all five resources, and with volumes, which stay on the disk when their microVM goes.</summary>
public sealed class FiveResourceLedgerTests
{
    private static readonly Inventory Host = new() { Cpus = 4, MemoryMib = 4096, DiskMib = 1000, NetworkMbit = 100, Iops = 50 };
    private static readonly CapacityCaps Caps = new(4, 1) { DiskRatio = 1.5, NetworkRatio = 2, IopsRatio = 1 };
    private static readonly Resources Cap = new(16, 4096, 1500, 200, 50);

    private static VmSpec Spec(Resources needs, string priority = "", params (string Name, ulong SizeMib)[] volumes)
    {
        var spec = new VmSpec
        {
            Cpus = (uint)needs.Cpus, MemoryMib = (uint)needs.MemoryMib, DiskMib = (ulong)needs.DiskMib, NetworkMbit = (uint)needs.NetworkMbit, Iops = (ulong)needs.Iops, Priority = priority,
        };
        spec.Volumes.AddRange(volumes.Select(volume => new VolumeMount { Name = volume.Name, SizeMib = volume.SizeMib }));
        return spec;
    }

    private static HostReserved Reserved(string id, Demand demand) => new()
    {
        VmId = id, Epoch = 1, Cpus = demand.Cpus, MemoryMib = demand.MemoryMib, Other = demand.Own.Other, Priority = PriorityClass.Name(demand.Rank),
        Volumes = { demand.Volumes.Select(volume => volume.Key) }, VolumeMib = { demand.Volumes.Select(volume => (ulong)volume.SizeMib) },
    };

    /// <summary>
    /// Long random histories: microVMs of all sizes come, give way, end and go; some have a volume, which the agent tells of from then on until it is removed. The sums are those of
    /// who is there, by ledger, by fold and by what others are told, and no cap is ever passed.
    /// </summary>
    [Fact]
    public void Should_keep_its_sums_and_caps_over_long_histories()
    {
        var needs = Gen.Select(Gen.Long[1, 6], Gen.Long[32, 1500], Gen.Long[0, 600], Gen.Long[0, 90], Gen.Long[0, 25], (cpus, memory, disk, network, iops) => new Resources(cpus, memory, disk, network, iops));
        var preempted = 0;
        Gen.Select(Gen.Int[0, 11], Gen.Int[0, 4], needs, Gen.Int[0, 2], Gen.Int[0, 5]).Array[0, 150].Sample(
            steps =>
            {
                var ledger = new CapacityLedger();
                var record = HostFold.Apply(null, new HostConnected { Id = "a", Inventory = Host });
                var there = new Dictionary<string, ulong>(StringComparer.Ordinal);
                void Apply(IMessage stored)
                {
                    ledger.Apply(stored);
                    record = HostFold.Apply(record, stored);
                }

                foreach (var (vm, what, size, rank, volume) in steps)
                {
                    var id = $"vm-{vm}";
                    var known = ledger.Find(id, 1);
                    // An agent tells of a volume before it tells that its microVM ran or ended.
                    if (known is { Vacated: false, Volumes.Length: > 0 } && what is 0 or 1)
                        Tell();
                    if (known is { Vacated: false } && what == 0)
                        Apply(new HostVacated { VmId = id, Epoch = 1, Cpus = (uint)known.Held.Cpus, MemoryMib = (ulong)known.Held.MemoryMib, Other = known.Held.Other });
                    else if (known is not null && what == 1)
                        Apply(new HostReleased { VmId = id, Epoch = 1, WasReserved = !known.Vacated, Cpus = (uint)known.Held.Cpus, MemoryMib = (ulong)known.Held.MemoryMib, Other = known.Held.Other });
                    else if (what == 2 && ledger.VolumeHolder($"/v{volume}", "") is null && there.Remove($"v{volume}"))
                        Tell();
                    else if (known is null)
                        Admit(id, Spec(size, PriorityClass.Name(rank), volume < 4 ? [($"v{volume}", 100)] : []));
                    Check();
                }

                void Admit(string id, VmSpec spec)
                {
                    var key = spec.Volumes.Count > 0 ? $"/{spec.Volumes[0].Name}" : "";
                    if (key.Length > 0 && ledger.VolumeHolder(key, id) is not null)
                        return;
                    var demand = Demand.Of(spec);
                    if (ledger.Check(demand, Host, Caps) is { } rejection)
                    {
                        Assert.True(rejection.Wanted > rejection.MostFree);
                        if (ledger.Preempt(demand, id, Host, Caps, null) is not { } giving)
                            return;
                        Assert.All(giving, held => Assert.True(held.Holds && held.Rank < demand.Rank));
                        foreach (var held in giving)
                            Apply(new HostPreempted { VmId = held.VmId, Epoch = 1, Cpus = held.Cpus, MemoryMib = held.MemoryMib, Other = held.Needs.Other, ForVmId = id, ForEpoch = 1 });
                        Assert.Null(ledger.Check(demand, Host, Caps));
                        preempted++;
                    }
                    Apply(Reserved(id, demand));
                    // Its agent makes the volume, and says so at once or later.
                    if (key.Length == 0)
                        return;
                    there[spec.Volumes[0].Name] = 100;
                    if (spec.Iops % 2 == 0)
                        Tell();
                }

                void Tell() => ledger.Have(there.Select(volume => new HeldVolume { Name = volume.Key, SizeMib = volume.Value }));

                void Check()
                {
                    var held = ledger.Reservations.Where(one => one.Holds).Aggregate(default(Resources), (sum, one) => sum + one.Needs);
                    Assert.Equal(held, ledger.Reserved);
                    Assert.Equal(held, Resources.Of(record.ReservedCpus, record.ReservedMemoryMib, record.ReservedOther));
                    var taken = held + new Resources(0, 0, ledger.VolumesMib);
                    Assert.True(taken.FitsIn(Cap), $"{taken} of {Cap}");
                    Assert.Equal(Cap - taken, ledger.Free(Host, Caps));
                    var volumes = ledger.Reservations.Where(one => !one.Vacated).SelectMany(one => one.Volumes).Select(one => one.Key).Union(there.Keys.Select(name => $"/{name}"));
                    Assert.Equal(100 * volumes.Count(), ledger.VolumesMib);
                    Assert.Equal(
                        ledger.Reservations.Where(one => one.Holds).GroupBy(one => one.Rank).OrderBy(kind => kind.Key).Select(kind => kind.Aggregate(default(Resources), (sum, one) => sum + one.Needs)),
                        ledger.Preemptible.Select(room => Resources.Of(room.Cpus, room.MemoryMib, room.Other)));
                }
            },
            iter: 1000);
        Assert.True(preempted > 100, $"Only {preempted} made others give way.");
    }

    [Fact]
    public void Should_refuse_each_resource_with_its_numbers_and_limit_none_that_the_host_does_not_tell_of()
    {
        var ledger = new CapacityLedger();
        ledger.Apply(Reserved("vm-1", Demand.Of(Spec(new(1, 128, 1400, 190, 45)))));
        (Resources Needs, string Reason, ulong Wanted, ulong Free)[] wanted =
        [
            (new(1, 128, 101), RejectionReason.Disk, 101, 100),
            (new(1, 128, 0, 11), RejectionReason.Network, 11, 10),
            (new(1, 128, 0, 0, 6), RejectionReason.Iops, 6, 5),
        ];
        foreach (var (needs, reason, much, free) in wanted)
        {
            Assert.Equal(new Rejection { Reason = reason, Hosts = 1, Wanted = much, MostFree = free }, ledger.Check(Demand.Of(Spec(needs)), Host, Caps));
            Assert.Null(ledger.Check(Demand.Of(Spec(needs)), new Inventory { Cpus = 4, MemoryMib = 4096 }, Caps));
        }
        Assert.Null(ledger.Check(Demand.Of(Spec(new(1, 128, 100, 10, 5))), Host, Caps));
    }

    /// <summary>The same volume is named by several, of another size each, while the agent tells of volumes that are made, grow and are removed.</summary>
    [Fact]
    public void Should_count_volumes_as_adding_them_all_up_does()
    {
        var vms = Gen.Select(Gen.Int[0, 5], Gen.Int[0, 3], Gen.Int[0, 3], Gen.Long[0, 300], Gen.Long[0, 300]);
        vms.Array[0, 100].Sample(
            steps =>
            {
                var ledger = new CapacityLedger();
                Dictionary<string, long> there = new(StringComparer.Ordinal), told = new(StringComparer.Ordinal);
                // By the last who came for it.
                var sizes = new Dictionary<string, long>(StringComparer.Ordinal);
                foreach (var (vm, what, volume, size, other) in steps)
                {
                    var (id, name, second) = ($"vm-{vm}", $"v{volume}", $"v{volume + 1}");
                    var known = ledger.Find(id, 1);
                    if (known is null && what < 2)
                    {
                        ledger.Apply(Reserved(id, Demand.Of(Spec(new(1, 32), "", (name, (ulong)size), (second, (ulong)other)))));
                        (sizes[$"/{name}"], sizes[$"/{second}"]) = (size, other);
                    }
                    else if (known is not null && what == 0)
                        ledger.Apply(new HostReleased { VmId = id, Epoch = 1, WasReserved = !known.Vacated });
                    else if (known is { Vacated: false } && what == 1)
                        ledger.Apply(new HostVacated { VmId = id, Epoch = 1 });
                    else if (what == 2 && size == 0)
                        ledger.Apply(new HostLost());
                    else if (what == 2)
                        there[name] = size;
                    else
                        there.Remove(name);
                    // At once, or later with what comes after.
                    if (other % 3 > 0)
                    {
                        told = new(there, StringComparer.Ordinal);
                        ledger.Have(told.Select(one => new HeldVolume { Name = one.Key, SizeMib = (ulong)one.Value }));
                    }
                    var wanted = ledger.Reservations.Where(one => !one.Vacated).SelectMany(one => one.Volumes).Select(one => one.Key).Distinct();
                    Assert.Equal(told.Values.Sum() + wanted.Where(key => !told.ContainsKey(key[1..])).Sum(key => sizes[key]), ledger.VolumesMib);
                }
            },
            iter: 2000);
    }

    private static HostVacated Suspended(string id, ulong epoch) => new() { VmId = id, Epoch = epoch, Suspended = true };

    /// <summary>What it is saved in is on the disk until it is gone, also when others want that; itself it needs no more when it goes on.</summary>
    [Fact]
    public void Should_count_what_a_suspended_microVM_is_saved_in_until_it_goes_on_or_is_gone()
    {
        var ledger = new CapacityLedger();
        var demand = Demand.Of(Spec(new(1, 1000, 600)));
        ledger.Apply(Reserved("vm-1", demand));
        Assert.Equal((0L, 900L), (ledger.SavedMib, ledger.Free(Host, Caps).DiskMib));
        ledger.Apply(Suspended("vm-1", 1));
        Assert.Equal((1000L, 500L), (ledger.SavedMib, ledger.Free(Host, Caps).DiskMib));
        var other = Demand.Of(Spec(new(1, 128, 501)));
        Assert.Equal(new Rejection { Reason = "disk", Hosts = 1, Wanted = 501, MostFree = 500 }, ledger.Check(other, Host, Caps));
        // Nor does it take what is free from whoever comes with it.
        var goesOn = new Promised().And(demand, ledger.MoreThanSaved(demand.Needs, "vm-1"));
        Assert.Null(ledger.Check(Demand.Of(Spec(new(1, 128, 500))), Host, Caps, also: goesOn));
        ledger.Apply(Reserved("vm-2", Demand.Of(Spec(new(1, 128, 500)))));

        // It wants 600 and nothing is free, but what it is saved in.
        Assert.NotNull(ledger.Check(demand, Host, Caps));
        Assert.Null(ledger.Check(demand, Host, Caps, vmId: "vm-1"));
        var again = Reserved("vm-1", demand);
        again.Epoch = 2;
        ledger.Apply(again);
        Assert.Equal((400L, 0L), (ledger.SavedMib, ledger.Free(Host, Caps).DiskMib));
        // A snapshot of the ledger has the same, in whatever order it is put back.
        var copy = new CapacityLedger();
        foreach (var held in ledger.Reservations.OrderByDescending(held => held.Epoch))
            copy.Add(held);
        Assert.Equal(400, copy.SavedMib);
        ledger.Apply(new HostReleased { VmId = "vm-1", Epoch = 1 });
        Assert.Equal((0L, 400L), (ledger.SavedMib, ledger.Free(Host, Caps).DiskMib));
    }

    /// <summary>Of a disk that is too full whoever wants none of it makes nobody give it back.</summary>
    [Fact]
    public void Should_have_others_give_way_for_what_is_wanted_alone()
    {
        var ledger = new CapacityLedger();
        ledger.Apply(Reserved("saved", Demand.Of(Spec(new(1, 2000)))));
        ledger.Apply(Suspended("saved", 1));
        ledger.Apply(Reserved("low-1", Demand.Of(Spec(new(8, 64), "low"))));
        ledger.Apply(Reserved("low-2", Demand.Of(Spec(new(8, 64, 10), "low"))));
        Assert.True(ledger.SavedMib > Cap.DiskMib);
        Assert.Single(ledger.Preempt(Demand.Of(Spec(new(2, 64), "high")), "high", Host, Caps, null)!);
        Assert.Null(ledger.Preempt(Demand.Of(Spec(new(2, 64, 1), "high")), "high", Host, Caps, null));
    }

    /// <summary>The disk that is taken is what each microVM holds, or what it is saved in where that is more; nobody but who is saved takes it beyond the cap.</summary>
    [Fact]
    public void Should_count_saved_microVMs_as_adding_them_all_up_does()
    {
        var saved = 0;
        Gen.Select(Gen.Int[0, 7], Gen.Int[0, 5], Gen.Long[1, 500], Gen.Long[0, 500]).Array[0, 120].Sample(
            steps =>
            {
                var ledger = new CapacityLedger();
                foreach (var (vm, what, memory, disk) in steps)
                {
                    var id = $"vm-{vm}";
                    var newest = ledger.Find(id, ledger.NewestEpoch(id));
                    var before = Taken();
                    if (what <= 1 && newest is null or { Vacated: true })
                    {
                        var demand = Demand.Of(Spec(newest is null ? new(1, memory, disk) : newest.Needs));
                        if (ledger.Check(demand, Host, Caps, vmId: id) is not null)
                            continue;
                        var reserved = Reserved(id, demand);
                        reserved.Epoch = ledger.NewestEpoch(id) + 1;
                        ledger.Apply(reserved);
                        Assert.True(Taken() <= Math.Max(before, Cap.DiskMib));
                    }
                    else if (what == 2 && newest is { Vacated: false })
                        ledger.Apply(Suspended(id, newest.Epoch));
                    else if (what == 3 && newest is { Vacated: false })
                        ledger.Apply(new HostVacated { VmId = id, Epoch = newest.Epoch });
                    else if (what == 4 && ledger.OlderThan(id, ulong.MaxValue) is [var any, ..])
                        ledger.Apply(new HostReleased { VmId = id, Epoch = any.Epoch, WasReserved = !any.Vacated });
                    else if (what == 5 && memory < 20)
                        ledger.Apply(new HostLost());
                    saved += ledger.SavedMib > 0 ? 1 : 0;
                    Assert.Equal(Taken(), ledger.Reserved.DiskMib + ledger.SavedMib);
                    Assert.Equal(Math.Max(0, Cap.DiskMib - Taken()), ledger.Free(Host, Caps).DiskMib);
                }

                long Taken() => ledger.Reservations.GroupBy(one => one.VmId).Sum(places => Math.Max(
                    places.Sum(one => one.Held.DiskMib),
                    places.Where(one => one.Suspended).Select(one => Math.Max(one.Needs.DiskMib, one.Needs.MemoryMib)).DefaultIfEmpty().Max()));
            },
            iter: 1000);
        Assert.True(saved > 1000, $"Something was saved after {saved} steps only.");
    }

    [Fact]
    public void Should_count_a_volume_once_and_as_long_as_it_is_there()
    {
        var ledger = new CapacityLedger();
        var demand = Demand.Of(Spec(new(1, 128, 100), "", ("data", 1000)));
        Assert.Equal(1100, demand.Needs.DiskMib);
        Assert.Null(ledger.Check(demand, Host, Caps));
        ledger.Apply(Reserved("vm-1", demand));
        Assert.Equal((100L, 1000L, 400L), (ledger.Reserved.DiskMib, ledger.VolumesMib, ledger.Free(Host, Caps).DiskMib));
        ledger.Have([new HeldVolume { Name = "data", SizeMib = 1000 }]);
        Assert.Equal(400, ledger.Free(Host, Caps).DiskMib);
        ledger.Apply(new HostVacated { VmId = "vm-1", Epoch = 1, Cpus = 1, MemoryMib = 128, Other = new() { DiskMib = 100 } });
        Assert.Equal(500, ledger.Free(Host, Caps).DiskMib);
        // Whoever wants it again needs nothing more for it.
        Assert.Null(ledger.Check(demand, Host, Caps));
        Assert.Equal(1000UL, ledger.Check(Demand.Of(Spec(new(1, 128), "", ("other", 1000))), Host, Caps)?.Wanted);
        // A host that is given up and comes back has its volumes still.
        ledger.Apply(new HostLost());
        Assert.Equal(500, ledger.Free(Host, Caps).DiskMib);
        ledger.Apply(new HostConnected { Id = "a", Inventory = Host });
        Assert.Equal(1500, ledger.Free(Host, Caps).DiskMib);
    }
}
