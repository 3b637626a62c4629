using Fleet.Scheduler.Access;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Journal;
using Fleet.Scheduler.Prediction;

namespace Fleet.Scheduler.Cell;

/// <summary>How one control-plane node runs. The defaults make a cell of one node; with a database it is one of those that share it.</summary>
public sealed record CellOptions
{
    /// <summary>Folder of the journal; made when it is not there.</summary>
    public required string DataDirectory { get; init; }

    /// <summary>The database that the cell's nodes share; null: a SQLite file in <see cref="DataDirectory"/>, for a cell of one node.</summary>
    public PostgresDatabase? Database { get; init; }

    /// <summary>Where other nodes reach this one.</summary>
    public string RemotingHost { get; init; } = "127.0.0.1";

    /// <summary>0: any free port, for a cell of one node.</summary>
    public int RemotingPort { get; init; }

    /// <summary>Signs what nodes show to each other; null: they speak in clear text and to anybody, which only a test may do.</summary>
    public CertificateAuthority? Authority { get; init; }

    public TimeProvider Clock { get; init; } = TimeProvider.System;

    public Serilog.ILogger Log { get; init; } = Serilog.Core.Logger.None;

    /// <summary>
    /// How often an agent shows that it lives and gets its lease anew; it is told in Welcome. A lease has six: more often costs every node of a large fleet
    /// (docs/reliability.md) and gains nothing, since a dead host's lease ends no later.
    /// </summary>
    public TimeSpan Heartbeat { get; init; } = TimeSpan.FromSeconds(3);

    /// <summary>
    /// Silence after which a stream is cut and its host counts as disconnected. Three beats: a busy agent may miss some; much longer,
    /// and placements go on choosing a dead host.
    /// </summary>
    public TimeSpan HostDeadAfter { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How long hosts may run their microVMs without word from here, and what that means on both sides.</summary>
    public LeaseTerms Lease { get; init; } = LeaseTerms.Default;

    /// <summary>When a host on which launches fail gets no microVM.</summary>
    public QuarantineTerms Quarantine { get; init; } = QuarantineTerms.Default;

    /// <summary>vCPUs that a host may promise per hardware thread.</summary>
    public double CpuRatio { get; init; } = 4.0;

    /// <summary>Memory that a host may promise per MiB that it has for microVMs. Above 1 the sum of limits can exceed the machine.</summary>
    public double MemoryRatio { get; init; } = 1.0;

    /// <summary>Disk that a host may promise per MiB that it has for microVMs.</summary>
    public double DiskRatio { get; init; } = 1.0;

    /// <summary>Network bandwidth that a host may promise per Mbit/s of its link.</summary>
    public double NetworkRatio { get; init; } = 1.0;

    /// <summary>Disk operations a second that a host may promise per one that it has.</summary>
    public double IopsRatio { get; init; } = 1.0;

    /// <summary>The five ratios.</summary>
    public CapacityCaps Caps => new(CpuRatio, MemoryRatio) { DiskRatio = DiskRatio, NetworkRatio = NetworkRatio, IopsRatio = IopsRatio };

    /// <summary>How hosts promise by what is really used, within the two ratios; null: by the ratios alone.</summary>
    public PredictionTerms? Prediction { get; init; }

    /// <summary>How long a node waits for the answer of an actor before it says <c>unavailable</c>.</summary>
    public TimeSpan AskTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>An unplaced microVM tries again at least this often, even when no capacity change was heard.</summary>
    public TimeSpan PlacementRetry { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>An order to a host is repeated after this, then ever less often up to <see cref="CommandRetryMost"/>.</summary>
    public TimeSpan CommandRetryFirst { get; init; } = TimeSpan.FromSeconds(1);

    public TimeSpan CommandRetryMost { get; init; } = TimeSpan.FromSeconds(15);

    /// <summary>
    /// How often a host looks at reservations that no launch followed, and asks their microVMs whether they are meant.
    /// Must be well above the time a microVM needs to record its placement.
    /// </summary>
    public TimeSpan ReservationAudit { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How often a host tells every node's placement about itself even when nothing changed; heals lost messages and new nodes.</summary>
    public TimeSpan HostAnnounce { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>Events of a host between two snapshots: bounds what a restart replays (one event is about 30 µs).</summary>
    public int HostSnapshotEvery { get; init; } = 500;

    /// <summary>
    /// Events of the tokens, or of the volumes, that are stored before what they come to is written down in one, and they are deleted. Twice as many as there are tokens, or volumes, if that is more.
    /// </summary>
    public int BookEventsKept { get; init; } = 1000;

    /// <summary>
    /// A microVM with nothing to do leaves the memory after this long without a message. Each leave and return is a small write, so
    /// it should be well above the time between two looks at a microVM that is being watched.
    /// </summary>
    public TimeSpan RestAfter { get; init; } = TimeSpan.FromMinutes(2);

    /// <summary>Waits that one microVM holds at once; one more is told to try again.</summary>
    public int WaitersPerVm { get; init; } = 64;

    /// <summary>Agents that one node serves at once.</summary>
    public int SessionsPerNode { get; init; } = 8192;

    /// <summary>HOCON above everything else: for tests and for an operator who must.</summary>
    public string ExtraHocon { get; init; } = "";
}
