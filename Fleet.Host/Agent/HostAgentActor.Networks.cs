using Fleet.Host.Networks;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Host.Agent;

/// <summary>A microVM that is to have a network gets its address and its ports before anything of it is written down, or is refused.</summary>
internal sealed partial class HostAgentActor
{
    private void BeginNew(LaunchVm launch)
    {
        var record = _context.NewRecord(launch);
        try
        {
            if (NetworkRules.IsWanted(launch.Spec))
                record.Network = _context.Networks.Assign(launch.VmId, launch.Spec).ToPlace();
        }
        catch (NetworkRefusedException refused)
        {
            Refuse(launch, refused.Message, refused.Code);
            return;
        }

        Begin(record, found: false);
    }

    private void BeginNext(Entry entry)
    {
        if (entry.Next is { } next)
            BeginNew(next);
    }
}
