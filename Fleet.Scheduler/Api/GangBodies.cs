using System.ComponentModel;
using System.ComponentModel.DataAnnotations;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Api;

/// <summary>The body of a gang's create.</summary>
internal sealed record CreateGangBody
{
    [Description("Its members are NAME-0, NAME-1 and so on"), Required, RegularExpression("^[a-z0-9][a-z0-9-]{0,59}$")]
    public string? Name { get; init; }

    [Description("Members"), Required, Range(1, VmLimits.MaxGangSize)]
    public long? Size { get; init; }

    [Description("What each of them is to be; without name"), Required]
    public CreateVmBody? Vm { get; init; }
}

/// <summary>A gang as it was created.</summary>
/// <param name="Id">The id of its first member.</param>
/// <param name="Name">Its name.</param>
/// <param name="Vms">Its members, in their order.</param>
internal sealed record GangBody(string Id, string Name, IReadOnlyList<VmBody> Vms);

/// <summary>Which member of which gang a microVM is.</summary>
internal sealed record GangMemberBody(string Id, string Name, uint Size, uint Index);
