using System.Collections.Concurrent;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Memory;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Tests.Api;

/// <summary>Builds machines without KVM that remember what they were told.</summary>
internal sealed class FakeMachines : IMachineFactory
{
    public MachineException? BuildFailure { get; set; }

    public Exception? PauseFailure { get; set; }

    public Exception? MemoryFailure { get; set; }

    public Exception? RestoreFailure { get; set; }

    /// <summary>What a saved machine writes.</summary>
    public byte[] State { get; set; } = [1, 2, 3];

    public RestoreSource? Source { get; private set; }

    /// <summary>What Stop leads to; null: it never ends.</summary>
    public MachineEndKind? EndOnStop { get; set; } = MachineEndKind.Stopped;

    public MachineCounters Counters { get; set; }

    /// <summary>Everything that was asked, in order.</summary>
    public ConcurrentQueue<string> Calls { get; } = new();

    public MachineSettings? Settings { get; private set; }

    public IMachine Build(MachineSettings settings, EventLoop loop)
    {
        Settings = settings;
        Calls.Enqueue("build");
        return BuildFailure is null ? new Machine(this) : throw BuildFailure;
    }

    public IMachine Restore(MachineSettings settings, RestoreSource source, EventLoop loop)
    {
        Settings = settings;
        Source = source;
        Calls.Enqueue("restore");
        return RestoreFailure is null ? new Machine(this) : throw RestoreFailure;
    }

    private sealed class Machine(FakeMachines owner) : IMachine
    {
        public event Action<MachineEnd>? Ended;

        public IReadOnlyList<int> VcpuThreads { get; private set; } = [];

        public void Start(bool paused = false)
        {
            owner.Calls.Enqueue(paused ? "start paused" : "start");
            VcpuThreads = [101, 102];
        }

        /// <summary>The fake guest obeys by powering off.</summary>
        public void SendCtrlAltDel()
        {
            owner.Calls.Enqueue("ctrl-alt-del");
            Ended?.Invoke(new MachineEnd(MachineEndKind.GuestShutdown, "The guest reset itself."));
        }

        public void Pause()
        {
            owner.Calls.Enqueue("pause");
            if (owner.PauseFailure is not null)
            {
                throw owner.PauseFailure;
            }
        }

        public void Save(StateWriter writer)
        {
            owner.Calls.Enqueue("save");
            writer.Bytes(owner.State);
        }

        public void SaveMemory(NewFile file, bool onlyChanges)
        {
            owner.Calls.Enqueue(onlyChanges ? "save changes" : "save memory");
            if (owner.MemoryFailure is not null)
            {
                throw owner.MemoryFailure;
            }

            file.Write(0, "memory"u8);
        }

        public void ForgetChanges() => owner.Calls.Enqueue("forget changes");

        public void ReplaceDisk(string id, string path) => owner.Calls.Enqueue($"disk {id} {path}");

        private readonly GuestMemory _memory = new(1 << 20);

        public IReadOnlyList<VirtioDevice> Devices => owner.Settings!.Balloon is { } balloon ? [new BalloonDevice(_memory, balloon)] : [];

        public bool ResizeBalloon(uint pages)
        {
            owner.Calls.Enqueue($"balloon {pages}");
            return true;
        }

        public bool Retune(string device, string? queue, LimiterSettings update)
        {
            owner.Calls.Enqueue($"retune {device} {update}");
            return true;
        }

        public void ObserveLease() => owner.Calls.Enqueue($"lease until {owner.Settings!.Lease.LapsesAt / 1_000_000} ms");

        public void Resume() => owner.Calls.Enqueue("resume");

        public void Stop()
        {
            owner.Calls.Enqueue("stop");
            if (owner.EndOnStop is { } kind)
            {
                Ended?.Invoke(new MachineEnd(kind, "Stopped from outside."));
            }
        }

        public MachineCounters ReadCounters() => owner.Counters;

        public void Dispose()
        {
            _memory.Dispose();
            owner.Calls.Enqueue("dispose");
        }
    }
}
