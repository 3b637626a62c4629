using System.Collections.Immutable;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Prediction;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Hosts;

/// <summary>How much more than it has a host may promise.</summary>
public readonly record struct CapacityCaps(double CpuRatio, double MemoryRatio)
{
    public ulong Cpus(Inventory? inventory) => (ulong)Math.Floor((inventory?.Cpus ?? 0) * CpuRatio);

    public ulong MemoryMib(Inventory? inventory) => (ulong)Math.Floor((inventory?.MemoryMib ?? 0) * MemoryRatio);

    public double DiskRatio { get; init; } = 1;

    public double NetworkRatio { get; init; } = 1;

    public double IopsRatio { get; init; } = 1;

    /// <summary>Beside CPU and memory; what the host does not tell of is absent, and not limited.</summary>
    public OtherResources Other(Inventory? inventory)
    {
        var other = new OtherResources();
        if (inventory is { HasDiskMib: true })
            other.DiskMib = (ulong)Math.Floor(inventory.DiskMib * DiskRatio);
        if (inventory is { HasNetworkMbit: true })
            other.NetworkMbit = (ulong)Math.Floor(inventory.NetworkMbit * NetworkRatio);
        if (inventory is { HasIops: true })
            other.Iops = (ulong)Math.Floor(inventory.Iops * IopsRatio);
        return other;
    }

    /// <summary>All that it may promise, <see cref="Resources.Unlimited"/> of what it is not limited in.</summary>
    public Resources Of(Inventory? inventory)
    {
        var other = Other(inventory);
        return new(
            (long)Cpus(inventory),
            (long)MemoryMib(inventory),
            other.HasDiskMib ? (long)other.DiskMib : Resources.Unlimited,
            other.HasNetworkMbit ? (long)other.NetworkMbit : Resources.Unlimited,
            other.HasIops ? (long)other.Iops : Resources.Unlimited);
    }
}

/// <summary>What the microVMs of a host are predicted to use at most, and what they may be predicted to use.</summary>
public readonly record struct PeakForecast(PeakUse Peak, PeakUse Room)
{
    public ulong FreeCpus => Floor(Room.Cpus - Peak.Cpus);

    public ulong FreeMemoryMib => Floor(Room.MemoryMib - Peak.MemoryMib);

    /// <summary>What would be free if it were empty.</summary>
    public ulong MostCpus => Floor(Room.Cpus);

    /// <summary>Likewise.</summary>
    public ulong MostMemoryMib => Floor(Room.MemoryMib);

    /// <summary>What is missing by rounding alone, and so is not missing.</summary>
    public const double Rounding = 1e-6;

    /// <summary>What is short for so much more; at most 0: nothing.</summary>
    public PeakUse Missing(Demand demand)
    {
        ArgumentNullException.ThrowIfNull(demand);
        return new(demand.Cpus - (Room.Cpus - Peak.Cpus), demand.MemoryMib - (Room.MemoryMib - Peak.MemoryMib));
    }

    /// <summary>With room for all that is there already, were it more than there should be.</summary>
    public PeakForecast AsFullAsItIs() => this with { Room = new(Math.Max(Room.Cpus, Peak.Cpus), Math.Max(Room.MemoryMib, Peak.MemoryMib)) };

    public bool HasRoomFor(Demand demand)
    {
        ArgumentNullException.ThrowIfNull(demand);
        return demand.Cpus <= FreeCpus && demand.MemoryMib <= FreeMemoryMib;
    }

    private static ulong Floor(double free) => free > 0 ? (ulong)Math.Floor(free + Rounding) : 0;
}

/// <summary>One microVM's place on a host.</summary>
/// <param name="VmId">The microVM.</param>
/// <param name="Epoch">Its epoch.</param>
/// <param name="Cpus">vCPUs promised.</param>
/// <param name="MemoryMib">MiB promised.</param>
/// <param name="Vacated">It ended: nothing is promised any more, but its remains are still there.</param>
/// <param name="Lost">Vacated because the host was given up: its microVM has to be told.</param>
public sealed record Reservation(string VmId, ulong Epoch, uint Cpus, ulong MemoryMib, bool Vacated, bool Lost = false)
{
    /// <summary>The groups that it is a member of, see <see cref="GroupNames"/>.</summary>
    public ImmutableArray<string> Groups { get; init; } = [];

    /// <summary>All that is promised, with vCPUs and memory.</summary>
    public Resources Needs { get; init; } = new(Cpus, checked((long)MemoryMib));

    /// <summary>The volumes that it has. What they take of the disk is counted apart from it: they stay when it goes.</summary>
    public ImmutableArray<VolumeRoom> Volumes { get; init; } = [];

    /// <summary>Of its class, see <see cref="PriorityClass"/>.</summary>
    public int Rank { get; init; } = PriorityClass.Rank("");

    /// <summary>It gave way so often that it does so no more.</summary>
    public bool Settled { get; init; }

    /// <summary>Vacated because it is saved here: to be told as <see cref="Lost"/> when the host is given up.</summary>
    public bool Suspended { get; init; }

    /// <summary>It is saved here only until another host has fetched it.</summary>
    public bool Leaving { get; init; }

    /// <summary>To whom it gives way: what was promised to it is that one's, though it may still run. Null: to nobody.</summary>
    public (string VmId, ulong Epoch)? GivesWayTo { get; init; }

    /// <summary>Of a gang, that asked for it, and whose it is until its microVM launches; 0: that asked by itself.</summary>
    public ulong Round { get; init; }

    /// <summary>Whether whoever asks for room has this one already. A gang and its members ask under one epoch: what one holds is no other's, who would give it back as his.</summary>
    public bool IsFor(ulong round) => !Vacated && Round == round;

    /// <summary>Whether it is to go. A gang gives back what its round held and nobody has taken: its word may come when the room is another's.</summary>
    /// <param name="verdict">About this (vm, epoch); it is not to be kept.</param>
    /// <param name="taken">Its microVM has said that it is meant.</param>
    public bool Goes(PlacementVerdict verdict, bool taken)
    {
        ArgumentNullException.ThrowIfNull(verdict);
        return !verdict.HasRound || (verdict.Round == Round && !taken);
    }

    /// <summary>Whether room is promised to it.</summary>
    public bool Holds => !Vacated && GivesWayTo is null;

    /// <summary>What is free again when it leaves.</summary>
    public Resources Held => Holds ? Needs : default;
}

/// <summary>What is about to be promised, and not in the ledger yet.</summary>
/// <param name="Count">To so many microVMs.</param>
/// <param name="Needs">All together, their volumes with it.</param>
public readonly record struct Promised(int Count, Resources Needs)
{
    /// <summary>Members of groups among them.</summary>
    private ImmutableDictionary<string, int>? Groups { get; init; }

    /// <param name="demand">What is promised to one more.</param>
    /// <param name="needs">What of it takes room that is free: less than all for who has some already. Null: all.</param>
    public Promised And(Demand demand, Resources? needs = null)
    {
        ArgumentNullException.ThrowIfNull(demand);
        var groups = Groups;
        foreach (var group in demand.Groups)
            groups = (groups ?? ImmutableDictionary<string, int>.Empty).SetItem(group, Of(group) + 1);
        return new(Count + 1, Needs + (needs ?? demand.Needs)) { Groups = groups };
    }

    public int Of(string group) => Groups?.GetValueOrDefault(group) ?? 0;
}

/// <summary>
/// What a host has promised to whom. It is told what happened and adds up; <see cref="Check"/> says whether one more fits.
/// Invariant: the sums are those of the reservations that hold room. Not safe for several threads.
/// </summary>
public sealed class CapacityLedger
{
    private readonly Dictionary<(string VmId, ulong Epoch), Reservation> _reservations = [];
    private readonly Dictionary<string, ulong> _newest = new(StringComparer.Ordinal);
    private readonly SortedDictionary<string, int> _groups = new(StringComparer.Ordinal);
    private readonly ClassRoom[] _preemptible = [.. PriorityClass.All.Select((_, rank) => new ClassRoom { Rank = (uint)rank })];

    // Volumes that the agent has, by key; and those of microVMs that are here, with how many name each. One that is in both is there once.
    private readonly Dictionary<string, long> _there = new(StringComparer.Ordinal);
    private readonly Dictionary<string, (long SizeMib, int Count)> _wanted = new(StringComparer.Ordinal);
    private long _thereMib;

    // Of what is wanted and not there.
    private long _comingMib;

    // Of microVMs that are saved here, what that takes of the disk beyond what is promised to them.
    private readonly Dictionary<string, long> _saved = new(StringComparer.Ordinal);
    private Resources _reserved;

    /// <summary>What those that hold room hold, without volumes.</summary>
    public Resources Reserved => _reserved;

    public ulong ReservedCpus => (ulong)_reserved.Cpus;

    public ulong ReservedMemoryMib => (ulong)_reserved.MemoryMib;

    /// <summary>MiB of volumes that are on the host, or about to be made there.</summary>
    public long VolumesMib => _thereMib + _comingMib;

    /// <summary>
    /// MiB of the disk that suspended microVMs are saved in, until that is gone. Each is saved in as much as its memory, which is part of the disk that it wanted where that
    /// is more; beside a place that it has here already, to go on, only what is not promised with that.
    /// </summary>
    public long SavedMib { get; private set; }

    /// <summary>What of the caps is left, at least 0; of what the host is not limited in <see cref="Resources.Unlimited"/>.</summary>
    public Resources Free(Inventory? inventory, CapacityCaps caps)
    {
        var cap = caps.Of(inventory);
        return new(
            Left(cap.Cpus, _reserved.Cpus),
            Left(cap.MemoryMib, _reserved.MemoryMib),
            Left(cap.DiskMib, _reserved.DiskMib + VolumesMib + SavedMib),
            Left(cap.NetworkMbit, _reserved.NetworkMbit),
            Left(cap.Iops, _reserved.Iops));
    }

    /// <summary>The volumes that the host's agent has now.</summary>
    public void Have(IEnumerable<HeldVolume> volumes)
    {
        ArgumentNullException.ThrowIfNull(volumes);
        _there.Clear();
        foreach (var volume in volumes)
            _there[VolumeRules.Key(volume.Tenant, volume.Name)] = (long)volume.SizeMib;
        _thereMib = _there.Values.Sum();
        _comingMib = _wanted.Where(volume => !_there.ContainsKey(volume.Key)).Sum(volume => volume.Value.SizeMib);
    }

    /// <summary>What the microVM is saved in here it needs no more room for when it goes on.</summary>
    public Resources MoreThanSaved(Resources needs, string vmId) =>
        needs with { DiskMib = needs.DiskMib - Math.Min(needs.DiskMib, _saved.GetValueOrDefault(vmId)) };

    /// <summary>The demand with the volumes alone that are neither here nor on their way.</summary>
    public Demand Here(Demand demand)
    {
        ArgumentNullException.ThrowIfNull(demand);
        foreach (var volume in demand.Volumes)
        {
            if (_there.ContainsKey(volume.Key) || _wanted.ContainsKey(volume.Key))
                demand = demand.Without(volume.Key);
        }
        return demand;
    }

    public IReadOnlyCollection<Reservation> Reservations => _reservations.Values;

    /// <summary>By class what could be taken from microVMs that hold room, those left out that give way no more.</summary>
    public IEnumerable<ClassRoom> Preemptible => _preemptible.Where(room => room.Vms > 0);

    /// <summary>
    /// Who gives way so that the demand fits; null: it would not fit, or too many would have to. Only what the demand wants, and is short by the caps or by the forecast, counts. Where
    /// more is predicted of those that are here than there is room for, also because little is known of them, nobody goes for that: only as much as the demand adds is to become free.
    /// </summary>
    /// <param name="demand">What is to fit.</param>
    /// <param name="vmId">Whose it is.</param>
    /// <param name="inventory">What the host has.</param>
    /// <param name="caps">How much more it may promise.</param>
    /// <param name="forecastOf">What is predicted if those alone were here; null: the caps alone count.</param>
    public IReadOnlyList<Reservation>? Preempt(Demand demand, string vmId, Inventory? inventory, CapacityCaps caps, Func<IReadOnlyCollection<Reservation>, PeakForecast>? forecastOf)
    {
        ArgumentNullException.ThrowIfNull(demand);
        if (_reservations.Count >= VmLimits.MaxVmsPerHost)
            return null;
        var needs = MoreThanSaved(Here(demand).Needs, vmId);
        var missing = (needs + _reserved + new Resources(0, 0, VolumesMib + SavedMib) - caps.Of(inventory)).Where(needs);
        var present = forecastOf?.Invoke(Reservations).AsFullAsItIs() ?? default;
        var missingPeak = forecastOf is null ? default : present.Missing(demand);
        // What is left of an earlier placement goes anyway.
        var there = _reservations.Values.Where(held => held is { Holds: true, Settled: false } && held.Rank < demand.Rank && held.VmId != vmId && held.Epoch == NewestEpoch(held.VmId)).ToDictionary(held => held.VmId);
        List<Preemptible> Able(bool foretold) => [.. there.Values.Select(held => new Preemptible(held.VmId, held.Rank, held.Needs) { Frees = foretold ? forecastOf!([held]).Peak : default })];
        // What is predicted of each is asked only where that matters: it costs as much as a look at all its history.
        var isForetold = missingPeak is { Cpus: > 0 } or { MemoryMib: > 0 };
        var able = Able(isForetold);
        for (var round = 0; round < Preemption.Most; round++)
        {
            if (Preemption.Choose(able, demand.Rank, missing, missingPeak) is not { } chosen)
                return null;
            List<Reservation> giving = [.. chosen.Select(one => there[one.VmId])];
            if (forecastOf is null)
                return giving;
            var left = forecastOf([.. _reservations.Values.Except(giving)]) with { Room = present.Room };
            if (left.HasRoomFor(demand))
                return giving;
            if (!isForetold)
                able = Able(isForetold = true);
            // Peaks that did not meet are not added up, so a prediction may fall by less than each one's own: then more is asked for.
            var still = left.Missing(demand);
            var names = giving.Select(held => held.VmId).ToHashSet(StringComparer.Ordinal);
            var freed = able.Where(one => names.Contains(one.VmId)).ToList();
            missingPeak = new(
                still.Cpus > 0 ? freed.Sum(one => one.Frees.Cpus) + still.Cpus : missingPeak.Cpus,
                still.MemoryMib > 0 ? freed.Sum(one => one.Frees.MemoryMib) + still.MemoryMib : missingPeak.MemoryMib);
        }
        return null;
    }

    /// <summary>How many microVMs of each group are here, those that have ended left out; in the order of names.</summary>
    public IReadOnlyDictionary<string, int> Groups => _groups;

    /// <summary>
    /// Whether a hard rule about a group on one host keeps the demand out: exactly, also against those that are <paramref name="also"/> about to come. An
    /// earlier placement of the microVM itself does not count. That it is to be where a group is only placement can tell, which knows where else that group may be.
    /// </summary>
    public bool KeepsOut(Demand demand, string vmId, Promised also)
    {
        ArgumentNullException.ThrowIfNull(demand);
        if (demand.Rules is null)
            return false;
        if (Neighbours.IsApartFrom(demand, id => id != vmId && NewestEpoch(id) > 0 && _reservations.Values.Any(held => held.VmId == id && !held.Vacated)))
            return true;
        foreach (var rule in demand.Rules.Groups)
        {
            if (rule is { Hard: true, Apart: true, Scope: RuleScope.Host } && _groups.GetValueOrDefault(rule.Group) + also.Of(rule.Group) - Own(rule.Group) > rule.Most)
                return true;
        }
        return false;

        int Own(string group) => NewestEpoch(vmId) == 0
            ? 0
            : _reservations.Values.Count(held => held.VmId == vmId && !held.Vacated && held.Groups.Contains(group));
    }

    /// <summary>The microVM, not <paramref name="beside"/>, that has the volume and has not ended; null: none.</summary>
    public string? VolumeHolder(string volume, string beside) =>
        _reservations.Values.FirstOrDefault(held => !held.Vacated && held.VmId != beside && held.Volumes.Any(one => one.Key == volume))?.VmId;

    /// <summary>The newest epoch under which the microVM has a place here; 0: none.</summary>
    public ulong NewestEpoch(string vmId) => _newest.GetValueOrDefault(vmId);

    /// <summary>Places of the microVM here of earlier epochs than that.</summary>
    public IReadOnlyList<Reservation> OlderThan(string vmId, ulong epoch)
    {
        // Mostly each has one, and nobody is looked through.
        if (_reservations.Count > _newest.Count)
            return [.. _reservations.Values.Where(held => held.VmId == vmId && held.Epoch < epoch)];
        return NewestEpoch(vmId) is > 0 and var only && only < epoch ? [_reservations[(vmId, only)]] : [];
    }

    public Reservation? Find(string vmId, ulong epoch) => _reservations.GetValueOrDefault((vmId, epoch));

    /// <summary>
    /// Null when the demand fits beside what is promised and <paramref name="also"/> what is about to be, by the caps on the sum of limits and by what
    /// is predicted, to which newcomers come with all that they may use; else the first thing that is short, with its numbers.
    /// </summary>
    /// <param name="demand">What is wanted.</param>
    /// <param name="inventory">What the host has.</param>
    /// <param name="caps">How much more it may promise.</param>
    /// <param name="forecast">Null: the caps alone count.</param>
    /// <param name="also">Is promised too.</param>
    /// <param name="vmId">Who wants it: what it is saved in here it has already. Empty: nobody who is known here.</param>
    public Rejection? Check(Demand demand, Inventory? inventory, CapacityCaps caps, PeakForecast? forecast = null, Promised also = default, string vmId = "")
    {
        ArgumentNullException.ThrowIfNull(demand);
        // Its agent would refuse one more: those that have ended count, until they are deleted or started elsewhere.
        if (_reservations.Count + also.Count >= VmLimits.MaxVmsPerHost)
            return Rejected(RejectionReason.MicroVms, 1, 0);
        var (needs, free) = (MoreThanSaved(Here(demand).Needs, vmId), Free(inventory, caps));
        for (var kind = 0; kind < Resources.Kinds; kind++)
        {
            if (Short(Resources.ReasonOf(kind), needs[kind], Left(free[kind], also.Needs[kind])) is { } rejection)
                return rejection;
        }
        return forecast is not { } peak ? null
            : Short(RejectionReason.CpuPeak, demand.Cpus, Left((long)peak.FreeCpus, also.Needs.Cpus))
            ?? Short(RejectionReason.MemoryPeak, (long)demand.MemoryMib, Left((long)peak.FreeMemoryMib, also.Needs.MemoryMib));
    }

    /// <summary>Takes an event of a host into account; events that are not about reservations change nothing.</summary>
    /// <exception cref="InvalidOperationException">The event vacates what was never promised, or promises twice.</exception>
    public void Apply(object stored)
    {
        switch (stored)
        {
            case HostConnected connected:
                Have(connected.Inventory?.Volumes ?? []);
                break;
            case HostReserved reserved:
                Add(new Reservation(reserved.VmId, reserved.Epoch, reserved.Cpus, reserved.MemoryMib, Vacated: false)
                {
                    Groups = [.. reserved.Groups],
                    Needs = Resources.Of(reserved.Cpus, reserved.MemoryMib, reserved.Other),
                    Volumes = VolumesOf(reserved.Volumes, reserved.VolumeMib),
                    Rank = PriorityClass.Rank(reserved.Priority),
                    Settled = reserved.Settled,
                    Round = reserved.Round,
                });
                break;
            case HostPreempted preempted:
                var held = Find(preempted.VmId, preempted.Epoch) ?? throw new InvalidOperationException($"{preempted.VmId} epoch {preempted.Epoch} has no reservation here.");
                if (!held.Holds)
                    throw new InvalidOperationException($"{held.VmId} epoch {held.Epoch} holds no room.");
                // Those that gave way to it now do to the other: it must not begin before they are gone.
                foreach (var before in _reservations.Values.Where(one => !one.Vacated && one.GivesWayTo == (held.VmId, held.Epoch)).ToList())
                    _reservations[(before.VmId, before.Epoch)] = before with { GivesWayTo = (preempted.ForVmId, preempted.ForEpoch) };
                Count(held, -1);
                _reservations[(held.VmId, held.Epoch)] = held with { GivesWayTo = (preempted.ForVmId, preempted.ForEpoch) };
                CountSaved(held);
                break;
            case HostVacated vacated:
                var left = Find(vacated.VmId, vacated.Epoch) ?? throw new InvalidOperationException($"{vacated.VmId} epoch {vacated.Epoch} has no reservation here.");
                if (left.Vacated)
                    throw new InvalidOperationException($"{left.VmId} epoch {left.Epoch} was vacated before.");
                Vacate(left with { Suspended = vacated.Suspended, Leaving = vacated.Suspended && vacated.Leaving }, lost: false);
                break;
            case HostLost:
                foreach (var there in _reservations.Values.Where(one => !one.Vacated).ToList())
                    Vacate(there, lost: true);
                foreach (var saved in _reservations.Values.Where(one => one.Suspended).ToList())
                    _reservations[(saved.VmId, saved.Epoch)] = saved with { Lost = true };
                break;
            case HostReleased released:
                // Of what is not held: gives nothing back. An event that is stored must never keep a host from coming back.
                if (Find(released.VmId, released.Epoch) is { } gone)
                    Release(gone);
                break;
        }
    }

    /// <summary>Puts back a reservation of a snapshot.</summary>
    public void Add(Reservation reservation)
    {
        ArgumentNullException.ThrowIfNull(reservation);
        if (!_reservations.TryAdd((reservation.VmId, reservation.Epoch), reservation))
            throw new InvalidOperationException($"{reservation.VmId} epoch {reservation.Epoch} is promised already.");
        _newest[reservation.VmId] = Math.Max(reservation.Epoch, NewestEpoch(reservation.VmId));
        CountSaved(reservation);
        if (reservation.Vacated)
            return;
        foreach (var group in reservation.Groups)
            _groups[group] = _groups.GetValueOrDefault(group) + 1;
        foreach (var volume in reservation.Volumes)
            Want(volume.Key, volume.SizeMib, 1);
        if (reservation.Holds)
            Count(reservation, 1);
    }

    /// <summary>As they are stored: before sizes were, nobody knew them.</summary>
    public static ImmutableArray<VolumeRoom> VolumesOf(IReadOnlyList<string> keys, IReadOnlyList<ulong> sizes)
    {
        ArgumentNullException.ThrowIfNull(keys);
        ArgumentNullException.ThrowIfNull(sizes);
        return [.. keys.Select((key, i) => new VolumeRoom(key, i < sizes.Count ? (long)sizes[i] : 0))];
    }

    private void Vacate(Reservation held, bool lost)
    {
        Leave(held);
        _reservations[(held.VmId, held.Epoch)] = held with { Vacated = true, Lost = lost };
        CountSaved(held);
    }

    private void Release(Reservation held)
    {
        _reservations.Remove((held.VmId, held.Epoch));
        if (!held.Vacated)
            Leave(held);
        CountSaved(held);
        // Seldom more than this one was here.
        if (held.Epoch < NewestEpoch(held.VmId))
            return;
        _newest.Remove(held.VmId);
        foreach (var other in _reservations.Values.Where(other => other.VmId == held.VmId))
            _newest[other.VmId] = Math.Max(other.Epoch, NewestEpoch(other.VmId));
    }

    // It runs here no more.
    private void Leave(Reservation held)
    {
        if (held.Holds)
            Count(held, -1);
        foreach (var group in held.Groups)
        {
            if (--_groups[group] == 0)
                _groups.Remove(group);
        }
        foreach (var volume in held.Volumes)
            Want(volume.Key, _wanted[volume.Key].SizeMib, -1);
    }

    // One of its places has come, gone, or changed.
    private void CountSaved(Reservation changed)
    {
        var vmId = changed.VmId;
        // Mostly nothing is saved of it, and nobody is looked through.
        if (!changed.Suspended && !_saved.ContainsKey(vmId))
            return;
        SavedMib -= _saved.GetValueOrDefault(vmId);
        _saved.Remove(vmId);
        var (takes, has, isSaved) = (0L, 0L, false);
        foreach (var one in _reservations.Values)
        {
            if (one.VmId != vmId)
                continue;
            if (one.Suspended)
                (takes, isSaved) = (Math.Max(takes, Math.Max(one.Needs.DiskMib, one.Needs.MemoryMib)), true);
            has += one.Held.DiskMib;
        }
        if (!isSaved)
            return;
        _saved[vmId] = Math.Max(0, takes - has);
        SavedMib += _saved[vmId];
    }

    // One more microVM names the volume, of that size by its word, or one fewer.
    private void Want(string volume, long sizeMib, int by)
    {
        var known = _wanted.GetValueOrDefault(volume);
        var wanted = (SizeMib: sizeMib, Count: known.Count + by);
        if (wanted.Count > 0)
            _wanted[volume] = wanted;
        else
        {
            _wanted.Remove(volume);
            wanted = default;
        }
        if (!_there.ContainsKey(volume))
            _comingMib += wanted.SizeMib - known.SizeMib;
    }

    private void Count(Reservation held, int by)
    {
        _reserved = by > 0 ? _reserved + held.Needs : _reserved - held.Needs;
        if (held.Settled)
            return;
        var room = _preemptible[held.Rank];
        var sum = Resources.Of(room.Cpus, room.MemoryMib, room.Other);
        sum = by > 0 ? sum + held.Needs : sum - held.Needs;
        unchecked
        {
            room.Vms += (uint)by;
        }
        (room.Cpus, room.MemoryMib, room.Other) = ((ulong)sum.Cpus, (ulong)sum.MemoryMib, sum.Other);
    }

    // A host that came back with less memory has promised more than its cap: nothing is free then.
    private static long Left(long cap, long reserved) => cap >= Resources.Unlimited ? cap : Math.Max(0, cap - reserved);

    private static Rejection? Short(string reason, long wanted, long free) => wanted > free ? Rejected(reason, (ulong)wanted, (ulong)free) : null;

    private static Rejection Rejected(string reason, ulong wanted, ulong free) =>
        new() { Reason = reason, Hosts = 1, Wanted = wanted, MostFree = free };
}
