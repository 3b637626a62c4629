using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Snapshots;
using Fleet.Vmm.Tests.Machines;

namespace Fleet.Vmm.Tests.Snapshots;

/// <summary>What is left of a machine on the real KVM: its state, and its memory in a file that is gone with this.</summary>
internal sealed class SavedMachine : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("fleet-vmm-snapshot-").FullName;

    private SavedMachine()
    {
    }

    public byte[] State { get; private set; } = [];

    public string MemoryPath => Path.Combine(_directory, "memory");

    public string Console { get; private set; } = "";

    public byte[] ConsoleBytes { get; private set; } = [];

    public RestoreSource Source => new(State, MemoryPath, ByFaultHandler: false, FollowRealtime: false);

    /// <summary>Types, waits until the guest has sent so many bytes, pauses, saves, and gives the machine up.</summary>
    public static SavedMachine From(MachineRun run, string typed, int answered, Action<SavedMachine>? whilePaused = null)
    {
        var saved = new SavedMachine();
        saved.Take(run, typed, answered);
        whilePaused?.Invoke(saved);
        saved.ConsoleBytes = run.ConsoleBytes();
        saved.Console = System.Text.Encoding.ASCII.GetString(saved.ConsoleBytes);
        return saved;
    }

    public string File(string name) => Path.Combine(_directory, name);

    /// <summary>State of a paused machine.</summary>
    public static byte[] StateOf(IMachine machine)
    {
        var writer = new StateWriter();
        machine.Save(writer);
        return writer.Written.ToArray();
    }

    /// <summary>Memory of a paused machine as a file.</summary>
    public static void WriteMemory(IMachine machine, string path, bool onlyChanges)
    {
        using var file = new NewFile(path);
        machine.SaveMemory(file, onlyChanges);
        file.Commit();
        machine.ForgetChanges();
    }

    /// <summary>Runs a machine until it has sent so many bytes more, then pauses it.</summary>
    public static void Step(MachineRun run, string typed, int answered)
    {
        var before = run.Machine.ReadCounters().SerialBytesOut;
        run.Type(typed);
        var late = false;
        using var limit = new LoopTimer(run.Loop, () =>
        {
            late = true;
            throw new AnsweredException();
        });
        using var look = new LoopTimer(run.Loop, () =>
        {
            if (run.Machine.ReadCounters().SerialBytesOut >= before + (ulong)answered)
            {
                throw new AnsweredException();
            }
        });
        limit.Start(TimeSpan.FromSeconds(20), TimeSpan.Zero);
        look.Start(TimeSpan.FromMilliseconds(1), TimeSpan.FromMilliseconds(1));

        // What a callback throws ends the loop, which can run again.
        Assert.Throws<AnsweredException>(() => run.Loop.Run());
        Assert.False(late, $"the guest sent {run.Machine.ReadCounters().SerialBytesOut - before} of {answered} bytes");
        run.Machine.Pause();
    }

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    private void Take(MachineRun run, string typed, int answered)
    {
        if (run.Machine.VcpuThreads.Count == 0)
        {
            run.Machine.Start();
        }

        if (answered > 0)
        {
            Step(run, typed, answered);
        }
        else
        {
            run.Machine.Pause();
        }

        State = StateOf(run.Machine);
        WriteMemory(run.Machine, MemoryPath, onlyChanges: false);
    }

    private sealed class AnsweredException : Exception;
}
