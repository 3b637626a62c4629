using Fleet.Scheduler.Access;
using Fleet.Scheduler.Admin;
using Fleet.Scheduler.Admission;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Projection;
using Fleet.Scheduler.Sessions;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace Fleet.Scheduler.Api;

/// <summary>What the requests of the API work with.</summary>
/// <param name="Gate">The way to the actors.</param>
/// <param name="Admission">Creates microVMs.</param>
/// <param name="Claims">Who holds which name.</param>
/// <param name="Projection">The view that lists and watches read.</param>
/// <param name="Ready">Why the node is not ready, or null when it is.</param>
/// <param name="Clock">Bounds waits.</param>
/// <param name="Log">One line for each request.</param>
internal sealed record ApiContext(
    CellGate Gate, VmAdmission Admission, ClaimStore Claims, ViewProjection Projection,
    Func<CancellationToken, Task<string?>> Ready, TimeProvider Clock, ILogger Log)
{
    /// <summary>Who may come in.</summary>
    public required Tokens Tokens { get; init; }

    /// <summary>The cell's root certificate, DER.</summary>
    public required ReadOnlyMemory<byte> Authority { get; init; }

    /// <summary>Whether tenants' guests may run under QEMU, where no jail holds them.</summary>
    public bool TenantQemu { get; init; }

    /// <summary>Of the hosts whose agents have dialled this node.</summary>
    public HostFigures Figures { get; init; } = new();

    /// <summary>How much more than they have hosts may promise.</summary>
    public CapacityCaps Caps { get; init; } = new(1, 1);

    /// <summary>The operator's commands; null: the node has none.</summary>
    public AdminConsole? Admin { get; init; }

    /// <summary>Ends the long requests when the node stops.</summary>
    public CancellationToken Stopping { get; init; }

    /// <summary>Bounds the long requests.</summary>
    public LongRequests Long { get; init; } = new(1024, 128);

    /// <summary>Waits until the view shows what this node told its clients before; refuses while it is still behind from before the start.</summary>
    /// <exception cref="RequestRefused"><c>unavailable</c></exception>
    public Task FreshViewAsync(CancellationToken cancellation)
    {
        RequireCaughtUp();
        return Projection.Freshness.WaitAsync(cancellation);
    }

    /// <exception cref="RequestRefused"><c>unavailable</c>: an answer now would leave out what was acknowledged earlier.</exception>
    public void RequireCaughtUp()
    {
        if (!Projection.CaughtUp.IsCompleted)
            throw RequestRefused.Unavailable($"The view is still being read from the journal: {Projection.Index} of {Projection.Target}. Single microVMs can be asked for already.");
    }

    /// <summary>The id of the microVM that the path names, if it is the asker's own. Of others' he can't even tell that they exist.</summary>
    /// <exception cref="RequestRefused"><c>not_found</c></exception>
    public async ValueTask<string> OwnVmAsync(HttpContext http)
    {
        var who = Principal.Of(http);
        var id = VmNames.Resolve(Claims, (string)http.Request.RouteValues["id"]!, who.Tenant);
        if (who.Tenant is null)
            return id;
        var answer = await Gate.CallAsync(c => Gate.Cell.GetVmAsync(id, c), CellGate.Patience, http.RequestAborted);
        if (answer.Vm?.Spec is { } spec)
            return who.Owns(spec.Tenant) ? id : throw VmNames.NotFound(id);
        throw answer.Problem is null or { Code: ErrorCodes.NotFound } ? VmNames.NotFound(id) : RequestRefused.From(answer.Problem);
    }

    /// <summary>The body with the ids of the microVMs that its rules name: those are of the same tenant as it itself will be, whoever asks.</summary>
    /// <exception cref="RequestRefused"><c>invalid_field</c>: there is no such microVM of that tenant.</exception>
    public async ValueTask<CreateVmBody> WithIdsAsync(CreateVmBody body, CancellationToken cancellation)
    {
        // Too many are refused by the rules, and none of them looked up.
        if (body.Placement is not { Affinity: { Count: <= VmLimits.MaxAffinities } rules } placement || rules.All(rule => rule.Vm is null))
            return body;
        var named = new List<AffinityBody>(rules.Count);
        for (var i = 0; i < rules.Count; i++)
            named.Add(rules[i].Vm is { } vm ? rules[i] with { Vm = await NeighbourAsync(vm, body.Tenant ?? "", $"placement.affinity[{i}].vm", cancellation) } : rules[i]);
        return body with { Placement = placement with { Affinity = named } };
    }

    private async Task<string> NeighbourAsync(string idOrName, string tenant, string field, CancellationToken cancellation)
    {
        var id = VmId.IsValid(idOrName) ? idOrName : VmSpecRules.IsName(idOrName) ? Claims.Holder(VmNames.Claimed(idOrName, tenant)) : null;
        if (id is not null)
        {
            var answer = await Gate.CallAsync(c => Gate.Cell.GetVmAsync(id, c), CellGate.Patience, cancellation);
            if (answer.Vm is { State: not VmState.Deleted, Spec: { } spec } && spec.Tenant == tenant)
                return id;
            if (answer.Problem is { } problem && problem.Code != ErrorCodes.NotFound)
                throw RequestRefused.From(problem);
        }
        throw new RequestRefused(ErrorCodes.InvalidField, $"There is no microVM {(idOrName.Length <= 80 ? idOrName : idOrName[..80] + "…")} of the same tenant.", field);
    }

    /// <summary>Ends when the client is gone, its token ends or is revoked, or the node stops. Dispose it.</summary>
    public RequestLifetime Lifetime(HttpContext http) => new(http, Principal.Of(http), Clock, Stopping);
}

/// <summary>How long a long request may go on.</summary>
internal sealed class RequestLifetime : IDisposable
{
    // A timer can't be set for longer; no request lasts as long.
    private static readonly TimeSpan LongestTimer = TimeSpan.FromDays(24);

    private readonly CancellationTokenSource? _expiry;
    private readonly CancellationTokenSource _all;

    public RequestLifetime(HttpContext http, Principal who, TimeProvider clock, CancellationToken stopping)
    {
        if (who.Expires - clock.GetUtcNow() is { } left && left < LongestTimer)
            _expiry = new CancellationTokenSource(left > TimeSpan.Zero ? left : TimeSpan.Zero, clock);
        _all = CancellationTokenSource.CreateLinkedTokenSource(http.RequestAborted, stopping, who.Revoked, _expiry?.Token ?? default);
    }

    public CancellationToken Token => _all.Token;

    public void Dispose()
    {
        _all.Dispose();
        _expiry?.Dispose();
    }
}

/// <summary>
/// Waits, watches and consoles hold a connection for minutes. Above the bounds new ones are refused, so that the short
/// requests always have room, and one tenant leaves some to the others. Thread-safe.
/// </summary>
/// <param name="most">At once, of everybody.</param>
/// <param name="mostOfTenant">At once, of one tenant.</param>
internal sealed class LongRequests(int most, int mostOfTenant)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<string, int> _ofTenant = new(StringComparer.Ordinal);
    private int _running;

    public int Running => Volatile.Read(ref _running);

    /// <summary>A place for one long request; dispose it at its end.</summary>
    /// <exception cref="RequestRefused"><c>unavailable</c></exception>
    public IDisposable Enter(Principal who)
    {
        lock (_lock)
        {
            if (_running >= most)
                throw RequestRefused.Unavailable($"{most} waits, watches and consoles are open at once, which is the most. End some, or try again later.");
            if (who.Tenant is { } tenant)
            {
                var own = _ofTenant.GetValueOrDefault(tenant);
                if (own >= mostOfTenant)
                    throw RequestRefused.Unavailable($"{mostOfTenant} waits, watches and consoles of tenant {tenant} are open on this node, which is the most for one tenant. End some, or try again later.");
                _ofTenant[tenant] = own + 1;
            }
            _running++;
            return new Place(this, who.Tenant);
        }
    }

    private void Leave(string? tenant)
    {
        lock (_lock)
        {
            _running--;
            if (tenant is not null && --_ofTenant[tenant] == 0)
                _ofTenant.Remove(tenant);
        }
    }

    private sealed class Place(LongRequests owner, string? tenant) : IDisposable
    {
        private LongRequests? _owner = owner;

        public void Dispose() => Interlocked.Exchange(ref _owner, null)?.Leave(tenant);
    }
}
