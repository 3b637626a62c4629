using Akka.Actor;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Agent;

/// <summary>What the microVM and its vCPUs use and wait for.</summary>
internal sealed partial class MicroVmActor
{
    private readonly List<IActorRef> _vcpus = [];

    private void Read()
    {
        if (_life.State != HostVmState.Running || _vmm is not { } vmm)
            return;
        if (vmm.ReadUse() is { } use)
            Context.Parent.Tell(new HostAgentActor.UseRead(_record.Launch.VmId, _record.Launch.Epoch, use, Monotonic));
        foreach (var vcpu in _vcpus)
            vcpu.Tell(VcpuActor.GetUsage.Instance);
    }
}
