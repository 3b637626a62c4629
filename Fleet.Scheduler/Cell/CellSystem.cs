using System.Globalization;
using System.Reflection;
using Akka.Actor;
using Akka.Actor.Setup;
using Akka.Cluster.Sharding;
using Akka.Cluster.Tools.PublishSubscribe;
using Akka.Configuration;
using Akka.Persistence;
using Akka.Persistence.Sql;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Journal;
using Fleet.Scheduler.Logging;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Sessions;
using Fleet.Scheduler.Vms;

namespace Fleet.Scheduler.Cell;

/// <summary>One node of the control plane: its actor system and what others need of it.</summary>
public sealed class CellSystem : IAsyncDisposable
{
    private const string SystemName = "fleet";

    /// <summary>How long a cell of one node may take to form. Much more means that the machine is out of something.</summary>
    private static readonly TimeSpan FormPatience = TimeSpan.FromSeconds(30);

    private static readonly TimeSpan StopPatience = TimeSpan.FromSeconds(15);

    private readonly CellJournal _journal;
    private bool _stopped;

    private CellSystem(ActorSystem actors, CellJournal journal, ICell cell, IEventFeed events, HostLinkService hostLink, HostFigures figures)
    {
        Figures = figures;
        ActorSystem = actors;
        _journal = journal;
        Cell = cell;
        Events = events;
        HostLink = hostLink;
    }

    public ICell Cell { get; }

    public IEventFeed Events { get; }

    /// <summary>The gRPC service that agents dial.</summary>
    public HostLinkService HostLink { get; }

    public ActorSystem ActorSystem { get; }

    /// <summary>Of the hosts whose agents have dialled this node.</summary>
    internal HostFigures Figures { get; }

    /// <summary>Opens the journal, starts the actors and joins the cell. Answers when microVMs can be created.</summary>
    /// <exception cref="CellStartException">It can't start; the message says why.</exception>
    public static async Task<CellSystem> StartAsync(CellOptions options, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(options);
        Check(options);
        var journal = await CellJournal.OpenAsync(options, cancellation).ConfigureAwait(false);
        var setup = ActorSystemSetup.Create(
            BootstrapSetup.Create().WithConfig(Configure(options, journal)),
            new SerilogSetup(options.Log),
            journal.ToSetup());
        var actors = ActorSystem.Create(SystemName, setup);
        try
        {
            return await StartAsync(actors, journal, options, cancellation).ConfigureAwait(false);
        }
        catch
        {
            await actors.Terminate().ConfigureAwait(false);
            journal.Dispose();
            throw;
        }
    }

    private static async Task<CellSystem> StartAsync(
        ActorSystem actors, CellJournal journal, CellOptions options, CancellationToken cancellation)
    {
        // The journal makes its tables while the cell forms.
        _ = Persistence.Instance.Apply(actors);
        await JoinAsync(actors, options, cancellation).ConfigureAwait(false);

        var listening = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var placement = actors.ActorOf(Props.Create(() => new PlacementActor(options, listening)), "placement");
        // Hosts announce themselves when they recover: nobody may miss that.
        await listening.Task.WaitAsync(FormPatience, cancellation).ConfigureAwait(false);

        var sharding = ClusterSharding.Get(actors);
        var settings = ClusterShardingSettings.Create(actors);
        // Each kind tells the other. microVMs want something of their hosts at once; hosts speak when an agent is there.
        var vms = new LateRegion();
        var hostRegion = await sharding.StartAsync(
            ShardRegions.Hosts,
            id => Props.Create(() => new HostActor(id, options, vms)),
            settings,
            new HostExtractor()).ConfigureAwait(false);
        var vmRegion = await sharding.StartAsync(
            ShardRegions.Vms,
            id => Props.Create(() => new VmActor(id, options, placement, hostRegion)),
            settings,
            new VmExtractor()).ConfigureAwait(false);
        vms.Started(vmRegion);

        var figures = new HostFigures();
        var sessions = actors.ActorOf(Props.Create(() => new SessionsActor(options, hostRegion, figures)), "sessions");
        return new CellSystem(
            actors,
            journal,
            new CellClient(actors, vmRegion, hostRegion, options),
            new JournalEventFeed(actors, journal, options.Log),
            new HostLinkService(options, sessions),
            figures);
    }

    private static async Task JoinAsync(ActorSystem actors, CellOptions options, CancellationToken cancellation)
    {
        var cluster = Akka.Cluster.Cluster.Get(actors);
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        patience.CancelAfter(FormPatience);
        try
        {
            if (options.SeedNodes.Count == 0)
                await cluster.JoinAsync(cluster.SelfAddress, patience.Token).ConfigureAwait(false);
            else
                await cluster.JoinSeedNodesAsync(options.SeedNodes.Select(Address.Parse), patience.Token).ConfigureAwait(false);
        }
        catch (Exception fault) when (!cancellation.IsCancellationRequested)
        {
            var seeds = options.SeedNodes.Count == 0 ? "itself" : string.Join(", ", options.SeedNodes);
            throw new CellStartException(
                $"This node ({cluster.SelfAddress}) could not join the cell by {seeds} within {FormPatience.TotalSeconds:0} s. Check the addresses and that the nodes reach each other.",
                fault);
        }
    }

    private static Config Configure(CellOptions options, CellJournal journal)
    {
        var endpoint = ConfigurationFactory.ParseString(string.Create(
            CultureInfo.InvariantCulture,
            $$"""akka.remote.dot-netty.tcp { hostname = "{{options.RemotingHost}}", port = {{options.RemotingPort}} }"""));
        return ConfigurationFactory.ParseString(options.ExtraHocon)
            .WithFallback(endpoint)
            .WithFallback(Embedded("scheduler.conf"))
            .WithFallback(Embedded("cluster.conf"))
            .WithFallback(Embedded(journal.Settings))
            .WithFallback(Embedded("persistence.conf"))
            .WithFallback(SqlPersistence.DefaultConfiguration)
            .WithFallback(ClusterSharding.DefaultConfig())
            .WithFallback(DistributedPubSub.DefaultConfig());
    }

    private static Config Embedded(string name)
    {
        using var stream = Assembly.GetExecutingAssembly().GetManifestResourceStream($"hocon/{name}")
            ?? throw new InvalidOperationException($"hocon/{name} is not in the assembly.");
        using var reader = new StreamReader(stream);
        return ConfigurationFactory.ParseString(reader.ReadToEnd());
    }

    private static void Check(CellOptions options)
    {
        Require(options.Heartbeat > TimeSpan.Zero, "the heartbeat must be longer than zero");
        Require(options.HostDeadAfter >= 2 * options.Heartbeat, "a host may be called dead after two missed heartbeats at the earliest");
        Require(options.CpuRatio > 0 && double.IsFinite(options.CpuRatio), "the CPU ratio must be above zero");
        Require(options.MemoryRatio > 0 && double.IsFinite(options.MemoryRatio), "the memory ratio must be above zero");
        Require(options.AskTimeout > TimeSpan.Zero, "the ask time-out must be longer than zero");
        Require(options.RemotingPort is >= 0 and <= 65535, "the remoting port must be within 0 to 65535");
        Require(options.SeedNodes.Count == 0 || options.RemotingPort != 0, "a node of a larger cell needs a fixed remoting port");
        if (options.Lease.FirstProblem(options.Heartbeat) is { } problem)
            throw new CellStartException($"The settings can't work: {problem}");
        Require(options.RemotingHost.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' or ':'), "the remoting host must be a name or an address");

        static void Require(bool holds, string rule)
        {
            if (!holds)
                throw new CellStartException($"The settings can't work: {rule}.");
        }
    }

    /// <summary>Leaves the cell in order: shards are handed over, then the actors stop, then the journal is closed.</summary>
    public async ValueTask DisposeAsync()
    {
        if (_stopped)
            return;
        _stopped = true;
        try
        {
            await CoordinatedShutdown.Get(ActorSystem).Run(CoordinatedShutdown.ClrExitReason.Instance).WaitAsync(StopPatience).ConfigureAwait(false);
        }
        catch (TimeoutException)
        {
            // What was acknowledged is stored already; nothing is lost by not waiting longer.
            await ActorSystem.Terminate().ConfigureAwait(false);
        }
        _journal.Dispose();
    }
}
