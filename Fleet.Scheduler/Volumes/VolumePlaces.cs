using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Volumes;

/// <summary>Where a microVM may run by the volumes that it has.</summary>
internal static class VolumePlaces
{
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
}
