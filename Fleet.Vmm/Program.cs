using System.Runtime.CompilerServices;
using Fleet.Vmm.Api;
using Fleet.Vmm.Jail;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;

StandardStream.OccupyMissing();
if (args is ["jail", ..])
{
    return Jailer.Run(args.AsSpan(1));
}

// A build for tests runs on the JIT runtime, which lives on executable memory and threads of its own.
var confinement = RuntimeFeature.IsDynamicCodeSupported ? null : new Confinement();

// Not by returning: that would wait for a vCPU thread that could not be stopped.
Environment.Exit(VmmProcess.Run(
    args,
    (endAtOnce, warn) => new MachineFactory(inputFd: 0, outputFd: 1, onStuck: endAtOnce, onWarning: warn, confinement: confinement),
    TimeProvider.System,
    Signals.OpenEndingSignals,
    confinement is null ? null : confinement.Begin));
return ExitCode.Ok;
