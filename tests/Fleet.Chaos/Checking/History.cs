using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Google.Protobuf;

namespace Fleet.Chaos.Checking;

/// <summary>Everything that a run left behind, for the checker. All times are milliseconds of CLOCK_BOOTTIME of the one machine it ran on.</summary>
internal sealed record History
{
    /// <summary>When guests ran, by the VMMs' own word.</summary>
    public IReadOnlyList<RunInterval> Runs { get; init; } = [];

    /// <summary>Every request of the load, in the order in which they were sent.</summary>
    public IReadOnlyList<ClientRequest> Requests { get; init; } = [];

    /// <summary>The events of microVMs and hosts, in the journal's order.</summary>
    public IReadOnlyList<StoredEvent> Journal { get; init; } = [];

    /// <summary>What the API lists once everything has come to rest.</summary>
    public IReadOnlyList<FinalVm> Final { get; init; } = [];

    /// <summary>What each host may promise.</summary>
    public IReadOnlyDictionary<string, HostCaps> Caps { get; init; } = new Dictionary<string, HostCaps>();

    /// <summary>When hosts could not speak with the control plane, by whoever cut them off.</summary>
    public IReadOnlyList<Silence> Silences { get; init; } = [];

    /// <summary>What was done to the processes of hosts.</summary>
    public IReadOnlyList<Strike> Strikes { get; init; } = [];

    /// <summary>When a node of the control plane or its database could not work, by whoever broke it, until it answered again.</summary>
    public IReadOnlyList<Outage> Outages { get; init; } = [];

    /// <summary>Which nodes carried the shards of actors, as the nodes said.</summary>
    public IReadOnlyList<Sighting> Sightings { get; init; } = [];

    /// <summary>When hosts' actors that were recovered began to count, as they said.</summary>
    public IReadOnlyList<Recount> Recounts { get; init; } = [];

    /// <summary>What was not at rest long after everything was healed; null: all was.</summary>
    public string? Unrest { get; init; }

    /// <summary>Processes that ended by themselves.</summary>
    public IReadOnlyList<Crash> Crashes { get; init; } = [];

    /// <summary>When nodes of the control plane were stopped and let go.</summary>
    public IReadOnlyList<Stall> Stalls { get; init; } = [];

    /// <summary>The control plane is of several nodes.</summary>
    public bool OfSeveral { get; init; }

    /// <summary>Launches whose VMM was killed on purpose: these may say <c>failed</c>, under that epoch and no other.</summary>
    public IReadOnlySet<(string Vm, ulong Epoch)> Broken { get; init; } = new HashSet<(string, ulong)>();

    /// <summary>Lease lifetime of the hosts.</summary>
    public TimeSpan Lease { get; init; } = TimeSpan.FromSeconds(20);

    /// <summary>How often hosts renew, by default (docs/fencing.md).</summary>
    public TimeSpan Heartbeat => Lease / 3 < TimeSpan.FromSeconds(3) ? Lease / 3 : TimeSpan.FromSeconds(3);

    /// <summary>When <see cref="Final"/> was read.</summary>
    public long EndMs { get; init; }

    /// <summary>Whether every host kept a run log, so that what is said to run must be seen to.</summary>
    public bool HasRunLogs { get; init; } = true;
}

/// <summary>A time in which a guest may have executed.</summary>
/// <param name="Vm">The microVM.</param>
/// <param name="Epoch">Of the launch.</param>
/// <param name="Launch">Names the VMM: one launch may run, stand and run again.</param>
/// <param name="Host">Where.</param>
/// <param name="Strict">False: it may run twice by its user's wish.</param>
/// <param name="FromMs">From here on it may have run.</param>
/// <param name="SureToMs">The last sign that it ran, or its word that it did not any more when that came on time.</param>
/// <param name="PossibleToMs">The launch's next line, or when that was due. What happened in between <see cref="Executions"/> says.</param>
internal sealed record RunInterval(string Vm, ulong Epoch, string Launch, string Host, bool Strict, long FromMs, long SureToMs, long PossibleToMs)
{
    /// <summary>The interval ended with its guest standing still, not with the death of its VMM.</summary>
    public bool Stood { get; init; }

    /// <summary>The launch wrote nothing more after it.</summary>
    public bool Open { get; init; }
}

internal enum Verb
{
    Create,
    Stop,
    Delete,
    Read,
    Suspend,
    Resume,
}

/// <summary>One request of the load and its answer.</summary>
/// <param name="Verb">What was wanted.</param>
/// <param name="Key">Of a create: its idempotency key, the same for every retry, and the microVM's name.</param>
/// <param name="Vm">Of the others, and of a create that was answered: the microVM's id.</param>
/// <param name="SentMs">When it was sent.</param>
/// <param name="AnsweredMs">Null: no answer came.</param>
/// <param name="Status">HTTP status; 0: no answer came.</param>
internal sealed record ClientRequest(Verb Verb, string Key, string? Vm, long SentMs, long? AnsweredMs, int Status)
{
    /// <summary>Which node was asked, and the answer's code: for people.</summary>
    public string Detail { get; init; } = "";

    public bool Acknowledged => Status is >= 200 and < 300;
}

/// <summary>An event as it was stored.</summary>
/// <param name="Order">Place in the journal.</param>
/// <param name="PersistenceId"><c>vm/…</c> or <c>host/…</c>.</param>
/// <param name="SequenceNumber">Of that id, from 1.</param>
/// <param name="Event">One of events.proto.</param>
/// <param name="AtMs">When, by the wall clock of the node that stored it; <see cref="JournalClock"/> puts right what one that was moved said.</param>
internal sealed record StoredEvent(long Order, string PersistenceId, long SequenceNumber, IMessage Event, long AtMs);

/// <summary>A microVM at the end, by the API.</summary>
internal sealed record FinalVm(string Id, VmState State, string? ReasonCode, string? Host, ulong Epoch);

/// <summary>What a host may promise: its inventory times the ratios.</summary>
internal readonly record struct HostCaps(ulong Cpus, ulong MemoryMib);

/// <summary>A host could not renew its lease at any moment of it.</summary>
internal sealed record Silence(string Host, long FromMs, long ToMs);

internal enum StrikeKind
{
    /// <summary>The agent and every VMM were stopped; nothing of them ran from the first moment to the last.</summary>
    Hang,

    /// <summary>The agent and every VMM were dead by the first moment.</summary>
    PowerOff,

    /// <summary>One VMM was dead by the first moment.</summary>
    KillVmm,

    /// <summary>One VMM was stopped; nothing of it ran from the first moment to the last.</summary>
    HangVmm,

    /// <summary>The agent, by whatever cause, was dead by the first moment; VMMs went on.</summary>
    AgentEnd,
}

/// <summary>What was done to the processes of a host.</summary>
/// <param name="Kind">What.</param>
/// <param name="Host">To whom.</param>
/// <param name="FromMs">When it had been done.</param>
/// <param name="ToMs">Of <see cref="StrikeKind.Hang"/> and <see cref="StrikeKind.HangVmm"/>: just before the first process went on. Of the others: the same moment.</param>
internal sealed record Strike(StrikeKind Kind, string Host, long FromMs, long ToMs)
{
    /// <summary>Of <see cref="StrikeKind.KillVmm"/> and <see cref="StrikeKind.HangVmm"/>.</summary>
    public string? Vm { get; init; }

    /// <summary>Of <see cref="StrikeKind.KillVmm"/> and <see cref="StrikeKind.HangVmm"/>.</summary>
    public ulong Epoch { get; init; }
}

/// <summary>A node of the control plane, or its database, was away, slow or hard to reach.</summary>
/// <param name="Process">The node's name, or <see cref="Database"/>.</param>
internal sealed record Outage(string Process, long FromMs, long ToMs)
{
    public const string Database = "database";

    /// <summary>A node did not reach the database, and was reached by its peers.</summary>
    public bool FromDatabase { get; init; }
}

/// <summary>A shard was seen at a node, and at no other in between.</summary>
/// <param name="Region">The kind of actors.</param>
/// <param name="Process">The node's name.</param>
/// <param name="FromMs">First.</param>
/// <param name="ToMs">Last.</param>
internal sealed record Sighting(string Region, string Shard, string Process, long FromMs, long ToMs)
{
    private static readonly VmExtractor Vms = new();
    private static readonly HostExtractor Hosts = new();

    public static (string Region, string Shard) ShardOfVm(string id) => (ShardRegions.Vms, Vms.ShardId(id));

    public static (string Region, string Shard) ShardOfHost(string id) => (ShardRegions.Hosts, Hosts.ShardId(id));
}

/// <summary>An actor of a host that was just recovered, and has granted nothing since, counts the host's silence from then on.</summary>
internal sealed record Recount(string Host, long AtMs);

/// <summary>A process ended though nobody ended it.</summary>
/// <param name="Process">Its name.</param>
/// <param name="IsScheduler">It is a node of the control plane.</param>
/// <param name="SeenMs">When that was seen.</param>
/// <param name="Log">The last it said, of this life of it.</param>
internal sealed record Crash(string Process, bool IsScheduler, long SeenMs, string Log);

/// <summary>A process was stopped, and went on at the end.</summary>
internal sealed record Stall(string Process, long FromMs, long ToMs);

/// <summary>A promise that was broken.</summary>
/// <param name="Rule">Stable code of the rule; see docs/reliability.md.</param>
/// <param name="Subject">The microVM or host.</param>
/// <param name="Message">What was seen, with times.</param>
internal sealed record Violation(string Rule, string Subject, string Message)
{
    public override string ToString() => $"{Rule}: {Subject}: {Message}";
}
