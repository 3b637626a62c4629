using Akka.Actor;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Vms;

/// <summary>
/// A microVM with volumes goes where they are. Their actor is asked before the search; and once a host has reserved room, and before the placement is stored, it gives them
/// to this placement: from then on no older one gets them. What is nowhere yet is there from then on.
/// </summary>
internal sealed partial class VmActor
{
    private bool HasVolumes => _life.Record!.Spec.Volumes.Count > 0;

    private void AskVolumes()
    {
        var spec = _life.Record!.Spec;
        _volumes.Tell(new FindVolumes { Tenant = spec.Tenant, Names = { spec.Volumes.Select(volume => volume.Name) } });
        ++_searches;
        Timers.StartSingleTimer(SearchTimer, new SearchOverdue(_searches), SearchPatience);
    }

    private void OnVolumesFound(VolumesFound found)
    {
        // Of an earlier search it is as good: volumes do not move.
        if (_search is not { Asking.Length: 0, KnowsVolumes: false } search)
            return;
        var wanted = _life.Record!.Spec.Host;
        if (found.Volumes.FirstOrDefault(volume => volume is { Snapshot: true, State: not VolumeState.Removing }) is { } snapshot)
        {
            EndSearch();
            Store(_life.Impossible(VolumeBook.Unready(snapshot)!, Now), static () => { });
            return;
        }
        if (found.Problem is { } full)
        {
            // Before a host takes room for it, or others give way.
            GiveUp(new Reason { Code = full.Code, Message = full.Message }, isLasting: false);
            return;
        }
        foreach (var volume in found.Volumes)
        {
            if (VolumePlaces.Conflict(volume, search.Volume, wanted) is { } conflict)
            {
                GiveUp(conflict, isLasting: false);
                return;
            }
            search.BindTo(volume);
        }
        search.LeftAt = found.LeftHosts;
        search.KnowsVolumes = true;
        AskNeighbours();
    }

    /// <summary>The host has room; now the volumes.</summary>
    private void TakeVolumes(RoomAnswer answer)
    {
        var spec = _life.Record!.Spec;
        _volumes.Tell(new GiveVolumes { VmId = _id, Epoch = answer.Epoch, Host = answer.HostId, Tenant = spec.Tenant, Volumes = { spec.Volumes } });
        Timers.StartSingleTimer(SearchTimer, new SearchOverdue(_searches), SearchPatience);
    }

    private void OnVolumesGiven(VolumesGiven given)
    {
        if (_search is not { } search || search.Asking != given.Host || search.Epoch != given.Epoch)
            return;
        if (given.Problem is { } problem)
        {
            // Somebody else was quicker. The room goes back.
            TellVerdict(given.Host, given.Epoch, keep: false);
            if (search is { Volume: null, Preempting: false } && problem.Code == "volume_in_use")
            {
                // Nothing binds this one to that host, and nobody has given way for it.
                search.VolumeLeftThere(problem);
                AskNextHost();
                return;
            }
            GiveUp(problem, isLasting: false);
            return;
        }
        EndSearch(reserved: true);
        var decision = _life.Placed(given.Host, given.Epoch, Now, out var wanted, given.Grants);
        Store(decision, () =>
        {
            if (!wanted)
                TellVerdict(given.Host, given.Epoch, keep: false);
        });
    }

    private void TellUsed(string host)
    {
        var spec = _life.Record!.Spec;
        _volumes.Tell(new VolumesUsed { Host = host, Tenant = spec.Tenant, Names = { spec.Volumes.Select(volume => volume.Name) } });
    }

    /// <summary>Why it is unplaced, said with the volume that keeps it where it is.</summary>
    private static Reason ForVolume(VolumeRecord volume, Reason reason, bool inUse) => inUse
        ? VolumePlaces.InUse(volume)
        : VolumePlaces.Waiting(volume, reason);

    // It stays: what it writes to is here.
    private static Reason Stays(VmRecord record) =>
        new() { Code = "volume_elsewhere", Message = $"Its volume {record.Spec.Volumes[0].Name} is on host {record.Host}, and only there it can run." };
}
