using Fleet.Vmm.Boot;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Devices.Virtio.Vsock;
using Fleet.Vmm.Fencing;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Metadata;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Machines;

/// <summary>One virtual machine, built and not yet started, running, paused, or ended.</summary>
/// <remarks>
/// All members are called on the event-loop thread. <see cref="Ended"/> is raised there too, exactly once.
/// </remarks>
internal interface IMachine : IDisposable
{
    /// <summary>Raised when every vCPU thread has been joined and nothing of the guest runs any more.</summary>
    event Action<MachineEnd>? Ended;

    /// <summary>Thread ids (gettid) of the vCPUs, in order; empty before <see cref="Start"/>.</summary>
    IReadOnlyList<int> VcpuThreads { get; }

    /// <summary>Starts the vCPU threads at the guest's entry point, or where a restored guest stopped.</summary>
    /// <param name="paused">They wait for <see cref="Resume"/>.</param>
    void Start(bool paused = false);

    /// <summary>Presses Ctrl-Alt-Del on the i8042's keyboard.</summary>
    void SendCtrlAltDel();

    /// <summary>Stops every vCPU outside the guest; returns when the last one has left it, within a bounded time.</summary>
    void Pause();

    /// <summary>Undoes <see cref="Pause"/>.</summary>
    void Resume();

    /// <summary>Writes the state of a paused machine, all but its memory. Throws <see cref="SystemCallException"/>.</summary>
    void Save(StateWriter writer);

    /// <summary>
    /// Writes the memory of a paused machine, byte for byte at its place, holes where there is nothing to write.
    /// Throws <see cref="SystemCallException"/> or <see cref="SnapshotException"/>; the next attempt writes no less than this one.
    /// </summary>
    /// <param name="file">A new, empty file.</param>
    /// <param name="onlyChanges">Only the pages that were written since the last snapshot or, when nobody kept track, ever.</param>
    void SaveMemory(NewFile file, bool onlyChanges);

    /// <summary>The snapshot is safe: from now on <see cref="SaveMemory"/> counts changes from it.</summary>
    void ForgetChanges();

    /// <summary>
    /// Puts another file behind a disk and tells the guest its size. Throws <see cref="SystemCallException"/> or
    /// <see cref="NotARegularFileException"/>, and then the old one stays.
    /// </summary>
    void ReplaceDisk(string id, string path);

    /// <summary>Has the guest told that its balloon shall hold so many pages; false when it has none.</summary>
    bool ResizeBalloon(uint pages);

    /// <summary>
    /// Changes a limiter; whoever waits at it looks again. False when no device has that place in the API
    /// (<see cref="VirtioDevice.Path"/>) and such a queue with a limiter.
    /// </summary>
    bool Retune(string device, string? queue, LimiterSettings update);

    /// <summary>The devices, in the order in which the guest finds them.</summary>
    IReadOnlyList<VirtioDevice> Devices { get; }

    /// <summary>
    /// <see cref="MachineSettings.Lease"/> was made longer: a guest that stands still for want of it goes on, if it is not
    /// paused. Throws <see cref="SystemCallException"/> when the kernel gives no timer that would stop it.
    /// </summary>
    void ObserveLease();

    /// <summary>Ends the machine from outside. <see cref="Ended"/> follows within a bounded time.</summary>
    void Stop();

    /// <summary>Counters since start, cheap to read at any time.</summary>
    MachineCounters ReadCounters();
}

/// <summary>Builds machines; the seam between the API and KVM.</summary>
internal interface IMachineFactory
{
    /// <summary>
    /// Allocates guest memory, loads the kernel and creates the vCPUs.
    /// Throws <see cref="MachineException"/>, and then leaves nothing behind.
    /// </summary>
    IMachine Build(MachineSettings settings, EventLoop loop);

    /// <summary>
    /// Builds the machine that a snapshot was taken of, not yet started.
    /// Throws <see cref="MachineException"/> or <see cref="SnapshotException"/>, and then leaves nothing behind.
    /// </summary>
    IMachine Restore(MachineSettings settings, RestoreSource source, EventLoop loop);
}

/// <summary>What a machine is built from. Ranges are checked by the API before this is made.</summary>
internal sealed record MachineSettings
{
    /// <summary>1 to 32.</summary>
    public required int Vcpus { get; init; }

    /// <summary>Guest memory in MiB.</summary>
    public required int MemoryMib { get; init; }

    public required string KernelPath { get; init; }

    public string? InitrdPath { get; init; }

    /// <summary>The user's command line, or Firecracker's default. The machine appends what it needs itself.</summary>
    public required string BootArgs { get; init; }

    /// <summary>Disks, in the order in which the guest finds them.</summary>
    public IReadOnlyList<DiskSettings> Disks { get; init; } = [];

    /// <summary>Where the guest's kernel finds its root file system; null: it is told nothing.</summary>
    public RootDevice? Root { get; init; }

    /// <summary>Network interfaces, in the order in which the guest finds them.</summary>
    public IReadOnlyList<NetworkSettings> Networks { get; init; } = [];

    /// <summary>The metadata service, where some of the network interfaces lead to it.</summary>
    public MetadataService? Metadata { get; init; }

    /// <summary>Memory balloon; null: there is none.</summary>
    public BalloonSettings? Balloon { get; init; }

    /// <summary>Sockets between guest and host; null: there are none.</summary>
    public VsockSettings? Vsock { get; init; }

    /// <summary>Limits of a virtio device that gives the guest randomness of the host; null: there is none.</summary>
    public LimiterSettings? Entropy { get; init; }

    /// <summary>KVM notes which pages the guest writes, for snapshots of what changed.</summary>
    public bool TrackDirtyPages { get; init; }

    /// <summary>Changes to what KVM shows the guest of the processor; null: none.</summary>
    public CpuTemplate? CpuTemplate { get; init; }

    /// <summary>Where the guest's console goes, and how much of it.</summary>
    public SerialSettings Serial { get; init; } = new(null, null);

    /// <summary>File that takes what the guest writes to COM2; without it there is no COM2.</summary>
    public string? StatusPortPath { get; init; }

    /// <summary>The right to run the guest; one that was never given has no end.</summary>
    public Lease Lease { get; init; } = new();

    /// <summary>Takes when the guest runs; null: nobody wants to know. It outlives the machine.</summary>
    public RunLog? RunLog { get; init; }
}

/// <summary>The console on COM1.</summary>
/// <param name="OutputPath">File or FIFO that takes what the guest writes, and then nothing comes in; null: standard output, and standard input comes in.</param>
/// <param name="Limit">Bytes beyond it are dropped, not kept waiting; null: none are.</param>
internal sealed record SerialSettings(string? OutputPath, BucketSettings? Limit);

/// <summary>The kernel's words for its root file system: <c>root=</c> this, and whether to mount it read-only.</summary>
internal sealed record RootDevice(string Name, bool ReadOnly);

/// <summary>How a machine ended.</summary>
internal enum MachineEndKind
{
    /// <summary>The guest powered off or reset itself.</summary>
    GuestShutdown,

    /// <summary>Triple fault, or an access that can't be emulated.</summary>
    GuestCrashed,

    /// <summary>Every vCPU halted for good with interrupts off.</summary>
    GuestHalted,

    /// <summary><see cref="IMachine.Stop"/>.</summary>
    Stopped,

    /// <summary>Nobody made the lease longer in time.</summary>
    LeaseOver,

    /// <summary>KVM or the VMM itself failed.</summary>
    VmmFailed,
}

/// <summary>How a machine ended, with a sentence for people.</summary>
internal sealed record MachineEnd(MachineEndKind Kind, string Message);

/// <summary>Sums over all vCPUs and devices.</summary>
internal readonly record struct MachineCounters(
    ulong Exits, ulong ExitsIoIn, ulong ExitsIoOut, ulong ExitsMmioRead, ulong ExitsMmioWrite,
    ulong SerialBytesOut, ulong SerialBytesIn, ulong SerialMissedWrites, ulong I8042Resets)
{
    public ulong SerialDroppedBytes { get; init; }

    public ExitLatency IoInLatency { get; init; }

    public ExitLatency IoOutLatency { get; init; }

    public ExitLatency MmioReadLatency { get; init; }

    public ExitLatency MmioWriteLatency { get; init; }
}

/// <summary>How long exits of one kind took from KVM's return until the guest may go on, in nanoseconds, since the machine began.</summary>
/// <param name="Least">The shortest; 0 when there was none.</param>
/// <param name="Most">The longest.</param>
/// <param name="Sum">All together.</param>
internal readonly record struct ExitLatency(ulong Least, ulong Most, ulong Sum)
{
    /// <summary>Of two vCPUs together.</summary>
    public static ExitLatency operator +(ExitLatency one, ExitLatency other) => new(
        one.Least == 0 ? other.Least : other.Least == 0 ? one.Least : Math.Min(one.Least, other.Least),
        Math.Max(one.Most, other.Most),
        one.Sum + other.Sum);
}

/// <summary>What kind of thing went wrong while building a machine; the API and the exit report name it.</summary>
internal enum MachineFault
{
    KernelMissing,
    KernelInvalid,
    InitrdMissing,
    InitrdInvalid,
    BootArgsInvalid,
    OutOfMemory,
    KvmUnavailable,
    Other,
}

/// <summary>A machine that could not be built.</summary>
internal sealed class MachineException(MachineFault fault, string message, Exception? inner = null) : Exception(message, inner)
{
    public MachineFault Fault { get; } = fault;
}
