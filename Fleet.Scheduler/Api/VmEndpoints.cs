using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Admission;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Projection;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.OpenApi;

namespace Fleet.Scheduler.Api;

/// <summary>Create, list, show, stop, start, delete and wait.</summary>
internal sealed class VmEndpoints(ApiContext api)
{
    private const int MaxKeyLength = 128;

    /// <summary>The driver under which a guest is in a jail (docs/jail.md).</summary>
    private const string JailingDriver = "kvm";

    private static readonly string AllStates = string.Join(", ", BodyMapping.StateNames);

    public void Map(IEndpointRouteBuilder all)
    {
        var routes = all.MapGroup("").WithTags("microVMs");
        routes.MapPost("/v1/vms", (Delegate)CreateAsync).Describe(new("create_vm", "Creates a microVM")
        {
            Audience = Audience.Tenants,
            Body = typeof(CreateVmBody),
            Headers = [new(Exchange.IdempotencyHeader, "1 to 128 printable characters. The same key with the same body gives the same answer for 24 hours")],
            Status = 201,
            Answer = typeof(VmBody),
            AnswerHeaders = [new("Location", "The microVM's path"), new("ETag", "The microVM's version")],
            Errors = [ErrorCodes.InvalidJson, ErrorCodes.UnknownField, ErrorCodes.InvalidField, ErrorCodes.MissingField, ErrorCodes.NameTaken, ErrorCodes.NoCapacity,
                ErrorCodes.PayloadTooLarge, ErrorCodes.UnsupportedMediaType, ErrorCodes.IdempotencyKeyReused],
        });
        routes.MapGet("/v1/vms", (Delegate)ListAsync).Describe(new("list_vms", "Lists microVMs in the order they were created")
        {
            Audience = Audience.Tenants,
            Query = [
                new("state", "One or more states, with commas in between: " + AllStates, JsonSchemaType.String),
                new("host", "The host that carries it", JsonSchemaType.String),
                new("tenant", "Whose they are; a tenant sees its own whatever is said here", JsonSchemaType.String),
                new("label.", "The value of a label: label.KEY=VALUE, as often as wanted", JsonSchemaType.String) { IsPrefix = true },
                .. Paging.Parameters],
            Answer = typeof(VmListBody),
            AnswerHeaders = [new(Exchange.IndexHeader, "How much of the change log the list has seen")],
        });
        routes.MapGet("/v1/vms/{id}", (Delegate)ShowAsync).Describe(new("show_vm", "Shows a microVM")
        {
            Audience = Audience.Tenants,
            Answer = typeof(VmBody),
            AnswerHeaders = [new("ETag", "The microVM's version")],
            Errors = [ErrorCodes.NotFound],
        });
        routes.MapPost("/v1/vms/{id}/stop", (Delegate)StopAsync).Describe(new("stop_vm", "Stops a microVM, by force when the grace is over")
        {
            Audience = Audience.Tenants,
            Body = typeof(StopVmBody),
            BodyOptional = true,
            Status = 202,
            Answer = typeof(VmBody),
            Errors = [ErrorCodes.InvalidJson, ErrorCodes.UnknownField, ErrorCodes.InvalidField, ErrorCodes.NotFound, ErrorCodes.WrongState,
                ErrorCodes.PayloadTooLarge, ErrorCodes.UnsupportedMediaType],
        });
        routes.MapPost("/v1/vms/{id}/start", (Delegate)StartAsync).Describe(new("start_vm", "Starts a stopped or failed microVM under a new epoch")
        {
            Audience = Audience.Tenants,
            Status = 202,
            Answer = typeof(VmBody),
            Errors = [ErrorCodes.NotFound, ErrorCodes.WrongState],
        });
        routes.MapPost("/v1/vms/{id}/suspend", (Delegate)SuspendAsync).Describe(new("suspend_vm", "Saves a running microVM on its host and gives its capacity back")
        {
            Audience = Audience.Tenants,
            Status = 202,
            Answer = typeof(VmBody),
            Errors = [ErrorCodes.NotFound, ErrorCodes.WrongState],
        });
        routes.MapPost("/v1/vms/{id}/resume", (Delegate)ResumeAsync).Describe(new("resume_vm", "Has a suspended microVM go on where it was saved, under a new epoch")
        {
            Audience = Audience.Tenants,
            Status = 202,
            Answer = typeof(VmBody),
            Errors = [ErrorCodes.NotFound, ErrorCodes.WrongState],
        });
        routes.MapDelete("/v1/vms/{id}", (Delegate)DeleteAsync).Describe(new("delete_vm", "Stops a microVM at once and leaves nothing of it")
        {
            Audience = Audience.Tenants,
            Status = 202,
            Answer = typeof(VmBody),
            Errors = [ErrorCodes.NotFound],
        });
        routes.MapGet("/v1/vms/{id}/wait", (Delegate)WaitAsync).Describe(new("wait_vm", "Answers as soon as a microVM is in one of the states")
        {
            Audience = Audience.Tenants,
            Query = [
                new("state", "One or more states, with commas in between: " + AllStates, JsonSchemaType.String) { Required = true },
                new("timeout", "Seconds", JsonSchemaType.Integer) { Maximum = 600, Default = 60 }],
            Answer = typeof(VmBody),
            AnswerHeaders = [new("ETag", "The microVM's version")],
            Errors = [ErrorCodes.NotFound, ErrorCodes.Timeout],
        });
    }

    private async Task CreateAsync(HttpContext http)
    {
        _ = new Query(http);
        var key = IdempotencyKey(http);
        var body = (await Exchange.ReadJsonAsync(http, ApiJson.Wire.CreateVmBody, optional: false))!;
        var who = Principal.Of(http);
        var owned = await api.WithIdsAsync(AsOf(who, body, api.TenantQemu), http.RequestAborted);
        var vm = await api.Admission.CreateAsync(name => BodyMapping.ToSpec(owned, name), body.Name is not null, Scoped(key, who), Hash(body), http.RequestAborted);
        http.Response.Headers.Location = $"/v1/vms/{vm.Id}";
        await Exchange.WriteVmAsync(http, StatusCodes.Status201Created, vm);
    }

    private async Task ListAsync(HttpContext http)
    {
        var query = new Query(http);
        var labels = query.Family("label.");
        if (labels.Count > VmLimits.MaxLabels)
            throw RequestRefused.InvalidQuery("label.", $"At most {VmLimits.MaxLabels} labels can be asked for at once.");
        if (labels.FirstOrDefault(l => !VmSpecRules.IsLabelKey(l.Key)) is { Key: { } wrong })
            throw RequestRefused.InvalidQuery("label.", wrong.Length == 0 ? "label. needs a key: label.KEY=VALUE." : "No label can have that key.");
        var filter = new VmFilter(query.Items("state", BodyMapping.StateOf, AllStates), query.Text("host"), labels, Principal.Of(http).Tenant ?? query.Text("tenant"));
        var (after, size) = Paging.Of(query);
        await api.FreshViewAsync(http.RequestAborted);
        var page = api.Projection.Reader.ListVms(filter, after, size);
        Paging.WriteIndex(http, page.Index);
        await Exchange.WriteJsonAsync(http, StatusCodes.Status200OK,
            new VmListBody([.. page.Items.Select(BodyMapping.ToBody)], Paging.Token(page.NextAfter)), ApiJson.Wire.VmListBody);
    }

    private async Task ShowAsync(HttpContext http)
    {
        _ = new Query(http);
        var id = await api.OwnVmAsync(http);
        VmUse? use = null;
        // The microVM and its host are asked, one after the other.
        var answer = await api.Gate.VmAsync(async c =>
        {
            (var vm, use) = await api.Gate.Cell.GetVmWithUseAsync(id, c);
            return vm;
        }, http.RequestAborted);
        await Exchange.WriteVmAsync(http, StatusCodes.Status200OK, Existing(answer, id), use);
    }

    private async Task StopAsync(HttpContext http)
    {
        _ = new Query(http);
        var body = await Exchange.ReadJsonAsync(http, ApiJson.Wire.StopVmBody, optional: true);
        TimeSpan? grace = body?.GraceSeconds is { } seconds ? TimeSpan.FromSeconds(Math.Clamp(seconds, -1, VmLimits.MaxGraceSeconds + 1)) : null;
        if (body?.GraceSeconds is { } wanted && VmSpecRules.Range("grace_seconds", wanted, 0, VmLimits.MaxGraceSeconds) is { } problem)
            throw new RequestRefused(ErrorCodes.InvalidField, problem.Message, problem.Field);
        var id = await api.OwnVmAsync(http);
        await Exchange.WriteVmAsync(http, StatusCodes.Status202Accepted,
            Existing(await api.Gate.VmAsync(c => api.Gate.Cell.StopVmAsync(id, grace, c), http.RequestAborted), id));
    }

    private Task StartAsync(HttpContext http) => ChangeAsync(http, static (cell, id, cancellation) => cell.StartVmAsync(id, cancellation));

    private Task SuspendAsync(HttpContext http) => ChangeAsync(http, static (cell, id, cancellation) => cell.SuspendVmAsync(id, cancellation));

    private Task ResumeAsync(HttpContext http) => ChangeAsync(http, static (cell, id, cancellation) => cell.ResumeVmAsync(id, cancellation));

    private async Task ChangeAsync(HttpContext http, Func<ICell, string, CancellationToken, Task<VmAnswer>> change)
    {
        _ = new Query(http);
        var id = await api.OwnVmAsync(http);
        await Exchange.WriteVmAsync(http, StatusCodes.Status202Accepted, Existing(await api.Gate.VmAsync(c => change(api.Gate.Cell, id, c), http.RequestAborted), id));
    }

    private async Task DeleteAsync(HttpContext http)
    {
        _ = new Query(http);
        var id = await api.OwnVmAsync(http);
        await Exchange.WriteVmAsync(http, StatusCodes.Status202Accepted,
            await api.Gate.VmAsync(c => api.Gate.Cell.DeleteVmAsync(id, c), http.RequestAborted));
    }

    private async Task WaitAsync(HttpContext http)
    {
        var query = new Query(http);
        var states = query.Items("state", BodyMapping.StateOf, AllStates).ToHashSet();
        var timeout = TimeSpan.FromSeconds(query.Number("timeout")!.Value);
        var id = await api.OwnVmAsync(http);
        using var place = api.Long.Enter(Principal.Of(http));
        using var lifetime = api.Lifetime(http);
        await Exchange.WriteVmAsync(http, StatusCodes.Status200OK,
            await api.Gate.VmAsync(c => api.Gate.Cell.WaitVmAsync(id, states, timeout, c), lifetime.Token, extra: timeout));
    }

    /// <exception cref="RequestRefused"><c>invalid_field</c>, unless it is absent or a tenant's name.</exception>
    internal static void RequireTenantName(string? tenant)
    {
        if (tenant is not null && !TokenRules.IsTenant(tenant))
            throw new RequestRefused(ErrorCodes.InvalidField, "A tenant's name is 1 to 40 of a-z, 0-9 and '-', and does not begin with '-'.", "tenant");
    }

    /// <summary>The body as it counts from whoever sent it: a tenant's is the tenant's own, and under a driver that jails its guest.</summary>
    /// <param name="who">Sent it.</param>
    /// <param name="body">As it came.</param>
    /// <param name="qemu">Whether tenants' guests may run under QEMU.</param>
    /// <exception cref="RequestRefused"><c>forbidden</c>: it wants what tenants have no say in.</exception>
    internal static CreateVmBody AsOf(Principal who, CreateVmBody body, bool qemu)
    {
        RefuseForTenant(who, body, qemu);
        if (who.Tenant is null)
            return body;
        // What auto means is each host's to say, and may be QEMU.
        return body with { Tenant = who.Tenant, Driver = qemu || body.Driver is not (null or Demand.AutoDriver) ? body.Driver : JailingDriver };
    }

    /// <summary>A tenant has its own name, and no say in what of the hosts' own is used.</summary>
    private static void RefuseForTenant(Principal who, CreateVmBody body, bool qemu)
    {
        RequireTenantName(body.Tenant);
        if (who.Tenant is null)
            return;
        if (body.Tenant is { } other && other != who.Tenant)
            throw new RequestRefused(ErrorCodes.Forbidden, $"The token is of tenant {who.Tenant}; leave tenant out.", "tenant");
        if (body.Boot is not null)
            throw new RequestRefused(ErrorCodes.Forbidden, "A kernel is named by a path on the hosts, and tenants have no say there; leave boot out.", "boot");
        if (body.Image is { } image && ImageReference.TryParse(image, out var reference, out _) && reference.IsOfHost)
            throw new RequestRefused(ErrorCodes.Forbidden, "The image is in the hosts' own files or in a registry on their loopback, and tenants have no say there; name one in another registry.", "image");
        if (body.Host is not null)
            throw new RequestRefused(ErrorCodes.Forbidden, "Tenants don't choose hosts; leave host out.", "host");
        if (body.HostLabels?.Keys.FirstOrDefault(key => !key.StartsWith(VmLimits.PublicLabelPrefix, StringComparison.Ordinal)) is { } label)
            throw new RequestRefused(ErrorCodes.Forbidden, $"Tenants may ask for labels of hosts that begin with {VmLimits.PublicLabelPrefix} only; leave the others out.", "host_labels." + (label.Length <= 64 ? label : label[..64] + "…"));
        if (body.Priority == PriorityClass.High)
            throw new RequestRefused(ErrorCodes.Forbidden, "To the class high others have to give way, and that is not a tenant's to say; use normal or low.", "priority");
        if (body.Driver == "qemu" && !qemu)
            throw new RequestRefused(ErrorCodes.Forbidden, "A guest under QEMU is not jailed, and this cell lets no tenant's run so; leave driver out.", "driver");
        if (body.Ports?.FirstOrDefault(port => port.Host < NetworkRules.FirstTenantPort) is { } low)
            throw new RequestRefused(ErrorCodes.Forbidden, $"Ports of a host below {NetworkRules.FirstTenantPort} are for its own services; publish another than {low.Host}.", "ports");
        // A launch that is made to fail speaks against its host, and three of them have it left alone.
        if (body.Simulated is not null)
            throw new RequestRefused(ErrorCodes.Forbidden, "How a simulated guest behaves is for tests of the fleet; leave simulated out.", "simulated");
    }

    private static VmRecord Existing(VmRecord vm, string id) =>
        vm.State == VmState.Deleted ? throw VmNames.NotFound(id) : vm;

    internal static string? IdempotencyKey(HttpContext http)
    {
        var values = http.Request.Headers[Exchange.IdempotencyHeader];
        if (values.Count == 0)
            return null;
        return values is [{ Length: >= 1 and <= MaxKeyLength } key] && key.All(c => c is >= ' ' and <= '~')
            ? key
            : throw new RequestRefused(ErrorCodes.InvalidField, $"{Exchange.IdempotencyHeader} must be given once, with 1 to {MaxKeyLength} printable ASCII characters.", Exchange.IdempotencyHeader);
    }

    // Two tenants may use the same key; no key of an admin can look like a tenant's, for keys are printable.
    internal static string? Scoped(string? key, Principal who) => key is null || who.Tenant is null ? key : $"{who.Tenant}\n{key}";

    // Of the members as they were read, so that space and order don't count, and in the order of keys.
    internal static byte[] Hash(CreateVmBody body) => SHA256.HashData(JsonSerializer.SerializeToUtf8Bytes(body with
    {
        Env = body.Env is null ? null : new SortedDictionary<string, string>(body.Env.ToDictionary(), StringComparer.Ordinal),
        RateLimits = body.RateLimits is null ? null : new SortedDictionary<string, RateLimitBody>(body.RateLimits.ToDictionary(), StringComparer.Ordinal),
        Labels = body.Labels is null ? null : new SortedDictionary<string, string>(body.Labels.ToDictionary(), StringComparer.Ordinal),
        HostLabels = body.HostLabels is null ? null : new SortedDictionary<string, string>(body.HostLabels.ToDictionary(), StringComparer.Ordinal),
    }, ApiJson.Wire.CreateVmBody));
}

/// <summary>Paths take a microVM's id or its name.</summary>
internal static class VmNames
{
    /// <summary>
    /// The id; a name is looked up among the tenant's, or for an admin among those that are nobody's, and <c>TENANT/NAME</c> among that tenant's.
    /// Whose the id is is not checked.
    /// </summary>
    /// <exception cref="RequestRefused"><c>not_found</c></exception>
    public static string Resolve(ClaimStore claims, string idOrName, string? tenant = null)
    {
        if (VmId.IsValid(idOrName))
            return idOrName;
        // The one character that a path keeps as it was sent.
        var name = idOrName.Replace("%2F", "/", StringComparison.OrdinalIgnoreCase);
        if (tenant is null && name.Split('/') is [var owner, var own] && TokenRules.IsTenant(owner))
            return (VmSpecRules.IsName(own) ? claims.Holder(Claimed(own, owner)) : null) ?? throw NotFound(name);
        return (VmSpecRules.IsName(name) ? claims.Holder(Claimed(name, tenant)) : null)
            ?? throw NotFound(name, tenant is null ? " A tenant's has the name TENANT/NAME." : "");
    }

    /// <summary>A name as it is claimed: each tenant has names of its own, and microVMs of nobody's share theirs.</summary>
    public static string Claimed(string name, string? tenant) => string.IsNullOrEmpty(tenant) ? name : $"{tenant}/{name}";

    public static RequestRefused NotFound(string idOrName, string hint = "") => new(ErrorCodes.NotFound,
        $"There is no microVM {(idOrName.Length <= 80 ? idOrName : idOrName[..80] + "…")}. The list of microVMs shows those that there are.{hint}");
}

/// <summary>Pages of lists, in the order of ids.</summary>
internal static class Paging
{
    private const int DefaultSize = 100;
    private const int MaxSize = 1000;
    private const int MaxTokenLength = 128;

    public static readonly IReadOnlyList<QueryParameter> Parameters = [
        new("page_size", "Items of a page", JsonSchemaType.Integer) { Minimum = 1, Maximum = MaxSize, Default = DefaultSize },
        new("page_token", "next_page_token of the page before", JsonSchemaType.String)];

    /// <exception cref="RequestRefused"><c>invalid_query</c></exception>
    public static (string After, int Size) Of(Query query)
    {
        var size = (int)query.Number("page_size")!.Value;
        if (query.Text("page_token") is not { } token)
            return ("", size);
        try
        {
            if (token.Length <= MaxTokenLength && Microsoft.AspNetCore.WebUtilities.WebEncoders.Base64UrlDecode(token) is { Length: > 0 } bytes)
                return (Encoding.ASCII.GetString(bytes), size);
        }
        catch (FormatException)
        {
            // Falls to the same refusal as a token of the wrong length.
        }
        throw RequestRefused.InvalidQuery("page_token", "page_token is none that this API gave out. Begin again without it.");
    }

    public static string? Token(string? nextAfter) =>
        nextAfter is null ? null : Microsoft.AspNetCore.WebUtilities.WebEncoders.Base64UrlEncode(Encoding.ASCII.GetBytes(nextAfter));

    public static void WriteIndex(HttpContext http, long index) =>
        http.Response.Headers[Exchange.IndexHeader] = index.ToString(System.Globalization.CultureInfo.InvariantCulture);
}
