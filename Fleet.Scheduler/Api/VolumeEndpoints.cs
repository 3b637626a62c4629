using Fleet.Scheduler.Access;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Vms;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.OpenApi;

namespace Fleet.Scheduler.Api;

/// <summary>Volumes: disks that outlive the microVMs which have them. Each is named within its tenant's; an admin says whose by <c>tenant</c>.</summary>
internal sealed class VolumeEndpoints(ApiContext api)
{
    private static readonly QueryParameter Tenant = new("tenant", "Whose it is; only with a token of role admin. Absent: nobody's, or for a tenant its own", JsonSchemaType.String);

    private static readonly string[] OfBody = [ErrorCodes.InvalidJson, ErrorCodes.UnknownField, ErrorCodes.InvalidField, ErrorCodes.MissingField, ErrorCodes.NameTaken,
        ErrorCodes.PayloadTooLarge, ErrorCodes.UnsupportedMediaType];

    public void Map(IEndpointRouteBuilder all)
    {
        var routes = all.MapGroup("").WithTags("volumes");
        routes.MapGet("/v1/volumes", (Delegate)ListAsync).Describe(new("list_volumes", "Lists volumes in the order of tenants and names")
        {
            Audience = Audience.Tenants,
            Answer = typeof(VolumeListBody),
        });
        routes.MapPost("/v1/volumes", (Delegate)CreateAsync).Describe(new("create_volume", "Creates a volume on a host, which makes it when it is used first")
        {
            Body = typeof(CreateVolumeBody),
            Status = 201,
            Answer = typeof(VolumeBody),
            Errors = [.. OfBody, ErrorCodes.NotFound, ErrorCodes.TooManyVolumes],
        });
        routes.MapDelete("/v1/volumes/{name}", (Delegate)RemoveAsync).Describe(new("remove_volume", "Removes a volume with all that it holds, as soon as its host is there")
        {
            Audience = Audience.Tenants,
            Query = [Tenant],
            Status = 202,
            Answer = typeof(VolumeBody),
            Errors = [ErrorCodes.NotFound, ErrorCodes.VolumeInUse],
        });
        Copy(routes, "clone", "Copies a volume that no microVM has, on its host", snapshot: false);
        Copy(routes, "snapshot", "Copies a volume that no microVM has, to one that is only cloned and never written to", snapshot: true);
    }

    private void Copy(RouteGroupBuilder routes, string verb, string summary, bool snapshot) =>
        routes.MapPost("/v1/volumes/{name}/" + verb, (Delegate)(Func<HttpContext, Task>)(http => CopyAsync(http, snapshot))).Describe(new(verb + "_volume", summary)
        {
            Audience = Audience.Tenants,
            Query = [Tenant],
            Body = typeof(CopyVolumeBody),
            Status = 202,
            Answer = typeof(VolumeBody),
            Errors = [.. OfBody, ErrorCodes.NotFound, ErrorCodes.WrongState, ErrorCodes.VolumeInUse, ErrorCodes.TooManyVolumes],
        });

    private async Task ListAsync(HttpContext http)
    {
        _ = new Query(http);
        var volumes = await api.Gate.CallAsync(c => api.Gate.Cell.ListVolumesAsync(Principal.Of(http).Tenant, c), CellGate.Patience, http.RequestAborted);
        await Exchange.WriteJsonAsync(http, StatusCodes.Status200OK, new VolumeListBody([.. volumes.Select(BodyMapping.ToBody)]), ApiJson.Wire.VolumeListBody);
    }

    private async Task CreateAsync(HttpContext http)
    {
        _ = new Query(http);
        var body = (await Exchange.ReadJsonAsync(http, ApiJson.Wire.CreateVolumeBody, optional: false))!;
        var name = Named(body.Name);
        var host = body.Host ?? throw new RequestRefused(ErrorCodes.MissingField, "A volume needs host, the host that it is on for ever.", "host");
        VmEndpoints.RequireTenantName(body.Tenant);
        var size = body.SizeMib ?? VmLimits.DefaultVolumeMib;
        if (VmSpecRules.Range("size_mib", size, VmLimits.MinVolumeMib, VmLimits.MaxVolumeMib) is { } problem)
            throw new RequestRefused(ErrorCodes.InvalidField, problem.Message, problem.Field);
        // One that is not there would keep every microVM that names the volume waiting.
        await api.Gate.HostAsync(c => api.Gate.Cell.GetHostAsync(host, c), http.RequestAborted);
        await ChangeAsync(http, new CreateVolume { Tenant = body.Tenant ?? "", Name = name, SizeMib = (ulong)size, Host = host }, StatusCodes.Status201Created);
    }

    private async Task CopyAsync(HttpContext http, bool snapshot)
    {
        var tenant = TenantOf(http);
        var body = (await Exchange.ReadJsonAsync(http, ApiJson.Wire.CopyVolumeBody, optional: false))!;
        await ChangeAsync(http, new CopyVolume { Tenant = tenant, Name = OfPath(http), CopyTo = Named(body.Name), Snapshot = snapshot }, StatusCodes.Status202Accepted);
    }

    private Task RemoveAsync(HttpContext http) =>
        ChangeAsync(http, new RemoveVolume { Tenant = TenantOf(http), Name = OfPath(http) }, StatusCodes.Status202Accepted);

    private async Task ChangeAsync(HttpContext http, IToVolumes change, int status)
    {
        var volume = await api.Gate.CallAsync(c => api.Gate.Cell.ChangeVolumeAsync(change, c), CellGate.Patience, http.RequestAborted);
        await Exchange.WriteJsonAsync(http, status, BodyMapping.ToBody(volume), ApiJson.Wire.VolumeBody);
    }

    private static string TenantOf(HttpContext http)
    {
        var asked = new Query(http).Text("tenant");
        var own = Principal.Of(http).Tenant;
        return own is null || asked is null || asked == own ? own ?? asked ?? ""
            : throw new RequestRefused(ErrorCodes.Forbidden, $"The token is of tenant {own}; leave tenant out.", "tenant");
    }

    private static string OfPath(HttpContext http) => (string)http.Request.RouteValues["name"]! is var name && VolumeRules.IsName(name)
        ? name
        : throw new RequestRefused(ErrorCodes.NotFound, "There is no such volume.");

    private static string Named(string? name) => name is null
        ? throw new RequestRefused(ErrorCodes.MissingField, "A volume needs name.", "name")
        : VolumeRules.Name("name", name) is { } problem ? throw new RequestRefused(ErrorCodes.InvalidField, problem.Message, problem.Field) : name;
}
