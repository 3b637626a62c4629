using System.CommandLine;
using System.Data.Common;
using System.Diagnostics;
using System.Net;
using System.Reflection;
using Fleet.Cli.Output;
using Fleet.Host.Agent;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Simulated;
using Fleet.Host.Fencing;
using Fleet.Host.Images;
using Fleet.Host.Link;
using Fleet.Host.Networks;
using Fleet.Host.State;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Journal;
using Fleet.Scheduler.Logging;
using Fleet.Scheduler.Membership;
using Fleet.Scheduler.Node;
using Fleet.Shared.Access;
using Serilog;

namespace Fleet.Cli.Node;

/// <summary>What one process is: scheduler, host, or both.</summary>
internal sealed record NodeRoles
{
    public required DataDirectory Data { get; init; }

    /// <summary>Nobody reads what this process prints: its log goes to files alone, which are bounded.</summary>
    public bool Detached { get; init; }

    /// <summary>Null: no scheduler here.</summary>
    public IPEndPoint? Api { get; init; }

    public bool ApiEncrypted { get; init; }

    public IPEndPoint? Link { get; init; }

    /// <summary>More names for the node's certificate.</summary>
    public IReadOnlyList<string> Names { get; init; } = [];

    /// <summary>A node of the cell that this scheduler is to join; null: it is the cell.</summary>
    public Uri? Join { get; init; }

    /// <summary>What to join with.</summary>
    public string? Token { get; init; }

    /// <summary>Seconds; null: the default.</summary>
    public int? Lease { get; init; }

    /// <summary>Puts into the cell's settings how much more than they have its hosts promise.</summary>
    public Func<CellOptions, CellOptions> Oversubscription { get; init; } = static options => options;

    /// <summary>Whether tenants' guests may run under QEMU.</summary>
    public bool TenantQemu { get; init; }

    /// <summary>That the nodes of the cell share; null: SQLite, a cell of one node.</summary>
    public PostgresDatabase? Database { get; init; }

    /// <summary>HOST:PORT where the other nodes reach this one; null: a cell of one node.</summary>
    public string? Cluster { get; init; }

    /// <summary>Null: no host here.</summary>
    public HostRole? Host { get; init; }
}

/// <summary>The host's half: its id, whom it dials, what of the machine it offers, and whether its microVMs may be placed elsewhere.</summary>
internal sealed record HostRole(string Id, IReadOnlyList<Uri> Schedulers, int? Cpus, int? MemoryMib, bool Fenced)
{
    /// <summary>By which microVMs choose it; its zone is one of them.</summary>
    public IReadOnlyDictionary<string, string> Labels { get; init; } = new Dictionary<string, string>();

    /// <summary>What of the machine it offers beside CPUs and memory.</summary>
    public HostOffer Offer { get; init; } = new(null, null, null);

    /// <summary>What the host does about pressure on its machine.</summary>
    public ReactionOptions Reaction { get; init; } = new(false, null);

    /// <summary>What the networks of its tenants are cut from.</summary>
    public NetworkOptions Networks { get; init; } = new();

    /// <summary>Where microVMs leave when they ran; null: nowhere.</summary>
    public DirectoryInfo? RunLog { get; init; }

    /// <summary>Where other hosts fetch snapshots; null: nowhere.</summary>
    public IPEndPoint? Transfer { get; init; }
}

/// <summary>Runs a node until it is told to end: composition of scheduler and agent.</summary>
internal static class NodeProcess
{
    /// <summary>So often at most the host of <c>fleet up</c> asks the scheduler beside it for its certificate, some seconds each.</summary>
    private const int OwnTries = 10;

    public static async Task<int> RunAsync(ParseResult parsed, NodeRoles roles, CancellationToken cancellation)
    {
        NodeLock? taken;
        try
        {
            taken = NodeLock.TryTake(roles.Data);
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException)
        {
            CommandContext.Tell(parsed, "start_failed", roles.Data.Unusable(refused));
            return ExitCodes.Failed;
        }
        using var held = taken;
        if (held is null)
        {
            CommandContext.Tell(parsed, "already_running", $"Another Fleet runs on {roles.Data.Root}; end it with fleet down, or choose another --data.");
            return ExitCodes.Conflict;
        }

        var kept = new NodeLog();
        await using var log = Logs.OfNode(roles.Data, roles.Detached, kept);
        try
        {
            if (roles is { Api: not null, Join: { } cell })
            {
                await NodeEnrolment.JoinAsync(
                    cell, roles.Token,
                    new SchedulerOptions { DataDirectory = roles.Data.Scheduler }.AuthorityDirectory, cancellation);
            }

            await using var scheduler = roles is { Api: { } api, Link: { } link }
                ? await SchedulerNode.StartAsync(
                    new SchedulerOptions
                    {
                        DataDirectory = roles.Data.Scheduler,
                        CredentialsDirectory = roles.Data.Credentials,
                        ApiEndpoint = api,
                        ApiEncrypted = roles.ApiEncrypted,
                        Names = roles.Names,
                        LinkEndpoint = link,
                        TenantQemu = roles.TenantQemu,
                        Log = log,
                        NodeLog = kept,
                        EndNow = reason =>
                        {
                            log.Fatal("{Reason:l}", reason);
                            Process.GetCurrentProcess().Kill();
                        },
                        Cell = cell => Cell(cell, roles),
                    },
                    cancellation)
                : null;
            using var images = new DefaultImageStore(new ImageOptions(roles.Data.Cache, Programs.Init), log);
            await using var agent = roles.Host is { } host
                ? await HostAgent.StartAsync(AgentOptions(roles.Data, host, await JoinAsync(roles, host, scheduler, log, cancellation), images, log), cancellation)
                : null;
            if (roles.Host is not null)
                _ = WarmAsync(images, log, cancellation);
            if (roles.Host is not null && roles.Data.Tight() is { } tight)
                log.Warning("{Tight:l}", tight);
            log.Information("Fleet is up{Api}; Ctrl-C ends it, microVMs go on", roles.Api is null ? "" : $" on {(roles.ApiEncrypted ? "https" : "http")}://{roles.Api}");
            if (await EndedByItselfAsync(scheduler?.Ended ?? Task.Delay(Timeout.Infinite, cancellation), cancellation))
            {
                if (scheduler is { HasLeft: true })
                {
                    log.Information("This node has left its cell, as it was told, and Fleet ends. Started again it joins again; microVMs go on");
                    return ExitCodes.Ok;
                }
                log.Fatal("The control plane of this node ended by itself; the lines above say why. Start it again: microVMs go on, nothing acknowledged is lost");
                return ExitCodes.Failed;
            }

            log.Information("Fleet ends");
            return ExitCodes.Ok;
        }
        catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
        {
            return ExitCodes.Ok;
        }
        catch (Exception failed) when (failed is not OutOfMemoryException)
        {
            // What says itself why and what to do needs no stack trace beside it.
            var why = roles is { Api: not null, Database: null } && IsOfJournal(failed) && JournalCheck.Look(roles.Data.Scheduler).Trouble is { } trouble ? trouble + "."
                : failed is DbException ? $"The database can't be used: {failed.Message.TrimEnd('.')}. Start this node again when it can." : failed.Message;
            log.ForContext(Logs.Told, true).Fatal(failed is SchedulerStartException or CellStartException or AgentStartException or LinkException ? null : failed, "Fleet can't run: {Reason:l}", why);
            CommandContext.Tell(parsed, (failed as LinkException)?.Code ?? (failed as SchedulerStartException)?.Code ?? "start_failed", why);
            return ExitCodes.Failed;
        }
    }

    // What an actor does that can't recover is to say nothing.
    private static bool IsOfJournal(Exception failed) => failed is CellException or CellStartException or DbException || failed.InnerException is CellException;

    private static CellOptions Cell(CellOptions cell, NodeRoles roles)
    {
        cell = roles.Oversubscription(cell);
        if (roles.Lease is { } lease)
        {
            var lifetime = TimeSpan.FromSeconds(lease);
            // A short lease has at least three beats.
            cell = cell with { Lease = cell.Lease with { Lifetime = lifetime }, Heartbeat = lifetime / 3 < cell.Heartbeat ? lifetime / 3 : cell.Heartbeat };
        }
        if (roles.Cluster is not { } cluster)
            return cell;
        var (host, port) = NodeAddress.Split(cluster);
        return cell with { Database = roles.Database, RemotingHost = host, RemotingPort = port };
    }

    /// <summary>The drivers of this machine, the ones that <c>fleet doctor</c> explains.</summary>
    public static IReadOnlyList<IVmmDriver> Drivers(IImageSource images, ILogger log, RunLogs? runs = null, IReadOnlyDictionary<string, string>? cpuTemplates = null)
    {
        var options = new DriverOptions(Programs.Vmm, Programs.Qemu, images) { Log = log, Runs = runs, CpuTemplates = cpuTemplates ?? new Dictionary<string, string>() };
        return [new KvmDriver(options), new QemuDriver(options), new SimulatedDriver(TimeProvider.System, runs)];
    }

    /// <summary>
    /// What the host shows to the control plane. Beside its own scheduler it joins anew at each start, by a token made for it: whatever
    /// became of either folder, the two fit. Else it joins once, and again when it is given another token.
    /// </summary>
    private static async Task<LinkCredentials> JoinAsync(NodeRoles roles, HostRole host, SchedulerNode? scheduler, ILogger log, CancellationToken cancellation)
    {
        var folder = Path.Combine(roles.Data.Host, "link");
        if (scheduler is not null)
        {
            var own = await scheduler.CreateTokenAsync(new TokenRequest(TokenRole.Host) { Host = host.Id, Life = TimeSpan.FromMinutes(5), Note = "of fleet up" }, cancellation);
            for (var tried = 1; ; tried++)
            {
                try
                {
                    return await HostEnrolment.JoinAsync(host.Schedulers[0], own.Text, host.Id, folder, TimeProvider.System, cancellation);
                }
                catch (LinkException late) when (late.Code == "unreachable" && tried < OwnTries)
                {
                    // It is this process: on a slow machine its first answers take longer than a stranger would be waited for.
                    log.Warning("{Problem:l}. It listens, and is asked again", late.Message.TrimEnd('.'));
                }
            }
        }

        if (roles.Token is not { } token)
        {
            var known = LinkCredentials.Load(folder)
                ?? throw new LinkException("not_joined", $"This host has not joined yet. Make a token (fleet token create --role host) and start it with that in FLEET_TOKEN.");
            return known.ExpiresAt > TimeProvider.System.GetUtcNow()
                ? known
                : throw new LinkException("certificate_expired", $"The host's certificate expired at {known.ExpiresAt:u}. Make a token for this host (fleet token create --role host --host {host.Id}) and start it with that in FLEET_TOKEN.");
        }

        // Under a service manager the token stays where it is for ever; it counts once.
        var joined = Usable(folder, log);
        if (joined is not null && joined.TokenId == AccessToken.Parse(token)?.Id)
            return joined;
        for (var tried = 0; ; tried++)
        {
            var node = host.Schedulers[tried % host.Schedulers.Count];
            try
            {
                var credentials = await HostEnrolment.JoinAsync(node, token, host.Id, folder, TimeProvider.System, cancellation);
                log.Information("Joined the cell at {Address} as host {HostId}", node, host.Id);
                return credentials;
            }
            catch (LinkException away) when (away.Code is "unreachable" or "unavailable")
            {
                if (tried < host.Schedulers.Count)
                    log.Warning("{Problem:l}. Trying again until it answers", away.Message.TrimEnd('.'));
                await Task.Delay(TimeSpan.FromSeconds(1), cancellation);
            }
            catch (LinkException refused) when (joined is not null && NodeTrust.PinOf(joined.Authority) == AccessToken.Parse(token)?.Pin)
            {
                // Of the same cell, but used up: a unit's file that was forgotten must not keep a host away that has joined.
                log.Warning("The token does not let this host join anew: {Problem:l} ({Code:l}). It goes on with the certificate that it has, valid until {ExpiresAt:u}", refused.Message, refused.Code, joined.ExpiresAt);
                return joined;
            }
        }
    }

    /// <summary>What the host can still show; null: nothing, and a token has to mend that.</summary>
    private static LinkCredentials? Usable(string folder, ILogger log)
    {
        try
        {
            return LinkCredentials.Load(folder) is { } known && known.ExpiresAt > TimeProvider.System.GetUtcNow() ? known : null;
        }
        catch (LinkException damaged)
        {
            log.Warning("{Problem:l} ({Code:l})", damaged.Message, damaged.Code);
            return null;
        }
    }

    private static HostAgentOptions AgentOptions(DataDirectory data, HostRole host, LinkCredentials credentials, IImageSource images, ILogger log) => new()
    {
        HostId = host.Id,
        StateDirectory = data.Host,
        SchedulerAddresses = host.Schedulers,
        Credentials = credentials,
        Cpus = host.Cpus,
        MemoryMib = host.MemoryMib,
        DiskMib = host.Offer.DiskMib,
        NetworkMbit = host.Offer.NetworkMbit,
        Iops = host.Offer.Iops,
        CpuTemplates = [.. host.Offer.CpuTemplates.Keys],
        Fenced = host.Fenced,
        Labels = host.Labels,
        Transfer = host.Transfer,
        Reacts = !host.Reaction.Off,
        Credits = host.Reaction.Credits,
        Networks = host.Networks,
        Drivers = Drivers(images, log, host.RunLog is { } folder ? new RunLogs(folder.FullName, host.Id) : null, host.Offer.CpuTemplates),
        AutoDriver = DriverChoice.Auto,
        AgentVersion = Version,
        Log = log,
    };

    private static string Version => typeof(NodeProcess).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion.Split('+')[0] ?? "0";

    /// <summary>Makes the default image before the first microVM asks for it; one that can't be made now is tried again then.</summary>
    private static async Task WarmAsync(DefaultImageStore images, ILogger log, CancellationToken cancellation)
    {
        try
        {
            await images.GetDefaultAsync(cancellation);
        }
        catch (LaunchFailedException failed)
        {
            log.Warning("No default image yet, the first microVM will try again: {Reason}", failed.Message);
        }
        catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
        {
            // The node ends; the next one goes on.
        }
    }

    /// <summary>Waits until the program is told to end (false), or <paramref name="ended"/> before that (true).</summary>
    private static async Task<bool> EndedByItselfAsync(Task ended, CancellationToken cancellation)
    {
        await ended.WaitAsync(cancellation).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        return !cancellation.IsCancellationRequested;
    }
}
