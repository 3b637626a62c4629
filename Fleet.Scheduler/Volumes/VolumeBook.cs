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
/// </summary>
internal sealed class VolumeBook
{
    /// <summary>Of the whole cell: what one answer carries between nodes.</summary>
    public const int MostVolumes = 10_000;

    private readonly SortedDictionary<string, VolumeRecord> _volumes = new(StringComparer.Ordinal);

    public int Count => _volumes.Count;

    /// <summary>All, in the order of tenants and names; not to be changed.</summary>
    public IEnumerable<VolumeRecord> All => _volumes.Values;

    /// <summary>Those whose hosts have something to do.</summary>
    public IEnumerable<VolumeRecord> Pending => _volumes.Values.Where(volume => volume.State is VolumeState.Copying or VolumeState.Removing);

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
                break;
            case VolumesKept kept:
                _volumes.Clear();
                foreach (var volume in kept.Volumes)
                    _volumes[VolumeRules.Key(volume.Tenant, volume.Name)] = volume;
                break;
        }
    }

    /// <summary>Gives volumes to a placement that has room on a host: all of them or none. The same placement gets the same again.</summary>
    public VolumeDecision Give(GiveVolumes give, Timestamp at)
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
            made += known is null ? 1 : 0;
            var next = known?.Clone() ?? New(give.Tenant, wanted.Name, wanted.SizeMib, give.Host, at);
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
        .Select(volume => new VolumeGrant { Name = volume.Name, SizeMib = volume.SizeMib, Generation = volume.Generation, Made = volume.Made });

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

    public VolumeDecision Create(CreateVolume create, Timestamp at)
    {
        if (Find(create.Tenant, create.Name) is { } known)
        {
            // A repeat whose first answer was lost.
            return known.Host == create.Host && known.SizeMib == create.SizeMib && known.Generation == 0 ? new(null) : Taken(create.Name);
        }
        return Count >= MostVolumes ? Full() : Put(at, New(create.Tenant, create.Name, create.SizeMib, create.Host, at));
    }

    public VolumeDecision Copy(CopyVolume copy, Timestamp at)
    {
        if (Find(copy.Tenant, copy.Name) is not { } source)
            return NotFound(copy.Name);
        if (Find(copy.Tenant, copy.CopyTo) is { } known)
            return known.CopyOf == copy.Name && known.State == VolumeState.Copying ? new(null) : Taken(copy.CopyTo);
        if (source.State != VolumeState.Ready)
            return Refuse(source);
        if (source.Generation == 0 && source.CopyOf.Length == 0)
            return VolumeDecision.Refuse("wrong_state", $"The volume {copy.Name} was never used, and so there is nothing to copy.");
        if (Count >= MostVolumes)
            return Full();
        var target = New(copy.Tenant, copy.CopyTo, source.SizeMib, source.Host, at);
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
    public static VolumeOrder? OrderFor(VolumeRecord volume) => volume.State switch
    {
        VolumeState.Copying => new VolumeOrder { Tenant = volume.Tenant, Name = volume.CopyOf, CopyTo = volume.Name },
        VolumeState.Removing => new VolumeOrder { Tenant = volume.Tenant, Name = volume.Name },
        _ => null,
    };

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

    private static VolumeRecord New(string tenant, string name, ulong sizeMib, string host, Timestamp at) =>
        new() { Tenant = tenant, Name = name, SizeMib = sizeMib, Host = host, State = VolumeState.Ready, CreatedAt = at };

    private static VolumeDecision Put(Timestamp at, VolumeRecord volume) => new(new VolumesPut { At = at, Volumes = { volume } });

    /// <summary>Why the volume is given to no microVM, whoever has it; null: it is.</summary>
    public static Reason? Unready(VolumeRecord volume) => volume is { State: not VolumeState.Ready } or { Snapshot: true } ? Refuse(volume).Problem : null;

    private static VolumeDecision Refuse(VolumeRecord volume) => VolumeDecision.Refuse("volume_in_use", volume.Snapshot
        ? $"{volume.Name} is a snapshot, and is never written to. Make a clone of it."
        : $"The volume {volume.Name} is {volume.State.ToString().ToLowerInvariant()}.");

    private static VolumeDecision NotFound(string name) => VolumeDecision.Refuse("not_found", $"There is no volume '{name}'.");

    private static VolumeDecision Taken(string name) => VolumeDecision.Refuse("name_taken", $"There is a volume {name} already.");

    private static VolumeDecision Full() => VolumeDecision.Refuse("volume_in_use", $"The cell has {MostVolumes} volumes, the most that there may be. Remove some.");
}
