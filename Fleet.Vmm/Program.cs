using Fleet.Vmm.Api;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;

StandardStream.OccupyMissing();

// Not by returning: that would wait for a vCPU thread that could not be stopped.
Environment.Exit(VmmProcess.Run(
    args,
    (endAtOnce, warn) => new MachineFactory(inputFd: 0, outputFd: 1, onStuck: endAtOnce, onWarning: warn),
    TimeProvider.System,
    Signals.OpenEndingSignals));
