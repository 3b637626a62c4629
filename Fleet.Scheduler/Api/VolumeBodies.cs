using System.ComponentModel;
using System.ComponentModel.DataAnnotations;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Api;

/// <summary>A volume as a microVM wants it.</summary>
internal sealed record VolumeMountBody
{
    [Description("One of its tenant's; made on the microVM's host if it is nowhere yet"), Required, RegularExpression("^[a-z0-9][a-z0-9-]{0,39}$")]
    public string? Name { get; init; }

    [Description("The folder of the guest where it is mounted; made if it is missing. Not with boot, where the kernel finds a disk"), RegularExpression("^/"), MaxLength(VmLimits.MaxVolumePathBytes)]
    public string? Path { get; init; }

    [Description("Of one that is nowhere yet; an older one keeps its size"), Range(VmLimits.MinVolumeMib, VmLimits.MaxVolumeMib), DefaultValue((long)VmLimits.DefaultVolumeMib)]
    public long? SizeMib { get; init; }
}

/// <summary>The body of a volume's create.</summary>
internal sealed record CreateVolumeBody
{
    [Required, RegularExpression("^[a-z0-9][a-z0-9-]{0,39}$")]
    public string? Name { get; init; }

    [Description("Where it is, for ever"), Required, RegularExpression("^[a-z0-9][a-z0-9-]{0,39}$")]
    public string? Host { get; init; }

    [Range(VmLimits.MinVolumeMib, VmLimits.MaxVolumeMib), DefaultValue((long)VmLimits.DefaultVolumeMib)]
    public long? SizeMib { get; init; }

    [Description("Whose it is; absent: nobody's, whom only admins see"), RegularExpression("^[a-z0-9][a-z0-9-]{0,39}$")]
    public string? Tenant { get; init; }
}

/// <summary>The body of a volume's clone or snapshot.</summary>
internal sealed record CopyVolumeBody
{
    [Description("Of the copy"), Required, RegularExpression("^[a-z0-9][a-z0-9-]{0,39}$")]
    public string? Name { get; init; }
}

/// <summary>A volume.</summary>
/// <param name="Name">Unique among its tenant's.</param>
/// <param name="Tenant">Whose it is; null: nobody's.</param>
/// <param name="State">ready, copying, removing or failed.</param>
/// <param name="SizeMib">Of the disk that a guest sees.</param>
/// <param name="Host">Where it is.</param>
/// <param name="VmId">The microVM that it was given to last, whether that one still is or not; null: none.</param>
/// <param name="Snapshot">It is only copied.</param>
/// <param name="CopyOf">The volume that it was copied from; null: none.</param>
/// <param name="CreatedAt">When it came to be.</param>
/// <param name="Reason">Why it could not be copied or removed; null: nothing failed.</param>
internal sealed record VolumeBody(
    string Name, string? Tenant, string State, ulong SizeMib, string Host, string? VmId, bool Snapshot, string? CopyOf, string CreatedAt, ReasonBody? Reason);

internal sealed record VolumeListBody(IReadOnlyList<VolumeBody> Items);
