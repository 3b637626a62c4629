using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;
using Fleet.Shared.GuestChannel;
using Google.Protobuf;

namespace Fleet.Scheduler.Cell;

/// <summary>What the HTTP API asks of the sharded actors. Every call is safe to repeat.</summary>
public interface ICell
{
    /// <summary>Creates the microVM under an id that the caller chose. Answers when it is in the journal; a repeat answers the same microVM.</summary>
    /// <param name="notAfter">It is refused when it comes to its actor later than this; null: it is always in time.</param>
    Task<VmAnswer> CreateVmAsync(string vmId, VmSpec spec, CancellationToken cancellation, DateTimeOffset? notAfter = null);

    Task<VmAnswer> GetVmAsync(string vmId, CancellationToken cancellation);

    /// <summary>Stops the microVM, by force when the grace is over. Answers when it is in the journal.</summary>
    /// <param name="vmId">The microVM.</param>
    /// <param name="grace">That its guest gets to power down; null: what its spec says.</param>
    /// <param name="cancellation">Gives up.</param>
    Task<VmAnswer> StopVmAsync(string vmId, TimeSpan? grace, CancellationToken cancellation);

    Task<VmAnswer> StartVmAsync(string vmId, CancellationToken cancellation);

    /// <summary>
    /// Has the running microVM saved on its host and its VMM ended; it holds no room then. Answers when it is in the journal. Code
    /// <c>wrong_state</c> when it does not run or its driver can't save it.
    /// </summary>
    Task<VmAnswer> SuspendVmAsync(string vmId, CancellationToken cancellation);

    /// <summary>Has a suspended microVM go on where it was saved, as soon as its host has room. Code <c>wrong_state</c>.</summary>
    Task<VmAnswer> ResumeVmAsync(string vmId, CancellationToken cancellation);

    Task<VmAnswer> DeleteVmAsync(string vmId, CancellationToken cancellation);

    /// <summary>
    /// Sets, changes or lifts (null) what one rate limiter of the microVM lets pass. Answers when it is in the journal; the host follows.
    /// Code <c>wrong_state</c> when the microVM is being deleted or its driver has no rate limiters.
    /// </summary>
    Task<VmAnswer> LimitVmAsync(string vmId, string limiter, RateLimit? limit, CancellationToken cancellation);

    /// <summary>
    /// What the rate limiters of the microVM do, as its host told last; none while no VMM of its present placement told, and while its
    /// host is not connected.
    /// </summary>
    Task<LimitersAnswer> GetLimitersAsync(string vmId, CancellationToken cancellation);

    /// <summary>The microVM, and what it used in its host's last sample; null while it does not run, no sample came, or its host is not connected.</summary>
    Task<(VmAnswer Answer, VmUse? Use)> GetVmWithUseAsync(string vmId, CancellationToken cancellation);

    /// <summary>Answers as soon as the microVM is in one of the states; code <c>timeout</c> when the time is over first.</summary>
    Task<VmAnswer> WaitVmAsync(string vmId, IReadOnlySet<VmState> states, TimeSpan timeout, CancellationToken cancellation);

    /// <summary>
    /// What this node's placement would do with the spec now: nothing is created or reserved. Throws <see cref="CellException"/> (<c>unavailable</c> when
    /// many ask at once). Briefly it says only whether there is room, and if not why not, however many ask.
    /// </summary>
    Task<PlacementReview> ReviewPlacementAsync(VmSpec spec, CancellationToken cancellation, bool briefly = false);

    Task<HostAnswer> GetHostAsync(string hostId, CancellationToken cancellation);

    /// <summary>What the host has promised to whom, at most so many entries, and its lease. Code <c>not_found</c>.</summary>
    Task<LedgerAnswer> GetLedgerAsync(string hostId, int most, CancellationToken cancellation);

    /// <summary>Whether the host takes no new microVM; those that it has stay. Code <c>not_found</c>.</summary>
    Task<HostAnswer> CordonHostAsync(string hostId, bool cordoned, CancellationToken cancellation);

    /// <summary>
    /// Has the host take no new microVM and those that it has move elsewhere, each stopped with that grace when it has a place; what is
    /// left at the deadline is stopped at once. Answers when it is in the journal. Code <c>not_found</c>.
    /// </summary>
    Task<HostAnswer> DrainHostAsync(string hostId, TimeSpan deadline, TimeSpan grace, CancellationToken cancellation);

    /// <summary>
    /// Forgets a host that is gone. Answers when each of its microVMs has heard that it is lost. Codes <c>host_connected</c>,
    /// <c>host_in_use</c>, <c>not_found</c>.
    /// </summary>
    /// <param name="hostId">The host.</param>
    /// <param name="forced">The caller vouches that its machine is off: for a host that has no lease, whose microVMs are then placed elsewhere.</param>
    /// <param name="cancellation">Gives up.</param>
    Task<HostAnswer> RemoveHostAsync(string hostId, bool forced, CancellationToken cancellation);

    /// <summary>
    /// Makes the host known, and the certificate of that key's SHA-256 the only one that counts for it. Without <paramref name="named"/>
    /// a host that is known already is <c>host_exists</c>, unless by the same key.
    /// </summary>
    Task<HostAnswer> EnrolHostAsync(string hostId, byte[] keyHash, bool named, CancellationToken cancellation);

    /// <summary>The volumes of a tenant, or (null) all that there are, in the order of tenants and names. Throws <see cref="CellException"/>.</summary>
    Task<IReadOnlyList<VolumeRecord>> ListVolumesAsync(string? tenant, CancellationToken cancellation);

    /// <summary>
    /// Creates, copies or removes a volume: <see cref="CreateVolume"/>, <see cref="CopyVolume"/>, <see cref="RemoveVolume"/>. Answers when it is in the journal and,
    /// of the last two, the host has said that nobody has the volume. Throws <see cref="CellException"/> (<c>not_found</c>, <c>name_taken</c>, <c>volume_in_use</c>, <c>too_many_volumes</c>).
    /// </summary>
    Task<VolumeRecord> ChangeVolumeAsync(IToVolumes change, CancellationToken cancellation);

    /// <summary>
    /// Opens the console of the microVM on its host. Throws <see cref="CellException"/> (<c>not_found</c>, <c>wrong_state</c>
    /// when it was never placed, <c>unavailable</c> when its host is not connected).
    /// </summary>
    Task<IConsoleStream> OpenConsoleAsync(string vmId, ulong? offset, bool follow, CancellationToken cancellation);

    /// <summary>Opens what the microVM's command wrote, as lines of JSON. Throws as <see cref="OpenConsoleAsync"/> does.</summary>
    Task<IConsoleStream> OpenLogAsync(string vmId, LogWish wish, bool follow, CancellationToken cancellation);

    /// <summary>
    /// Opens a stream to fleet-init in the microVM. What fleet-init or the host says to the request comes as its first frame. Throws
    /// <see cref="CellException"/> (<c>not_found</c>, <c>wrong_state</c> when it does not run).
    /// </summary>
    /// <param name="vmId">The microVM.</param>
    /// <param name="request">What is wanted, as fleet-init takes it (docs/guest-protocol.md).</param>
    /// <param name="cancellation">Gives up.</param>
    Task<IGuestStream> OpenGuestAsync(string vmId, ReadOnlyMemory<byte> request, CancellationToken cancellation);

    /// <summary>Sends bytes to the guest's console. Throws <see cref="CellException"/>.</summary>
    Task WriteConsoleAsync(string vmId, ReadOnlyMemory<byte> data, CancellationToken cancellation);
}

/// <summary>The record, or the problem. A problem may come with the record it is about.</summary>
public sealed record VmAnswer(VmRecord? Vm, CellProblem? Problem);

/// <param name="Vm">The microVM, with the limits that are wanted.</param>
/// <param name="Limiters">The latest figures, at most one of each limiter.</param>
/// <param name="Problem">Why there is no record.</param>
public sealed record LimitersAnswer(VmRecord? Vm, IReadOnlyList<LimiterFigure> Limiters, CellProblem? Problem);

/// <inheritdoc cref="VmAnswer"/>
public sealed record HostAnswer(HostRecord? Host, CellProblem? Problem);

/// <inheritdoc cref="VmAnswer"/>
public sealed record LedgerAnswer(LedgerRead? Ledger, CellProblem? Problem);

/// <summary>A refusal with a stable code of docs/api.md, "Errors".</summary>
public sealed record CellProblem(string Code, string Message);

/// <summary>A refusal where there is no answer to carry it.</summary>
public sealed class CellException(string code, string message, Exception? inner = null) : Exception(message, inner)
{
    public string Code { get; } = code;
}

/// <summary>A console being read. Disposing it closes the stream on the host.</summary>
public interface IConsoleStream : IAsyncDisposable
{
    /// <summary>Where the first byte stands in the whole output.</summary>
    ulong Offset { get; }

    /// <summary>The bytes in order; ends when the microVM has ended and everything was read, or at once after what there is without <c>follow</c>.</summary>
    IAsyncEnumerable<ReadOnlyMemory<byte>> ReadAsync(CancellationToken cancellation);
}

/// <summary>A stream to fleet-init in a guest. Disposing it closes the stream there. Who uses it keeps a ledger of it.</summary>
public interface IGuestStream : IAsyncDisposable
{
    /// <summary>Sends a frame; only after the first one came.</summary>
    void Send(FrameType type, ReadOnlyMemory<byte> payload);

    /// <summary>
    /// What comes, to the last frame of the stream, which is a refusal too when the way to the guest breaks.
    /// </summary>
    IAsyncEnumerable<(FrameType Type, ReadOnlyMemory<byte> Payload)> ReadAsync(CancellationToken cancellation);
}

/// <summary>Every event of the journal in one order: what the projection reads.</summary>
public interface IEventFeed
{
    /// <summary>Events with an offset above <paramref name="after"/>, then new ones as they come; never skips one.</summary>
    IAsyncEnumerable<JournalEvent> ReadAsync(long after, CancellationToken cancellation);

    /// <summary>The stored events of one actor with a number above <paramref name="after"/>, at most so many, and then no more.</summary>
    IAsyncEnumerable<JournalEvent> ReadOneAsync(string persistenceId, long after, int most, CancellationToken cancellation);

    /// <summary>Offset of the newest event that is stored; 0 when there is none. Who has read up to here has missed nothing so far.</summary>
    Task<long> EndAsync(CancellationToken cancellation);

    /// <summary>The event with that offset; null: there is none.</summary>
    Task<JournalEvent?> FindAsync(long offset, CancellationToken cancellation);

    /// <summary>Why nothing has been read for some seconds now; null: it is, or there is nothing.</summary>
    string? Trouble { get; }
}

/// <summary>One stored event.</summary>
/// <param name="Offset">Rises over the whole journal, with gaps.</param>
/// <param name="PersistenceId"><c>vm-…</c> ids begin with <c>vm/</c>, host ids with <c>host/</c>.</param>
/// <param name="SequenceNr">Counts within the persistence id from 1.</param>
public sealed record JournalEvent(long Offset, string PersistenceId, long SequenceNr, IMessage Event);
