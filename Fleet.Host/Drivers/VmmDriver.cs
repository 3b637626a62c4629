using Fleet.Host.Fencing;
using Fleet.Host.Images.Oci;
using Fleet.Host.Networks;
using Fleet.Host.Pressure;
using Fleet.Host.Snapshots;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Drivers;

/// <summary>One way to run a microVM on this host: <c>kvm</c>, <c>qemu</c> or <c>simulated</c>.</summary>
public interface IVmmDriver
{
    /// <summary>The driver's name as specs and reports use it.</summary>
    string Name { get; }

    /// <summary>Finds out what this machine can do with the driver. Never throws; a failed probe is an answer.</summary>
    Task<DriverStatus> ProbeAsync(CancellationToken cancellation);

    /// <summary>
    /// Starts the VMM in its own session and boots the guest. When the task ends the guest's first instruction
    /// has been asked for. On failure throws <see cref="LaunchFailedException"/> and leaves no process behind; what it was to go on from
    /// (<see cref="VmmLaunch.SnapshotEpoch"/>) is still there then, and gone before its guest ran otherwise.
    /// </summary>
    Task<IVmm> LaunchAsync(VmmLaunch launch, CancellationToken cancellation);

    /// <summary>
    /// Takes over a VMM that an earlier agent started, from what stands in its directory. The VMM may have ended
    /// meanwhile: then <see cref="IVmm.Completion"/> is complete and tells how. Null when no guest was ever started there,
    /// and then nothing of it runs: the launch may be done anew.
    /// </summary>
    Task<IVmm?> AdoptAsync(VmmLaunch launch, CancellationToken cancellation);
}

/// <summary>A VMM that runs one microVM, or has run it.</summary>
public interface IVmm : IAsyncDisposable
{
    /// <summary>Process id, 0 when the driver has no process.</summary>
    int Pid { get; }

    /// <summary>Completes once, when the VMM is gone. Never faults.</summary>
    Task<VmmEnd> Completion { get; }

    /// <summary>Completes when fleet-init said that the guest is ready, or is cancelled when the VMM is gone first.</summary>
    Task GuestReady { get; }

    /// <summary>Thread ids of the vCPUs, in order; none when the driver can't tell. Cancelled when the VMM is gone before they were known.</summary>
    Task<IReadOnlyList<int>> VcpuThreads { get; }

    /// <summary>
    /// Asks the guest to power down, then ends the VMM when <paramref name="grace"/> is over. Completes when it is gone;
    /// bounded by grace + 5 s.
    /// </summary>
    Task StopAsync(TimeSpan grace);

    /// <summary>What a rate limiter does and did; null when the VMM has none of that name.</summary>
    /// <param name="name">Of <see cref="Fleet.Shared.Vms.RateLimitRules.Names"/>.</param>
    /// <param name="cancellation">Gives up.</param>
    Task<LimiterReading?> ReadLimiterAsync(string name, CancellationToken cancellation);

    /// <summary>What it has used; null when that can't be told, as of one that is gone.</summary>
    VmmUse? ReadUse();

    /// <summary>Sets what a rate limiter lets pass; null: everything. Throws when the VMM can't.</summary>
    Task SetLimiterAsync(string name, RateLimit? limit, CancellationToken cancellation);

    /// <summary>What its balloon holds; null: it has none.</summary>
    Task<BalloonReading?> ReadBalloonAsync(CancellationToken cancellation) => Task.FromResult<BalloonReading?>(null);

    /// <summary>Asks the guest to do without so much memory. Throws when the VMM can't.</summary>
    /// <param name="targetMib">MiB, at most what it has.</param>
    /// <param name="tells">How often the guest is to tell of its memory from now on, whole seconds.</param>
    /// <param name="cancellation">Gives up.</param>
    Task SetBalloonAsync(uint targetMib, TimeSpan tells, CancellationToken cancellation) => Task.CompletedTask;

    /// <summary>Sets what it may use of the CPUs; nothing where the driver can't limit that.</summary>
    /// <exception cref="IOException">The kernel does not take it.</exception>
    void ShareCpu(CpuShare share)
    {
    }

    /// <summary>
    /// Passes the host's lease on to the VMM, which from then on stops its guest by itself when it lapses. False: this VMM
    /// can't, and whoever owns it has to end it. Throws when the VMM does not answer.
    /// </summary>
    Task<bool> HoldLeaseAsync(VmmLease lease, CancellationToken cancellation);

    /// <summary>
    /// A connection to fleet-init, of which there is one at a time; null: this microVM has no way to it. Whether fleet-init is
    /// there, only its greeting tells.
    /// </summary>
    /// <exception cref="IOException">The VMM does not take it.</exception>
    Task<Stream?> ConnectGuestAsync(CancellationToken cancellation) => Task.FromResult<Stream?>(null);
    /// Saves the microVM into its directory and ends the VMM, for good: <see cref="Completion"/> then tells that it was saved. An agent that
    /// is killed meanwhile leaves a VMM or a whole snapshot, and <see cref="IVmmDriver.AdoptAsync"/> has either go on.
    /// </summary>
    /// <exception cref="SnapshotFailedException">It could not be saved: nothing of a snapshot is left, and the guest runs on.</exception>
    /// <param name="forHost">That host may fetch it; empty: nobody.</param>
    /// <param name="forEnrolment">With a certificate of that enrolment.</param>
    Task SuspendAsync(string forHost = "", uint forEnrolment = 0) => throw new SnapshotFailedException("Its driver can't save it.");

    /// <summary>Bytes for the guest's serial console. Drops what the guest does not take.</summary>
    ValueTask WriteConsoleAsync(ReadOnlyMemory<byte> input, CancellationToken cancellation);
}

/// <summary>What a rate limiter does, and did since its VMM began.</summary>
/// <param name="InForce">Null: it lets everything pass.</param>
/// <param name="PassedOps">Operations that it let pass.</param>
/// <param name="PassedBytes">Their bytes.</param>
/// <param name="ThrottledCount">Requests that had to wait.</param>
/// <param name="ThrottledMicroseconds">How long they waited together.</param>
public sealed record LimiterReading(RateLimit? InForce, ulong PassedOps, ulong PassedBytes, ulong ThrottledCount, ulong ThrottledMicroseconds);

/// <summary>Everything a driver needs to start one microVM under one epoch.</summary>
/// <param name="VmId">The microVM.</param>
/// <param name="Epoch">The placement that this launch belongs to.</param>
/// <param name="Spec">A validated spec.</param>
/// <param name="Directory">The microVM's own directory on the host; sockets, logs and pid file live there.</param>
public sealed record VmmLaunch(string VmId, ulong Epoch, VmSpec Spec, string Directory)
{
    /// <summary>Until when the guest may run; null: nobody limits that.</summary>
    public VmmLease? Lease { get; init; }

    /// <summary>The OCI image that it runs; null: the spec names none.</summary>
    public LaunchImage? Image { get; init; }

    /// <summary>The launch whose snapshot in the directory it goes on from; 0: it boots.</summary>
    public ulong SnapshotEpoch { get; init; }

    /// <summary>Its network interface; null: none.</summary>
    public VmmInterface? Link { get; init; }

    /// <summary>Its volumes in the order of its spec: files on this host that are its disks, behind the image's.</summary>
    public IReadOnlyList<string> VolumeDisks { get; init; } = [];

    /// <summary>By which the guest knows a disk: the serial number of the volume of that number.</summary>
    public static string VolumeSerial(int number) => $"volume{number}";
}

/// <summary>A microVM's network interface: the tap is there, with every rule that guards it.</summary>
/// <param name="Place">Addresses.</param>
/// <param name="Tap">The interface of the host that the VMM is to open.</param>
public sealed record VmmInterface(Attachment Place, string Tap);

/// <summary>An OCI image that is here.</summary>
/// <param name="RootPath">Its root file system, a read-only squashfs that other microVMs use as well.</param>
/// <param name="Run">What it runs.</param>
public sealed record LaunchImage(string RootPath, ImageRun Run);

/// <summary>How a VMM ended.</summary>
/// <param name="InOrder">The guest powered off, reset, or was stopped on request; otherwise <paramref name="Reason"/> says what broke.</param>
/// <param name="Exit">What fleet-init reported of the command, if it did.</param>
/// <param name="Reason">Stable code and sentence; see docs/api.md.</param>
public sealed record VmmEnd(bool InOrder, GuestExit? Exit, Reason Reason)
{
    /// <summary>Of one that was saved, see <see cref="IVmm.SuspendAsync"/>.</summary>
    public static readonly VmmEnd OfSaved = new(true, null, new Reason { Code = "suspended", Message = "Saved on request." }) { Saved = true };

    /// <summary>Its whole state is in a snapshot beside it.</summary>
    public bool Saved { get; init; }
}

/// <summary>A launch that did not work. Nothing of it runs any more.</summary>
public sealed class LaunchFailedException(string code, string message, Exception? inner = null) : Exception(message, inner)
{
    /// <summary>Stable reason code, for example <c>kernel_invalid</c>.</summary>
    public string Code { get; } = code;
}
