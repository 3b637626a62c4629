using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Scheduler.Volumes;

/// <summary>What follows from a request: an event to store, or none, and why the request is refused, if it is.</summary>
/// <param name="Event">Null: nothing changes.</param>
/// <param name="Problem">Code and sentence; null: it is carried out, or was before.</param>
internal readonly record struct VolumeDecision(IMessage? Event, Reason? Problem = null)
{
    public static VolumeDecision Refuse(string code, string message) => new(null, new Reason { Code = code, Message = message });
}

/// <summary>
/// Every volume of the cell: where it is, and to whom it was given last. Pure: told what happened and what time it is. A volume has one place from the moment at
/// which it is first given or created, whether its host is there or not; so there never are two of one name.
/// One that is removed when its host is none of the cell's any more is remembered as left there, until that host has said that it is gone.
/// </summary>
internal sealed class VolumeBook
{
    /// <summary>Of the whole cell: what one answer carries between nodes.</summary>
    public const int MostVolumes = 10_000;

    /// <summary>Left volumes that are remembered, the newest: an older one stays on its host, and is given to nobody, as its id is no living one's.</summary>
    public const int MostLeft = 4096;

    private readonly SortedDictionary<string, VolumeRecord> _volumes = new(StringComparer.Ordinal);
    private readonly List<LeftVolume> _left = [];

    public int Count => _volumes.Count;

    /// <summary>All, in the order of tenants and names; not to be changed.</summary>
    public IEnumerable<VolumeRecord> All => _volumes.Values;

    /// <summary>Those whose hosts have something to do.</summary>
    public IEnumerable<VolumeRecord> Pending => _volumes.Values.Where(volume => volume.State is VolumeState.Copying or VolumeState.Removing);

    /// <summary>Those that were removed and may still be on their hosts, the oldest first; not to be changed.</summary>
    public IReadOnlyList<LeftVolume> Left => _left;

    public VolumeRecord? Find(string tenant, string name) => _volumes.GetValueOrDefault(VolumeRules.Key(tenant, name));

    public void Apply(IMessage stored)
    {
        switch (stored)
        {
            case VolumesPut put:
                foreach (var volume in put.Volumes)
                    _volumes[VolumeRules.Key(volume.Tenant, volume.Name)] = volume;
                break;
            case VolumeGone gone:
                _volumes.Remove(VolumeRules.Key(gone.Tenant, gone.Name));
                if (gone.Left is not null)
                    _left.Add(gone.Left);
                if (_left.Count > MostLeft)
                    _left.RemoveAt(0);
                break;
            case LeftVolumeGone gone:
                _left.Remove(gone.Left);
                break;
            case VolumesKept kept:
                _left.Clear();
                _left.AddRange(kept.Left);
                _volumes.Clear();
                foreach (var volume in kept.Volumes)
                    _volumes[VolumeRules.Key(volume.Tenant, volume.Name)] = volume;
                break;
        }
    }

    /// <summary>Gives volumes to a placement that has room on a host: all of them or none. The same placement gets the same again.</summary>
    /// <param name="give">To whom, and where.</param>
    /// <param name="at">The time.</param>
    /// <param name="id">Of those that are new: no other volume of their names ever had it.</param>
    public VolumeDecision Give(GiveVolumes give, Timestamp at, string id)
    {
        var put = new VolumesPut { At = at };
        var made = 0;
        foreach (var wanted in give.Volumes)
        {
            var known = Find(give.Tenant, wanted.Name);
            if (known is not null && Unready(known) is { } unready)
                return new(null, unready);
            if (known is not null && known.Host != give.Host)
                return VolumeDecision.Refuse("volume_elsewhere", $"The volume {wanted.Name} is on host {known.Host}.");
            if (known is not null && known.VmId == give.VmId && known.Epoch == give.Epoch)
                continue;
            if (known is not null && known.VmId == give.VmId && known.Epoch > give.Epoch)
                return VolumeDecision.Refuse("volume_stale", $"The volume {wanted.Name} was given to a newer placement of the microVM.");
            // The host would not make it beside the other.
            if (known is not { Made: true } && IsLeft(give.Host, give.Tenant, wanted.Name))
                return StillLeft(wanted.Name, give.Host);
            made += known is null ? 1 : 0;
            var next = known?.Clone() ?? New(give.Tenant, wanted.Name, wanted.SizeMib, give.Host, at, id);
            next.Generation++;
            (next.VmId, next.Epoch, next.Reason) = (give.VmId, give.Epoch, null);
            put.Volumes.Add(next);
        }
        if (Count + made > MostVolumes)
            return Full();
        return new(put.Volumes.Count > 0 ? put : null);
    }

    /// <summary>What a placement was given.</summary>
    public IEnumerable<VolumeGrant> GrantsOf(GiveVolumes give) => give.Volumes.Select(wanted => Find(give.Tenant, wanted.Name)!)
        .Select(volume => new VolumeGrant { Name = volume.Name, SizeMib = volume.SizeMib, Generation = volume.Generation, Made = volume.Made, Id = volume.Id });

    /// <summary>A microVM ran with them: their host has made them.</summary>
    public IMessage? Used(VolumesUsed used, Timestamp at)
    {
        var put = new VolumesPut { At = at };
        foreach (var volume in used.Names.Select(name => Find(used.Tenant, name)).OfType<VolumeRecord>().Where(volume => !volume.Made && volume.Host == used.Host))
        {
            var next = volume.Clone();
            next.Made = true;
            put.Volumes.Add(next);
        }
        return put.Volumes.Count > 0 ? put : null;
    }

    public VolumeDecision Create(CreateVolume create, Timestamp at, string id)
    {
        if (Find(create.Tenant, create.Name) is { } known)
        {
            // A repeat whose first answer was lost.
            return known.Host == create.Host && known.SizeMib == create.SizeMib && known.Generation == 0 ? new(null) : Taken(create.Name);
        }
        return Count >= MostVolumes ? Full() : Put(at, New(create.Tenant, create.Name, create.SizeMib, create.Host, at, id));
    }

    public VolumeDecision Copy(CopyVolume copy, Timestamp at, string id)
    {
        if (Find(copy.Tenant, copy.Name) is not { } source)
            return NotFound(copy.Name);
        if (Find(copy.Tenant, copy.CopyTo) is { } known)
            return known.CopyOf == copy.Name && known.State == VolumeState.Copying ? new(null) : Taken(copy.CopyTo);
        if (source.State != VolumeState.Ready)
            return Refuse(source);
        if (source.Generation == 0 && source.CopyOf.Length == 0)
            return VolumeDecision.Refuse("wrong_state", $"The volume {copy.Name} was never used, and so there is nothing to copy.");
        if (IsLeft(source.Host, copy.Tenant, copy.CopyTo))
            return StillLeft(copy.CopyTo, source.Host);
        if (Count >= MostVolumes)
            return Full();
        var target = New(copy.Tenant, copy.CopyTo, source.SizeMib, source.Host, at, id);
        (target.State, target.CopyOf, target.Snapshot) = (VolumeState.Copying, copy.Name, copy.Snapshot);
        return Put(at, target);
    }

    public VolumeDecision Remove(RemoveVolume remove, Timestamp at)
    {
        if (Find(remove.Tenant, remove.Name) is not { } known)
            return NotFound(remove.Name);
        if (known.State == VolumeState.Removing)
            return new(null);
        if (known.State == VolumeState.Copying || _volumes.Values.Any(other => other.State == VolumeState.Copying && other.CopyOf == known.Name && other.Tenant == known.Tenant))
            return VolumeDecision.Refuse("volume_in_use", $"The volume {remove.Name} is being copied; remove it when that is over.");
        var next = known.Clone();
        (next.State, next.Reason) = (VolumeState.Removing, null);
        return Put(at, next);
    }

    /// <summary>The order that a volume's host has to carry out; null: none.</summary>
    public VolumeOrder? OrderFor(VolumeRecord volume) => volume.State switch
    {
        // What is copied is not removed meanwhile.
        VolumeState.Copying => new VolumeOrder { Tenant = volume.Tenant, Name = volume.CopyOf, CopyTo = volume.Name, Id = volume.Id, SourceId = Find(volume.Tenant, volume.CopyOf)?.Id ?? "" },
        VolumeState.Removing => new VolumeOrder { Tenant = volume.Tenant, Name = volume.Name, Id = volume.Id, Made = IsMade(volume) },
        _ => null,
    };

    /// <summary>The order by which a host removes what was left there.</summary>
    public static VolumeOrder OrderFor(LeftVolume left) => new() { Tenant = left.Tenant, Name = left.Name, Id = left.Id, Made = left.Made };

    /// <summary>Why those of these names that are not there yet can't all be made; null: they can.</summary>
    public Reason? TooMany(string tenant, IReadOnlyCollection<string> names) => Count + names.Count(name => Find(tenant, name) is null) > MostVolumes ? Full().Problem : null;

    /// <summary>Hosts where one of these names is left, and so can't be made yet.</summary>
    public IEnumerable<string> LeftHosts(string tenant, IReadOnlyCollection<string> names) =>
        _left.Where(left => left.Tenant == tenant && names.Contains(left.Name) && Find(tenant, left.Name) is not { Made: true }).Select(left => left.Host).Distinct();

    /// <summary>The left volume that a host speaks of; null: none was left there that it was told to remove so.</summary>
    public LeftVolume? LeftOf(VolumeOrderAnswer answer) => _left.Find(left => left.Host == answer.HostId && OrderFor(left).Equals(answer.Order));

    /// <summary>What a host says to the order to remove what was left there. Null: it is there still, or the order was another one.</summary>
    public IMessage? LeftAnswered(VolumeOrderAnswer answer, Timestamp at) =>
        answer.Outcome == VolumeOrderOutcome.Done && LeftOf(answer) is { } gone ? new LeftVolumeGone { At = at, Left = gone } : null;

    /// <summary>The volume that an order is about: the copy, or the one that is to go.</summary>
    public VolumeRecord? SubjectOf(VolumeOrder order) =>
        Find(order.Tenant, order.CopyTo.Length > 0 ? order.CopyTo : order.Name) is { } volume && order.Equals(OrderFor(volume)) ? volume : null;

    /// <summary>What the host says to an order. Null: it goes on, and the order is repeated.</summary>
    /// <param name="answer">Of the host of that volume.</param>
    /// <param name="first">It is the answer to the order's first time, and somebody waits for it: what is in use now is refused, and not waited for.</param>
    /// <param name="at">The time.</param>
    public IMessage? Answered(VolumeOrderAnswer answer, bool first, Timestamp at)
    {
        if (SubjectOf(answer.Order) is not { } volume || volume.Host != answer.HostId)
            return null;
        var gone = new VolumeGone { At = at, Tenant = volume.Tenant, Name = volume.Name };
        // One that was never given, and is no copy, its host has not made.
        if (answer.Outcome == VolumeOrderOutcome.NoHost && (volume.Generation > 0 || volume.CopyOf.Length > 0))
            gone.Left = new LeftVolume { Host = volume.Host, Tenant = volume.Tenant, Name = volume.Name, Id = volume.Id, Made = IsMade(volume) };
        var next = volume.Clone();
        next.Reason = answer.Problem?.Clone();
        switch (answer.Outcome)
        {
            case VolumeOrderOutcome.NoHost:
                return gone;
            case VolumeOrderOutcome.Done when volume.State == VolumeState.Removing:
                return gone;
            case VolumeOrderOutcome.Done:
                (next.State, next.Reason, next.Made) = (VolumeState.Ready, null, true);
                return new VolumesPut { At = at, Volumes = { next } };
            case VolumeOrderOutcome.InUse when first && volume.State == VolumeState.Copying:
                return gone;
            case VolumeOrderOutcome.InUse when first:
                next.State = VolumeState.Ready;
                return new VolumesPut { At = at, Volumes = { next } };
            case VolumeOrderOutcome.Refused when answer.Problem?.Code != "volume_in_use":
                next.State = volume.State == VolumeState.Copying ? VolumeState.Failed : VolumeState.Ready;
                return new VolumesPut { At = at, Volumes = { next } };
            default:
                return null;
        }
    }

    // A copy is made before it is said to be.
    private static bool IsMade(VolumeRecord volume) => volume.Made || volume.CopyOf.Length > 0;

    private bool IsLeft(string host, string tenant, string name) => _left.Exists(left => left.Host == host && left.Name == name && left.Tenant == tenant);

    private static VolumeRecord New(string tenant, string name, ulong sizeMib, string host, Timestamp at, string id) =>
        new() { Tenant = tenant, Name = name, SizeMib = sizeMib, Host = host, State = VolumeState.Ready, CreatedAt = at, Id = id };

    private static VolumeDecision Put(Timestamp at, VolumeRecord volume) => new(new VolumesPut { At = at, Volumes = { volume } });

    /// <summary>Why the volume is given to no microVM, whoever has it; null: it is.</summary>
    public static Reason? Unready(VolumeRecord volume) =>
        volume.Snapshot ? new Reason { Code = "volume_is_snapshot", Message = $"{volume.Name} is a snapshot, and is never written to. Make a clone of it." }
        : volume.State != VolumeState.Ready ? Refuse(volume).Problem
        : null;

    private static VolumeDecision Refuse(VolumeRecord volume) =>
        VolumeDecision.Refuse("volume_in_use", $"The volume {volume.Name} is {volume.State.ToString().ToLowerInvariant()}.");

    private static VolumeDecision StillLeft(string name, string host) =>
        VolumeDecision.Refuse("volume_in_use", $"An earlier volume {name}, which was removed while host {host} was away, is still there; the host is told to remove it.");

    private static VolumeDecision NotFound(string name) => VolumeDecision.Refuse("not_found", $"There is no volume '{name}'.");

    private static VolumeDecision Taken(string name) => VolumeDecision.Refuse("name_taken", $"There is a volume {name} already.");

    private static VolumeDecision Full() => VolumeDecision.Refuse("too_many_volumes", $"The cell has {MostVolumes} volumes, the most that there may be. Remove some.");
}
