using Akka.Actor;
using Fleet.Host.Fencing;
using Fleet.Host.Images.Oci;
using Fleet.Host.Link;
using Fleet.Host.Networks;
using Fleet.Host.Snapshots;
using Fleet.Host.State;
using Fleet.Host.Volumes;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Agent;

/// <summary>
/// The agent of one host: its actors, its link to the control plane, its state directory. Disposing it leaves every
/// microVM running; the next agent on the same directory takes them over.
/// </summary>
public sealed class HostAgent : IAsyncDisposable
{
    /// <summary>
    /// Bounds the orderly end: launches that have begun are finished, so that the next agent finds a VMM or none. One that
    /// takes longer is found by it as after a kill.
    /// </summary>
    private static readonly TimeSpan EndLimit = TimeSpan.FromSeconds(5);

    private readonly ActorSystem _actors;
    private readonly MicroVmContext _context;
    private readonly CancellationTokenSource _ending;
    private readonly LinkOwner _owner;
    private readonly SchedulerLink _link;
    private readonly CertificateRenewal _renewal;
    private readonly SnapshotServer? _snapshots;
    private int _disposed;

    private HostAgent(ActorSystem actors, MicroVmContext context, CancellationTokenSource ending, LinkOwner owner, SchedulerLink link, CertificateRenewal renewal, SnapshotServer? snapshots)
    {
        _snapshots = snapshots;
        _actors = actors;
        _context = context;
        _ending = ending;
        _owner = owner;
        _link = link;
        _renewal = renewal;
    }

    /// <summary>
    /// Starts an agent: probes the drivers, takes over what an earlier agent left, and dials, without waiting for an answer.
    /// Throws <see cref="AgentStartException"/>.
    /// </summary>
    public static async Task<HostAgent> StartAsync(HostAgentOptions options, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(options);
        if (options.FirstProblem() is { } problem)
            throw new AgentStartException(problem);
        var log = options.Log.ForContext<HostAgent>();
        var state = StateDirectory.Open(options.StateDirectory, options.Log);
        var ending = new CancellationTokenSource();
        var networks = new HostNetworks(options.Networks, options.HostId, options.StateDirectory, options.Log);
        ActorSystem? actors = null;
        SnapshotServer? snapshots = null;
        try
        {
            var inventory = await HostInventory.ProbeAsync(options, cancellation).ConfigureAwait(false);
            if (options.Transfer is { } transfer)
            {
                snapshots = SnapshotServer.Start(transfer, options.Credentials, state, options.Clock, options.Log);
                inventory.TransferAddress = snapshots.Endpoint.ToString();
            }
            var found = state.ReadAll();
            if (found.Count > 0)
                log.Information("Taking over {Count} microVMs of an earlier agent", found.Count);
            var images = new ImageStore(Path.Combine(options.StateDirectory, "images"), options.Images with { Clock = options.Clock, Log = options.Log });
            images.RemoveLeftovers();
            await networks.TakeUpAsync(found).ConfigureAwait(false);
            var volumes = new VolumeStore(Path.Combine(options.StateDirectory, VolumeStore.FolderName), state.FolderOf, options.Clock, options.Log);
            volumes.RemoveLeftovers();
            var context = new MicroVmContext(
                state, options.Drivers, inventory.AutoDriver, MicroVmContext.CurrentBoot(), options.Clock, options.Log, ending.Token)
            {
                Fenced = options.Fenced,
                Images = images,
                Volumes = volumes,
                Reacts = options.Reacts,
                Credits = options.Credits,
                Proc = options.Proc,
                Fetcher = new SnapshotFetcher(options.Credentials, options.Clock),
                Networks = networks,
            };
            actors = ActorSystem.Create("host", AgentActors.Setup(options.Log));
            var agent = actors.ActorOf(Props.Create<HostAgentActor>(context, found), "agent");
            var owner = new LinkOwner(agent, options, inventory, images, volumes, context.BootId, context.State);
            return new HostAgent(actors, context, ending, owner, new SchedulerLink(options.SchedulerAddresses, options.Credentials, owner, options.Clock, options.Log),
                new CertificateRenewal(options.SchedulerAddresses, options.Credentials, options.Clock, options.Log), snapshots);
        }
        catch
        {
            await ending.CancelAsync().ConfigureAwait(false);
            if (snapshots is not null)
                await snapshots.DisposeAsync().ConfigureAwait(false);
            if (actors is not null)
                await actors.Terminate().ConfigureAwait(false);
            await networks.DisposeAsync().ConfigureAwait(false);
            ending.Dispose();
            state.Dispose();
            throw;
        }
    }

    /// <summary>Says goodbye and lets go of every microVM, which goes on. Bounded by some ten seconds.</summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        await _renewal.DisposeAsync().ConfigureAwait(false);
        await _link.DisposeAsync().ConfigureAwait(false);
        await _ending.CancelAsync().ConfigureAwait(false);
        if (_snapshots is not null)
            await _snapshots.DisposeAsync().ConfigureAwait(false);
        await _actors.Terminate().WaitAsync(EndLimit).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        await _context.Work.WhenIdleAsync().WaitAsync(EndLimit).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        await _context.Networks.DisposeAsync().ConfigureAwait(false);
        _context.State.Dispose();
        _owner.Dispose();
        _ending.Dispose();
    }

    /// <summary>Carries between the link's tasks and the actor.</summary>
    private sealed class LinkOwner(IActorRef agent, HostAgentOptions options, Inventory inventory, ImageStore images, VolumeStore volumes, string bootId, StateDirectory state) : ILinkOwner, IDisposable
    {
        /// <summary>Messages that may wait for the actor: what comes above stays with the control plane.</summary>
        private const int MostWaiting = 256;

        private static readonly TimeSpan Patience = TimeSpan.FromSeconds(10);
        private readonly string _instance = Guid.NewGuid().ToString("n");
        private readonly SemaphoreSlim _room = new(MostWaiting);

        public async Task<Hello> GreetAsync(CancellationToken cancellation)
        {
            var reports = await agent.Ask<HostAgentActor.Reports>(HostAgentActor.GetReports.Instance, Patience, cancellation).ConfigureAwait(false);
            var hello = new Hello
            {
                HostId = options.HostId,
                Inventory = inventory.Clone(),
                AgentVersion = options.AgentVersion,
                AgentInstance = _instance,
                BootId = bootId,
                StateId = state.Id,
                Fenced = options.Fenced,
            };
            hello.Inventory.Images.AddRange(images.ToldNames());
            hello.Inventory.Volumes.AddRange(volumes.Told());
            // What others have of the disk changes; one that was full for a while is not for ever.
            hello.Inventory.DiskMib = (ulong)(options.DiskMib ?? volumes.RoomMib(reports.Vms.Sum(vm => SnapshotFiles.AllocatedBytes(state.FolderOf(vm.VmId)))));
            hello.Vms.AddRange(reports.Vms);
            hello.Pressure = reports.Pressure;
            return hello;
        }

        public void Up(LinkSession session, Welcome welcome, TimeSpan helloAt)
        {
            agent.Tell(new HostAgentActor.LinkUp(session, [.. welcome.Unknown]));
            if (welcome.Lease is { } lease)
                Leased(lease, helloAt);
        }

        public void Leased(Lease lease, TimeSpan askedAt)
        {
            if (options.Fenced)
                agent.Tell(new HostAgentActor.Leased(VmmLease.Of(lease, askedAt)));
        }

        public async Task ReceiveAsync(SchedulerMessage message, CancellationToken cancellation)
        {
            await _room.WaitAsync(cancellation).ConfigureAwait(false);
            agent.Tell(new HostAgentActor.FromScheduler(message, () => _room.Release()));
        }

        public void Dispose() => _room.Dispose();

        public void Down(LinkSession session) => agent.Tell(new HostAgentActor.LinkDown(session));
    }
}
