using Fleet.Vmm.Devices;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Api;

/// <content>Snapshots: the machine and its configuration into two files, and back into a process that has not configured anything.</content>
internal sealed partial class Microvm
{
    private const string CreateError = "Create snapshot error: ";
    private const string LoadError = "Load snapshot error: ";

    /// <summary>A snapshot could not be loaded, and the process is good for nothing any more; with the sentence for its end.</summary>
    public event Action<string>? LoadFailed;

    /// <summary>
    /// Writes a paused microVM into two new files. When that fails neither is there, what stood in their places still is, and
    /// the microVM stays paused and whole.
    /// </summary>
    public void CreateSnapshot(SnapshotCreation creation)
    {
        var machine = Started();
        if (State != MicrovmState.Paused)
        {
            throw new ApiFaultException(CreateError + "Cannot save the microVM state: Operation not allowed: save/restore unavailable while running");
        }

        ConfiguredDevices.CheckPath(creation.StatePath, CreateError);
        ConfiguredDevices.CheckPath(creation.MemoryPath, CreateError);

        // Against a fixed root: asking for the working directory is a system call that the process gave up.
        var (state, memory) = (Path.GetFullPath(creation.StatePath, "/"), Path.GetFullPath(creation.MemoryPath, "/"));
        if (state == memory || NewFile.TemporaryFor(state) == memory || NewFile.TemporaryFor(memory) == state)
        {
            throw new ApiFaultException(CreateError + "snapshot_path and mem_file_path are in each other's way: two files of different names are needed.");
        }

        var began = clock.GetTimestamp();
        try
        {
            WriteSnapshot(machine, creation);
        }
        catch (Exception failure) when (failure is SystemCallException or SnapshotException)
        {
            throw new ApiFaultException($"{CreateError}{failure.Message}. The microVM is paused as before.", inner: failure);
        }

        if (creation.OnlyChanges)
        {
            metrics.DiffSnapshotLatency = Microseconds(began);
        }
        else
        {
            metrics.FullSnapshotLatency = Microseconds(began);
        }

        log.Info($"A snapshot {(creation.OnlyChanges ? "of what changed " : "")}is in {creation.StatePath} and {creation.MemoryPath}.");
    }

    /// <summary>Makes this the microVM of a snapshot, paused, or running where that is asked for.</summary>
    public void LoadSnapshot(SnapshotLoad load)
    {
        NotStarted();
        if (_isConfigured)
        {
            throw new ApiFaultException(LoadError + "Loading a microVM snapshot not allowed after configuring boot-specific resources.");
        }

        var began = clock.GetTimestamp();
        IMachine? machine = null;
        try
        {
            ConfiguredDevices.CheckPath(load.StatePath, LoadError);
            ConfiguredDevices.CheckPath(load.MemoryPath, LoadError);
            var state = StateFile.Load(load.StatePath);
            var config = ConfigFile.Parse(state.Configuration);
            config.Override(load);
            config.ApplyRestored(this);
            machine = factory.Restore(Describe(_bootSource!), new RestoreSource(state.Machine, load.MemoryPath, load.ByFaultHandler, load.FollowRealtime), loop);
            machine.Ended += OnEnded;
            machine.Start(paused: !load.Resume);
            ObserveDevices(machine);
            _machine = machine;
            State = load.Resume ? MicrovmState.Running : MicrovmState.Paused;
            metrics.LoadSnapshotLatency = Microseconds(began);
        }
        catch (Exception failure)
        {
            machine?.Dispose();
            var why = failure switch
            {
                ApiFaultException fault when fault.Message.StartsWith(LoadError, StringComparison.Ordinal) => fault.Message,
                JsonFaultException fault => $"{LoadError}the state file {load.StatePath} can't be used: its configuration: {fault.Message}",
                ApiFaultException or MachineException or SnapshotException => LoadError + failure.Message,
                _ => LoadError + "unexpected failure, see the log of the VMM.",
            };
            LoadFailed?.Invoke(why);
            if (failure is ApiFaultException or JsonFaultException or MachineException or SnapshotException)
            {
                throw new ApiFaultException(why, "snapshot_invalid", failure);
            }

            throw;
        }

        log.Info($"The microVM of {load.StatePath} is {(load.Resume ? "going on" : "paused")}: {_machineConfig.VcpuCount} vCPUs, {_machineConfig.MemSizeMib} MiB.");
        FlushMetricsOrWarn();
    }

    /// <summary>The kernel that a restored guest once booted; it is not needed any more and may be gone.</summary>
    public void AdoptBootSource(BootSource source) => _bootSource = source;

    private void WriteSnapshot(IMachine machine, SnapshotCreation creation)
    {
        var writer = new StateWriter();
        machine.Save(writer);
        var state = new StateFile(JsonText.Write(WriteConfiguration), writer.Written.ToArray()).Encode();
        if (state.Length > StateFile.LargestFile)
        {
            throw new SnapshotException($"the state takes {state.Length} bytes, more than the {StateFile.LargestFile} that a state file may have");
        }

        using var memoryFile = new NewFile(creation.MemoryPath);
        machine.SaveMemory(memoryFile, creation.OnlyChanges);
        memoryFile.Sync();
        using var stateFile = new NewFile(creation.StatePath);
        stateFile.Write(0, state);
        stateFile.Sync();
        try
        {
            memoryFile.Commit();
            stateFile.Commit();
            NewFile.SyncDirectoryOf(creation.MemoryPath);
            NewFile.SyncDirectoryOf(creation.StatePath);
        }
        catch (SystemCallException)
        {
            // One without the other is no snapshot, and what the caller had there before may be one.
            stateFile.Revert();
            memoryFile.Revert();
            throw;
        }

        machine.ForgetChanges();
    }
}
