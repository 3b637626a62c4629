using System.Data.Common;
using System.Net;
using System.Net.Sockets;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Admin;
using Fleet.Scheduler.Admission;
using Fleet.Scheduler.Api;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Journal;
using Fleet.Scheduler.Membership;
using Fleet.Scheduler.Projection;
using Fleet.Shared.Access;
using Microsoft.Extensions.Logging;
using Serilog.Extensions.Logging;

namespace Fleet.Scheduler.Node;

/// <summary>One node of the control plane, whole: actors, view, API and the port for agents.</summary>
public sealed class SchedulerNode : IAsyncDisposable
{
    // A view that is only a little behind is worth waiting for; one that is built anew is not.
    private static readonly TimeSpan CatchUpPatience = TimeSpan.FromSeconds(10);

    private readonly Stack<Func<ValueTask>> _parts = [];

    private Tokens? _tokens;
    private CellSystem? _cell;

    private SchedulerNode()
    {
    }

    /// <summary>The SHA-256 of the cell's root certificate, base64url.</summary>
    public string AuthorityPin { get; private set; } = "";

    /// <summary>Completes when the actors have ended, asked to or not: a node that left its cluster serves nobody any more.</summary>
    public Task Ended { get; private set; } = Task.CompletedTask;

    /// <summary>They have ended because the node was told to leave its cell.</summary>
    public bool HasLeft => _cell?.HasLeft ?? false;

    /// <summary>Where the HTTP API listens.</summary>
    public IPEndPoint ApiEndpoint { get; private set; } = new(IPAddress.None, 0);

    /// <summary>Where agents dial in.</summary>
    public IPEndPoint LinkEndpoint { get; private set; } = new(IPAddress.None, 0);

    /// <summary>Starts everything and answers when microVMs can be created. Leaves nothing running when it fails.</summary>
    /// <exception cref="SchedulerStartException">It can't start; the message says why and what to do.</exception>
    /// <exception cref="CellStartException">The actors or their journal can't start.</exception>
    public static async Task<SchedulerNode> StartAsync(SchedulerOptions options, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(options);
        if (!options.ApiEncrypted && !IPAddress.IsLoopback(options.ApiEndpoint.Address))
        {
            throw new SchedulerStartException(
                $"The API would send tokens in clear text over {options.ApiEndpoint}. Give its address as https://{options.ApiEndpoint}, or a loopback address.");
        }
        // Ports first: a taken one is found before seconds go into starting the actors.
        ProbePort(options.ApiEndpoint, "API");
        ProbePort(options.LinkEndpoint, "port for agents");
        var node = new SchedulerNode();
        try
        {
            await node.ComposeAsync(options, cancellation);
            return node;
        }
        catch
        {
            await node.DisposeAsync();
            throw;
        }
    }

    /// <summary>Makes a token as this node itself: for the parts of its own process.</summary>
    /// <exception cref="CellException"><c>unavailable</c> or <c>too_many_tokens</c>.</exception>
    public async Task<AccessToken> CreateTokenAsync(TokenRequest wanted, CancellationToken cancellation) =>
        (await _tokens!.CreateAsync(wanted, "", cancellation)).Token;

    /// <summary>
    /// Stops in order, within about 3 s: requests under way end, streams are cut, agents are let go, the actors hand over.
    /// microVMs go on; nothing that was acknowledged is lost by any other way of ending the process either.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        while (_parts.TryPop(out var part))
            await part();
    }

    private async Task ComposeAsync(SchedulerOptions options, CancellationToken cancellation)
    {
        var startedAt = options.Clock.GetUtcNow();
        var folder = DataDirectory.Take(options.DataDirectory);
        Own(() =>
        {
            folder.Dispose();
            return ValueTask.CompletedTask;
        });
        // Not owned: disposing it would close the caller's log.
        var log = new SerilogLoggerFactory(options.Log);

        var cellOptions = new CellOptions { DataDirectory = folder.Path, Clock = options.Clock, Log = options.Log };
        cellOptions = options.Cell?.Invoke(cellOptions) ?? cellOptions;
        if (cellOptions.Database is null)
        {
            folder.RequireJournal();
            folder.RequireAuthority(options.AuthorityDirectory);
            if (JournalCheck.Look(folder.Path, JournalCheck.MostAtStart).Trouble is { } damage)
                throw new SchedulerStartException(damage + ".");
        }
        if (JournalCheck.LookAtView(folder.Path, JournalCheck.MostAtStart).Trouble is { } blind)
            throw new SchedulerStartException(blind + ".");
        var authority = cellOptions.Database is { } database
            ? await AuthorityClaim.OpenAsync(database, options.AuthorityDirectory, options.Clock, cancellation)
            : CertificateAuthority.OpenOrCreate(options.AuthorityDirectory, options.Clock);
        Own(() =>
        {
            authority.Dispose();
            return ValueTask.CompletedTask;
        });
        AuthorityPin = authority.Pin;
        var identity = new NodeIdentity(authority, Environment.MachineName.ToLowerInvariant(), options.Names, options.Clock);
        // A node that stands alone listens for others of its cell too: nobody else may speak to its actors.
        cellOptions = cellOptions with { Authority = authority };
        if (cellOptions.Database is not null && options.EndNow is { } endNow)
        {
            var watch = new StallWatch(options.Clock, took => endNow(
                $"This node stood still for {took.TotalSeconds:0.0} s and the others have given it up, or are about to. Its process ends; start it again."));
            Own(() =>
            {
                watch.Dispose();
                return ValueTask.CompletedTask;
            });
        }
        var cell = await CellSystem.StartAsync(cellOptions, cancellation);
        Own(cell.DisposeAsync);
        if (cellOptions.Database is null)
            folder.NoteJournal();
        _cell = cell;
        Ended = cell.ActorSystem.WhenTerminated;
        var book = new TokenBook();
        _tokens = new Tokens(book, cell.AskTokens, authority.Pin, options.Clock);
        var follower = await TokenFollower.StartAsync(
            book, (after, ends) => cell.Events.ReadOneAsync(PersistenceIds.Tokens, after, int.MaxValue, ends), options.Clock, log.CreateLogger<TokenFollower>(), cancellation);
        Own(follower.DisposeAsync);
        if (options.CredentialsDirectory is { } credentials)
            await LocalAdmin.EnsureAsync(credentials, authority, _tokens, cancellation);
        var claims = Open(folder.File("claims.db"), file => new ClaimStore(
            cellOptions.Database is { } shared ? new ClaimDatabase.Shared(shared) : new ClaimDatabase.File(file), options.Clock, log.CreateLogger<ClaimStore>()));
        Own(claims.DisposeAsync);
        var projection = Open(folder.File(JournalCheck.ViewFile), file => new ViewProjection(
            new(file, options.ChangesKept), cell.Events, (gone, _) => claims.ReleaseNamesAsync(gone), options.Clock, log.CreateLogger<ViewProjection>()));
        Own(projection.DisposeAsync);
        await projection.StartAsync(cancellation);
        await CatchUpAsync(projection, claims, options, cancellation);

        var gate = new CellGate(cell.Cell, projection.Freshness, options.Clock);
        var context = new ApiContext(gate, new VmAdmission(gate, claims, options.Clock), claims, projection,
            new NodeHealth(cell, projection, new DiskProbe(folder.Path, options.Clock)).TroubleAsync, options.Clock, log.CreateLogger<ApiServer>())
        {
            Tokens = _tokens,
            Authority = authority.Certificate.RawData,
            TenantQemu = options.TenantQemu,
            Figures = cell.Figures,
            Caps = cellOptions.Caps,
            Long = new LongRequests(options.LongRequests, options.LongRequestsOfTenant),
        };
        var enrolment = new EnrolmentService(authority, _tokens, cell.Cell, new RefusalLimit(EnrolmentService.MostRefusals, options.Clock), log.CreateLogger<EnrolmentService>());
        var link = await ListenAsync(options.LinkEndpoint, "port for agents",
            () => LinkServer.StartAsync(options.LinkEndpoint, authority, identity, cell.HostLink, enrolment, log, cancellation));
        Own(link.DisposeAsync);
        var admin = new AdminContext
        {
            Actors = cell.ActorSystem,
            Placement = cell.Placement,
            Api = context,
            Events = cell.Events,
            Options = cellOptions,
            Log = options.NodeLog,
            StartedAt = startedAt,
            LinkEndpoint = link.Endpoint,
        };
        context = context with { Admin = new AdminConsole(admin, log.CreateLogger<AdminConsole>()) };
        var api = await ListenAsync(options.ApiEndpoint, "API", () => ApiServer.StartAsync(options.ApiEndpoint, options.ApiEncrypted ? () => identity.Certificate : null, context, log, cancellation));
        Own(api.DisposeAsync);
        LinkEndpoint = link.Endpoint;
        ApiEndpoint = api.Endpoint;
        options.Log.Information("The API listens on {ApiEndpoint}, agents dial {LinkEndpoint}, data is in {DataDirectory}", ApiEndpoint, LinkEndpoint, folder.Path);
    }

    private void Own(Func<ValueTask> part) => _parts.Push(part);

    private static async Task CatchUpAsync(ViewProjection projection, ClaimStore claims, SchedulerOptions options, CancellationToken cancellation)
    {
        try
        {
            await projection.CaughtUp.WaitAsync(CatchUpPatience, cancellation);
        }
        catch (TimeoutException)
        {
            options.Log.Warning("The view is at {Index} of {Target}; lists answer when it is there", projection.Index, projection.Target);
            return;
        }
        if (await claims.AdoptAsync(projection.Reader.Names().Select(held => (VmNames.Claimed(held.Name, held.Tenant), held.VmId))) is > 0 and var adopted)
            options.Log.Warning("claims.db was empty; the names of {Count} microVMs were put back into it", adopted);
    }

    private static T Open<T>(string file, Func<string, T> open)
    {
        try
        {
            return open(file);
        }
        catch (DbException fault)
        {
            throw new SchedulerStartException($"{file} can't be opened: {fault.Message.TrimEnd('.')}. Check that it can be written and that the disk is not full.", fault);
        }
    }

    private static async Task<T> ListenAsync<T>(IPEndPoint endpoint, string what, Func<Task<T>> listen)
    {
        try
        {
            return await listen();
        }
        catch (Exception fault) when (fault is IOException or SocketException)
        {
            throw CantListen(endpoint, what, fault);
        }
    }

    private static void ProbePort(IPEndPoint endpoint, string what)
    {
        if (endpoint.Port == 0)
            return;
        try
        {
            using var probe = new TcpListener(endpoint);
            probe.Start();
        }
        catch (SocketException fault)
        {
            throw CantListen(endpoint, what, fault);
        }
    }

    private static SchedulerStartException CantListen(IPEndPoint endpoint, string what, Exception fault) => new(
        $"The {what} can't listen on {endpoint}: {fault.Message}. Another Fleet may be running there; stop it, or choose another address.", fault);
}
