using Fleet.Vmm.Api;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;

// Not by returning: that would wait for a vCPU thread that could not be stopped.
Environment.Exit(VmmProcess.Run(
    args,
    endAtOnce => new MachineFactory(inputFd: 0, outputFd: 1, onStuck: endAtOnce),
    TimeProvider.System,
    Signals.OpenEndingSignals));
