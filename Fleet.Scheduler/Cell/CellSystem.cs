using System.Globalization;
using System.Reflection;
using Akka.Actor;
using Akka.Actor.Setup;
using Akka.Cluster.Sharding;
using Akka.Cluster.Tools.PublishSubscribe;
using Akka.Configuration;
using Akka.Persistence;
using Akka.Persistence.Sql;
using Akka.Remote.Transport.DotNetty;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Gangs;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Journal;
using Fleet.Scheduler.Logging;
using Fleet.Scheduler.Membership;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Sessions;
using Fleet.Scheduler.Vms;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Access;
using Google.Protobuf;

namespace Fleet.Scheduler.Cell;

/// <summary>One node of the control plane: its actor system and what others need of it.</summary>
public sealed class CellSystem : IAsyncDisposable
{
    private const string SystemName = "fleet";

    /// <summary>How long a cell of one node may take to form. Much more means that the machine is out of something.</summary>
    private static readonly TimeSpan FormPatience = TimeSpan.FromSeconds(30);

    private static readonly TimeSpan StopPatience = TimeSpan.FromSeconds(15);

    /// <summary>A node that joins may have to wait until a dead one counts as ended (<see cref="CellRegister"/>).</summary>
    private static readonly TimeSpan JoinPatience = CellRegister.AliveFor + FormPatience;

    /// <summary>After this it looks anew whom to join: those that it asked may not be members any more.</summary>
    private static readonly TimeSpan JoinAttempt = TimeSpan.FromSeconds(3);

    private readonly CellJournal _journal;
    private readonly CellRegister? _register;
    private readonly HandshakeGuard _guard;
    private bool _stopped;

    private CellSystem(
        ActorSystem actors, CellJournal journal, CellRegister? register, ICell cell, IEventFeed events, HostLinkService hostLink, HostFigures figures, IActorRef placement,
        Func<IMessage, CancellationToken, Task<TokenReply?>> askTokens, HandshakeGuard guard)
    {
        _guard = guard;
        Placement = placement;
        AskTokens = askTokens;
        Figures = figures;
        ActorSystem = actors;
        _journal = journal;
        _register = register;
        Cell = cell;
        Events = events;
        HostLink = hostLink;
    }

    public ICell Cell { get; }

    public IEventFeed Events { get; }

    /// <summary>The gRPC service that agents dial.</summary>
    public HostLinkService HostLink { get; }

    public ActorSystem ActorSystem { get; }

    /// <summary>It ends, or has ended, because this node was told to leave its cell in order.</summary>
    public bool HasLeft => CoordinatedShutdown.Get(ActorSystem).ShutdownReason is CoordinatedShutdown.ClusterLeavingReason;

    /// <summary>Asks the actor of the tokens; null: no answer in time.</summary>
    internal Func<IMessage, CancellationToken, Task<TokenReply?>> AskTokens { get; }

    /// <summary>Of the hosts whose agents have dialled this node.</summary>
    internal HostFigures Figures { get; }

    /// <summary>This node's <see cref="PlacementActor"/>.</summary>
    internal IActorRef Placement { get; }

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
            journal.ToSetup(),
            new CellWriteJournalSetup(journal));
        if (options.Authority is { } authority)
            setup = setup.And(Tls(authority, options));
        var actors = ActorSystem.Create(SystemName, setup);
        AskNames.CountFromAnywhere(actors);
        var guard = HandshakeGuard.Over(actors, options.Log);
        var register = options.Database is { } database
            ? new CellRegister(database, NodeAddress.Write(options.RemotingHost, options.RemotingPort), options.Clock, options.Log)
            : null;
        try
        {
            if (register is not null)
                await register.AnnounceAsync(cancellation).ConfigureAwait(false);
            return await StartAsync(actors, guard, journal, register, options, cancellation).ConfigureAwait(false);
        }
        catch
        {
            guard.End();
            await actors.Terminate().ConfigureAwait(false);
            if (register is not null)
                await register.DisposeAsync().ConfigureAwait(false);
            journal.Dispose();
            throw;
        }
    }

    /// <summary>Both sides show a certificate, and only a control-plane node's of this cell counts.</summary>
    private static DotNettySslSetup Tls(CertificateAuthority authority, CellOptions options) => new(
        authority.IssuePeer(NodeAddress.Write(options.RemotingHost, options.RemotingPort), options.RemotingHost),
        suppressValidation: false,
        requireMutualAuthentication: true,
        validateCertificateHostname: false,
        (certificate, _, peer, _, _) =>
        {
            var verdict = authority.Trust.Identify(certificate, CertificateRole.Scheduler);
            if (verdict.Holder is null)
                options.Log.Warning("{Peer} was refused by the cell's nodes: {Code}, {Reason:l}", peer, verdict.Code, verdict.Message);
            return verdict.Holder is not null;
        });

    private static async Task<CellSystem> StartAsync(
        ActorSystem actors, HandshakeGuard guard, CellJournal journal, CellRegister? register, CellOptions options, CancellationToken cancellation)
    {
        // The journal makes its tables while the cell forms.
        _ = Persistence.Instance.Apply(actors);
        var listening = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        var placement = actors.ActorOf(ActorProps.Of(() => new PlacementActor(options, listening)), "placement");
        // Hosts announce themselves when they recover: nobody may miss that.
        await listening.Task.WaitAsync(FormPatience, cancellation).ConfigureAwait(false);

        var sharding = ClusterSharding.Get(actors);
        var settings = ClusterShardingSettings.Create(actors);
        var pulse = new Pulse(options.Clock);
        _ = actors.WhenTerminated.ContinueWith(_ => pulse.Dispose(), TaskScheduler.Default);
        // Each kind tells the other. microVMs want something of their hosts at once; hosts speak when an agent is there.
        var (vms, volumesLater) = (new LateRegion(), new LateRegion());
        var hostRegion = await ShareAsync(ShardRegions.Hosts, id => ActorProps.Of(() => new HostActor(id, options, vms, volumesLater, pulse)), new HostExtractor(), settings).ConfigureAwait(false);
        // Whoever waits for its gang says so again and again, and wakes it.
        var gangs = await ShareAsync(ShardRegions.Gangs, id => ActorProps.Of(() => new GangActor(id, options, placement, hostRegion, vms)), new GangExtractor(), settings.WithRememberEntities(false)).ConfigureAwait(false);
        var volumes = await ShareAsync(ShardRegions.Volumes, _ => ActorProps.Of(() => new VolumesActor(options, hostRegion)), new VolumesExtractor(), settings).ConfigureAwait(false);
        volumesLater.Started(volumes);
        var vmRegion = await ShareAsync(ShardRegions.Vms, id => ActorProps.Of(() => new VmActor(id, options, placement, hostRegion, gangs, volumes)), new VmExtractor(), settings).ConfigureAwait(false);
        vms.Started(vmRegion);
        // One actor that is there when it is asked: nothing of it has to be woken.
        var tokens = await ShareAsync(ShardRegions.Tokens, _ => ActorProps.Of(() => new TokensActor(options)), new TokensExtractor(), settings.WithRememberEntities(false)).ConfigureAwait(false);

        // Last: as soon as it is a member, the others write the state of shards to this node too, and wait for its answer.
        await JoinAsync(actors, guard, register, options, cancellation).ConfigureAwait(false);

        var figures = new HostFigures();
        var sessions = actors.ActorOf(ActorProps.Of(() => new SessionsActor(options, hostRegion, figures)), "sessions");
        var client = new CellClient(actors, vmRegion, hostRegion, volumes, placement, options);
        return new CellSystem(
            actors,
            journal,
            register,
            client,
            new JournalEventFeed(actors, journal, options.Clock, options.Log),
            new HostLinkService(options, sessions),
            figures,
            placement,
            (question, ends) => client.AskAsync<TokenReply>(tokens, question, options.AskTimeout, ends),
            guard);

        Task<IActorRef> ShareAsync(string kind, Func<string, Props> props, IMessageExtractor extractor, ClusterShardingSettings how) =>
            sharding.StartAsync(kind, props, how, extractor, sharding.DefaultShardAllocationStrategy(how), HandOff.Instance);
    }

    private static async Task JoinAsync(ActorSystem actors, HandshakeGuard guard, CellRegister? register, CellOptions options, CancellationToken cancellation)
    {
        var cluster = Akka.Cluster.Cluster.Get(actors);
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        patience.CancelAfter(register is null ? FormPatience : JoinPatience);
        IReadOnlyList<string> members = [];
        try
        {
            while (register is not null && (members = await register.EnterAsync(probe: members.Count > 0, patience.Token).ConfigureAwait(false)).Count > 0)
            {
                if (await TryJoinAsync(cluster, members, patience.Token).ConfigureAwait(false))
                    break;
                options.Log.Information("{Members} did not take this node into the cell yet", members);
            }
            if (members.Count == 0)
                await cluster.JoinAsync(cluster.SelfAddress, patience.Token).ConfigureAwait(false);
            if (register is null)
                return;
            _ = actors.ActorOf(ActorProps.Of(() => new DatabaseWitness(register)), DatabaseWitness.Name);
            await register.StayAsync(
                ends => DatabaseWitness.WhoReachesAsync(actors, ends),
                reason =>
                {
                    options.Log.Fatal("This node may not go on as a member of the cell: {Reason:l}", reason);
                    guard.End();
                    _ = actors.Terminate();
                },
                patience.Token).ConfigureAwait(false);
            _ = actors.WhenTerminated.ContinueWith(_ => register.Silence(), TaskScheduler.Default);
        }
        catch (Exception fault) when (!cancellation.IsCancellationRequested)
        {
            var others = members.Count == 0 ? "itself" : string.Join(", ", members);
            throw new CellStartException(
                $"This node ({cluster.SelfAddress}) could not join the cell by {others} in time. Check the addresses and that the nodes reach each other. ({fault.Message})", fault);
        }
    }

    private static async Task<bool> TryJoinAsync(Akka.Cluster.Cluster cluster, IReadOnlyList<string> members, CancellationToken cancellation)
    {
        using var attempt = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        attempt.CancelAfter(JoinAttempt);
        try
        {
            var self = cluster.SelfAddress;
            await cluster.JoinSeedNodesAsync(members.Select(NodeAddress.Split).Select(member => self.WithHost(member.Host).WithPort(member.Port)), attempt.Token).ConfigureAwait(false);
            return true;
        }
        catch (Exception) when (attempt.IsCancellationRequested && !cancellation.IsCancellationRequested)
        {
            return false;
        }
    }

    private static Config Configure(CellOptions options, CellJournal journal)
    {
        var endpoint = ConfigurationFactory.ParseString(string.Create(
            CultureInfo.InvariantCulture,
            $$"""akka.remote.dot-netty.tcp { hostname = "{{options.RemotingHost}}", port = {{options.RemotingPort}}, enable-ssl = {{(options.Authority is null ? "off" : "on")}} }"""));
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
        foreach (var (ratio, name) in new[] { (options.CpuRatio, "CPU"), (options.MemoryRatio, "memory"), (options.DiskRatio, "disk"), (options.NetworkRatio, "network"), (options.IopsRatio, "disk operations") })
            Require(ratio > 0 && double.IsFinite(ratio), $"the {name} ratio must be above zero");
        if (options.Prediction?.FirstProblem() is { } unpredictable)
            throw new CellStartException($"The settings can't work: {unpredictable}.");
        Require(options.AskTimeout > TimeSpan.Zero, "the ask time-out must be longer than zero");
        Require(options.RemotingPort is >= 0 and <= 65535, "the remoting port must be within 0 to 65535");
        Require(options.Database is null || options.RemotingPort != 0, "a node that shares a database needs a fixed remoting port");
        if (options.Lease.FirstProblem(options.Heartbeat, severalNodes: options.Database is not null) is { } problem)
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
        _guard.End();
        try
        {
            await CoordinatedShutdown.Get(ActorSystem).Run(CoordinatedShutdown.ClrExitReason.Instance).WaitAsync(StopPatience).ConfigureAwait(false);
        }
        catch (TimeoutException)
        {
            // What was acknowledged is stored already; nothing is lost by not waiting longer.
            await ActorSystem.Terminate().ConfigureAwait(false);
        }
        if (_register is not null)
            await _register.DisposeAsync().ConfigureAwait(false);
        _journal.Dispose();
    }
}
