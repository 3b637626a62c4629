using Fleet.Vmm.Boot;
using Fleet.Vmm.Devices;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Snapshots;
using Fleet.Vmm.Tests.Api;
using Fleet.Vmm.Tests.Machines;

namespace Fleet.Vmm.Tests.Snapshots;

/// <summary>Machines on the real /dev/kvm, saved, ended, and restored in another.</summary>
public sealed class MachineSnapshotTests : IDisposable
{
    private readonly ScratchDirectory _files = new();

    public void Dispose() => _files.Dispose();

    [SkippableTheory]
    [InlineData(1)]
    [InlineData(2)]
    public void Should_go_on_where_it_was(int vcpus)
    {
        var saved = Save(vcpus);
        using var run = new MachineRun([], vcpus, saved: saved);
        run.Machine.Start(paused: true);
        run.After(TimeSpan.FromMilliseconds(20), () =>
        {
            Assert.Equal(0ul, run.Machine.ReadCounters().Exits);
            run.Machine.Resume();
        });
        run.Type("nq");
        Assert.Equal(MachineEndKind.GuestShutdown, run.RunToEnd(started: true).Kind);
        Assert.Equal("33", run.Console());
    }

    [SkippableFact]
    public void Should_restore_as_often_as_one_likes_and_leave_the_file_as_it_is()
    {
        var saved = Save(1);
        var before = File.ReadAllBytes(saved.MemoryPath);
        for (var i = 0; i < 3; i++)
        {
            using var run = new MachineRun([], saved: saved);
            run.Type("nnq");
            Assert.Equal(MachineEndKind.GuestShutdown, run.RunToEnd().Kind);
            Assert.Equal("3344", run.Console());
        }

        Assert.Equal(before, File.ReadAllBytes(saved.MemoryPath));
        Assert.Equal(16 << 20, before.Length);

        // The guest's generation id, which each restored machine finds changed.
        Assert.True(before.AsSpan((int)GuestLayout.GenerationId, GenerationId.Size).ContainsAnyExcept((byte)0));
    }

    [SkippableFact]
    public void Should_give_each_restored_guest_a_generation_of_its_own()
    {
        var saved = Save(1);
        var ids = new List<byte[]> { File.ReadAllBytes(saved.MemoryPath)[(int)GuestLayout.GenerationId..][..GenerationId.Size] };
        for (var i = 0; i < 2; i++)
        {
            using var run = new MachineRun([], saved: saved);
            run.Machine.Start(paused: true);
            var memory = _files.File($"again-{i}");
            run.Machine.SaveMemory(memory);
            ids.Add(File.ReadAllBytes(memory)[(int)GuestLayout.GenerationId..][..GenerationId.Size]);
            run.Machine.Stop();
            _ = run.RunToEnd(started: true);
        }

        Assert.Equal(3, ids.Select(Convert.ToHexString).Distinct().Count());
    }

    [SkippableFact]
    public void Should_go_on_in_the_saved_machine_too()
    {
        var goesOn = "";
        _ = Save(1, run =>
        {
            run.Machine.Resume();
            run.Type("nq");
        }, console => goesOn = console);
        Assert.Equal("112233", goesOn);
    }

    [SkippableFact]
    public void Should_refuse_what_does_not_fit()
    {
        var saved = Save(1);
        var other = Assert.Throws<MachineException>(() => new MachineRun([], vcpus: 2, saved: saved));
        Assert.Contains("1 vCPUs and the configuration in it 2", other.Message, StringComparison.Ordinal);
        other = Assert.Throws<MachineException>(() => new MachineRun([], entropy: true, saved: saved));
        Assert.Contains("0 devices and the configuration in it 1", other.Message, StringComparison.Ordinal);
        other = Assert.Throws<MachineException>(() => new MachineRun([], memoryMib: 32, saved: saved));
        Assert.Contains("has 16777216 bytes, the microVM's memory 33554432", other.Message, StringComparison.Ordinal);
        other = Assert.Throws<MachineException>(() => new MachineRun([], saved: saved with { State = saved.State[..^1] }));
        Assert.Contains("ends too early", other.Message, StringComparison.Ordinal);
    }

    private SavedMachine Save(int vcpus, Action<MachineRun>? then = null, Action<string>? console = null)
    {
        var state = new StateWriter();
        var memory = _files.File("memory");
        using var run = new MachineRun(ElfImage.Linux64(GuestPrograms.Count), vcpus);
        run.Type("nn");
        run.Poll(() =>
        {
            if (run.Machine.ReadCounters().SerialBytesOut < 4)
            {
                return false;
            }

            run.Machine.Pause();
            run.Machine.SaveState(state);
            run.Machine.SaveMemory(memory);
            (then ?? (_ => run.Machine.Stop()))(run);
            return true;
        });
        _ = run.RunToEnd();
        var said = run.Console();
        Assert.StartsWith("1122", said, StringComparison.Ordinal);
        console?.Invoke(said);
        return new SavedMachine(state.Written.ToArray(), memory, GoesOnInRealTime: false);
    }
}
