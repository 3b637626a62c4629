using Fleet.Vmm.Api;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;

// Not by returning: that would wait for a vCPU thread that could not be stopped.
Environment.Exit(VmmProcess.Run(args, new NoMachines(), TimeProvider.System, Signals.OpenEndingSignals));

/// <summary>Stands where the KVM machine goes.</summary>
internal sealed class NoMachines : IMachineFactory
{
    public IMachine Build(MachineSettings settings, EventLoop loop) =>
        throw new MachineException(MachineFault.KvmUnavailable, "This build of fleet-vmm has no machine in it.");
}
