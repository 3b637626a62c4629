using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using Akka.Actor;
using Akka.Configuration;
using Fleet.Host.Drivers;
using Fleet.Host.Link;
using Fleet.Host.State;
using Fleet.Shared.Contracts;
using Serilog;

namespace Fleet.Host.Agent;

/// <summary>What an agent needs to know.</summary>
public sealed record HostAgentOptions
{
    /// <summary><c>[a-z0-9][a-z0-9-]{0,39}</c>, the same over restarts.</summary>
    public required string HostId { get; init; }

    public required string StateDirectory { get; init; }

    /// <summary>Where the control plane takes agents, for example <c>http://10.0.0.1:7071</c>.</summary>
    public required Uri SchedulerAddress { get; init; }

    public required IReadOnlyList<IVmmDriver> Drivers { get; init; }

    /// <summary>Which of the probed drivers <c>auto</c> means.</summary>
    public Func<IEnumerable<DriverStatus>, string> AutoDriver { get; init; } = DriverChoice.Auto;

    /// <summary>CPUs offered; null: all of the machine.</summary>
    public int? Cpus { get; init; }

    /// <summary>MiB offered; null: the machine's less <see cref="ReserveMib"/>.</summary>
    public int? MemoryMib { get; init; }

    /// <summary>Kept for the machine itself: an eighth of its memory, at least 512 MiB.</summary>
    public static long ReserveMib(long machineMib) => Math.Max(512, machineMib / 8);

    public IReadOnlyDictionary<string, string> Labels { get; init; } = new Dictionary<string, string>();

    public string AgentVersion { get; init; } = "0";

    public TimeProvider Clock { get; init; } = TimeProvider.System;

    public ILogger Log { get; init; } = Serilog.Core.Logger.None;
}

/// <summary>
/// The agent of one host: its actors, its link to the control plane, its state directory. Disposing it leaves every
/// microVM running; the next agent on the same directory takes them over.
/// </summary>
public sealed partial class HostAgent : IAsyncDisposable
{
    /// <summary>Bounds the orderly end of the actors.</summary>
    private static readonly TimeSpan EndLimit = TimeSpan.FromSeconds(5);

    private readonly ActorSystem _actors;
    private readonly StateDirectory _state;
    private readonly SchedulerLink _link;

    private HostAgent(ActorSystem actors, StateDirectory state, SchedulerLink link)
    {
        _actors = actors;
        _state = state;
        _link = link;
    }

    /// <summary>
    /// Starts an agent: probes the drivers, takes over what an earlier agent left, and dials, without waiting for an answer.
    /// Throws <see cref="AgentStartException"/>.
    /// </summary>
    public static async Task<HostAgent> StartAsync(HostAgentOptions options, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(options);
        if (!HostId().IsMatch(options.HostId))
            throw new AgentStartException($"A host's id is 1 to 40 of a-z, 0-9 and '-', and does not begin with '-'; '{options.HostId}' is not.");
        var log = options.Log.ForContext<HostAgent>();
        var state = StateDirectory.Open(options.StateDirectory, options.Log);
        ActorSystem? actors = null;
        try
        {
            var inventory = await ProbeAsync(options, cancellation).ConfigureAwait(false);
            var found = state.ReadAll();
            if (found.Count > 0)
                log.Information("Taking over {Count} microVMs of an earlier agent", found.Count);
            actors = ActorSystem.Create("host", Configuration());
            var context = new MicroVmContext(
                state, options.Drivers, MicroVmContext.CurrentBoot(), new SemaphoreSlim(Math.Max(2, Environment.ProcessorCount)), options.Clock, options.Log);
            var agent = actors.ActorOf(Props.Create<HostAgentActor>(context, inventory.AutoDriver, found), "agent");
            var owner = new LinkOwner(agent, options, inventory, context.BootId);
            return new HostAgent(actors, state, new SchedulerLink(options.SchedulerAddress, owner, options.Clock, options.Log));
        }
        catch
        {
            if (actors is not null)
                await actors.Terminate().ConfigureAwait(false);
            state.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _link.DisposeAsync().ConfigureAwait(false);
        await _actors.Terminate().WaitAsync(EndLimit).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        _state.Dispose();
    }

    private static async Task<Inventory> ProbeAsync(HostAgentOptions options, CancellationToken cancellation)
    {
        var statuses = await Task.WhenAll(options.Drivers.Select(driver => driver.ProbeAsync(cancellation))).ConfigureAwait(false);
        var machineMib = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes >> 20;
        var inventory = new Inventory
        {
            Cpus = (uint)(options.Cpus ?? Environment.ProcessorCount),
            MemoryMib = (ulong)(options.MemoryMib ?? Math.Max(0, machineMib - HostAgentOptions.ReserveMib(machineMib))),
            AutoDriver = options.AutoDriver(statuses),
            Kernel = (await File.ReadAllTextAsync("/proc/sys/kernel/osrelease", cancellation).ConfigureAwait(false)).Trim(),
            Architecture = RuntimeInformation.OSArchitecture switch { Architecture.X64 => "x86_64", Architecture.Arm64 => "aarch64", var other => other.ToString() },
        };
        inventory.Drivers.AddRange(statuses);
        foreach (var (key, value) in options.Labels)
            inventory.Labels[key] = value;
        return inventory;
    }

    private static Config Configuration()
    {
        using var stream = typeof(HostAgent).Assembly.GetManifestResourceStream("host.conf")!;
        using var reader = new StreamReader(stream);
        return ConfigurationFactory.ParseString(reader.ReadToEnd());
    }

    [GeneratedRegex("^[a-z0-9][a-z0-9-]{0,39}\\z", RegexOptions.CultureInvariant)]
    private static partial Regex HostId();

    /// <summary>Carries between the link's tasks and the actor.</summary>
    private sealed class LinkOwner(IActorRef agent, HostAgentOptions options, Inventory inventory, string bootId) : ILinkOwner
    {
        private static readonly TimeSpan Patience = TimeSpan.FromSeconds(10);
        private readonly string _instance = Guid.NewGuid().ToString("n");

        public async Task<Hello> GreetAsync(CancellationToken cancellation)
        {
            var reports = await agent.Ask<VmReport[]>(HostAgentActor.GetReports.Instance, Patience, cancellation).ConfigureAwait(false);
            var hello = new Hello
            {
                HostId = options.HostId,
                Inventory = inventory,
                AgentVersion = options.AgentVersion,
                AgentInstance = _instance,
                BootId = bootId,
            };
            hello.Vms.AddRange(reports);
            return hello;
        }

        public void Up(LinkSession session, Welcome welcome) => agent.Tell(new HostAgentActor.LinkUp(session, [.. welcome.Unknown]));

        public void Receive(SchedulerMessage message) => agent.Tell(new HostAgentActor.FromScheduler(message));

        public void Down(LinkSession session) => agent.Tell(new HostAgentActor.LinkDown(session));
    }
}
