using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Vms;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Volumes;

/// <summary>Where a microVM may run by the volumes that it has.</summary>
internal static class VolumePlaces
{
    /// <summary>Why it would not get the volume now; null: nobody has it.</summary>
    /// <param name="volume">One of its volumes.</param>
    /// <param name="holder">The microVM that it was given to last; null: none, or one that is gone.</param>
    public static Reason? InUse(VolumeRecord volume, VmRecord? holder) =>
        VolumeBook.Unready(volume) ?? (holder?.Epoch == volume.Epoch && VmFold.CarriedBy(holder) == volume.Host ? InUse(volume) : null);

    public static Reason InUse(VolumeRecord volume) =>
        new() { Code = "volume_in_use", Message = $"Another microVM has the volume {volume.Name} on host {volume.Host}. This one gets it when that one has ended." };

    /// <summary>Why no host at all will do for it; null: that of the volume will.</summary>
    /// <param name="volume">One of its volumes, which is somewhere already.</param>
    /// <param name="other">Another one; null: this is the first.</param>
    /// <param name="wanted">The only host that it may run on by its spec; empty: any.</param>
    public static Reason? Conflict(VolumeRecord volume, VolumeRecord? other, string wanted)
    {
        var elsewhere = other is not null && other.Host != volume.Host ? $"its volume {other.Name} on host {other.Host}"
            : wanted.Length > 0 && wanted != volume.Host ? $"it may run on host {wanted} only"
            : null;
        return elsewhere is null ? null : new Reason { Code = "volume_elsewhere", Message = $"The volume {volume.Name} is on host {volume.Host}, and {elsewhere}." };
    }

    /// <summary>Why it waits for the host of a volume that it has, which alone will do.</summary>
    /// <param name="volume">Is somewhere already.</param>
    /// <param name="reason">Why it can't be there at present.</param>
    public static Reason Waiting(VolumeRecord volume, Reason reason) =>
        new() { Code = "volume_elsewhere", Message = $"Its volume {volume.Name} is on host {volume.Host}, and only there it can run. {reason.Message}" };
}
