using Fleet.Scheduler.Cell;
using Fleet.Shared.Vms;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.OpenApi;

namespace Fleet.Scheduler.Api;

/// <summary>The hosts of the cell.</summary>
internal sealed class HostEndpoints(ApiContext api)
{
    public void Map(IEndpointRouteBuilder all)
    {
        var routes = all.MapGroup("").WithTags("hosts");
        routes.MapGet("/v1/hosts", (Delegate)ListAsync).Describe(new("list_hosts", "Lists hosts in the order of their ids")
        {
            Query = Paging.Parameters,
            Answer = typeof(HostListBody),
            AnswerHeaders = [new(Exchange.IndexHeader, "How much of the change log the list has seen")],
        });
        routes.MapGet("/v1/hosts/{id}", (Delegate)ShowAsync).Describe(new("show_host", "Shows a host")
        {
            Answer = typeof(HostBody),
            Errors = [ErrorCodes.NotFound],
        });
        routes.MapPost("/v1/hosts/{id}/cordon", (Delegate)CordonAsync).Describe(new("cordon_host", "Has a host take no new microVM")
        {
            Answer = typeof(HostBody),
            Errors = [ErrorCodes.NotFound],
        });
        routes.MapPost("/v1/hosts/{id}/uncordon", (Delegate)UncordonAsync).Describe(new("uncordon_host", "Has a host take microVMs again")
        {
            Answer = typeof(HostBody),
            Errors = [ErrorCodes.NotFound],
        });
        routes.MapPost("/v1/hosts/{id}/drain", (Delegate)DrainAsync).Describe(new("drain_host", "Has a host take no new microVM, and those that it has move elsewhere")
        {
            Body = typeof(DrainHostBody),
            BodyOptional = true,
            Status = 202,
            Answer = typeof(HostBody),
            Errors = [ErrorCodes.InvalidJson, ErrorCodes.UnknownField, ErrorCodes.InvalidField, ErrorCodes.NotFound, ErrorCodes.PayloadTooLarge, ErrorCodes.UnsupportedMediaType],
        });
        routes.MapDelete("/v1/hosts/{id}", (Delegate)RemoveAsync).Describe(new("remove_host", "Forgets a host that is gone")
        {
            Query = [new("force", "Its machine is off, for certain: what a host without a lease carried is placed elsewhere", JsonSchemaType.Boolean)],
            Status = 204,
            Errors = [ErrorCodes.NotFound, ErrorCodes.HostConnected, ErrorCodes.HostInUse],
        });
    }

    private async Task ListAsync(HttpContext http)
    {
        var (after, size) = Paging.Of(new Query(http));
        await api.FreshViewAsync(http.RequestAborted);
        var page = api.Projection.Reader.ListHosts(after, size);
        Paging.WriteIndex(http, page.Index);
        await Exchange.WriteJsonAsync(http, StatusCodes.Status200OK,
            new HostListBody([.. page.Items.Select(host => BodyMapping.ToBody(host, api.Caps))], Paging.Token(page.NextAfter)), ApiJson.Wire.HostListBody);
    }

    private async Task ShowAsync(HttpContext http)
    {
        _ = new Query(http);
        var id = Id(http);
        var host = await api.Gate.HostAsync(c => api.Gate.Cell.GetHostAsync(id, c), http.RequestAborted);
        if (host.State == HostState.Removed)
            throw NotFound(id);
        await Exchange.WriteJsonAsync(http, StatusCodes.Status200OK, BodyMapping.ToBody(host), ApiJson.Wire.HostBody);
    }

    private Task CordonAsync(HttpContext http) => SetCordonAsync(http, cordoned: true);

    private Task UncordonAsync(HttpContext http) => SetCordonAsync(http, cordoned: false);

    private async Task SetCordonAsync(HttpContext http, bool cordoned)
    {
        _ = new Query(http);
        var id = Id(http);
        var host = await api.Gate.HostAsync(c => api.Gate.Cell.CordonHostAsync(id, cordoned, c), http.RequestAborted);
        await Exchange.WriteJsonAsync(http, StatusCodes.Status200OK, BodyMapping.ToBody(host), ApiJson.Wire.HostBody);
    }

    private async Task DrainAsync(HttpContext http)
    {
        _ = new Query(http);
        var body = await Exchange.ReadJsonAsync(http, ApiJson.Wire.DrainHostBody, optional: true);
        var deadline = body?.DeadlineSeconds ?? VmLimits.DefaultDrainSeconds;
        var grace = body?.GraceSeconds ?? VmLimits.DefaultGraceSeconds;
        if ((VmSpecRules.Range("deadline_seconds", deadline, 0, VmLimits.MaxDrainSeconds)
            ?? VmSpecRules.Range("grace_seconds", grace, 0, VmLimits.MaxGraceSeconds)) is { } problem)
        {
            throw new RequestRefused(ErrorCodes.InvalidField, problem.Message, problem.Field);
        }

        var id = Id(http);
        var host = await api.Gate.HostAsync(c => api.Gate.Cell.DrainHostAsync(id, TimeSpan.FromSeconds(deadline), TimeSpan.FromSeconds(grace), c), http.RequestAborted);
        await Exchange.WriteJsonAsync(http, StatusCodes.Status202Accepted, BodyMapping.ToBody(host), ApiJson.Wire.HostBody);
    }

    private async Task RemoveAsync(HttpContext http)
    {
        var forced = new Query(http).Flag("force");
        var id = Id(http);
        await api.Gate.HostAsync(c => api.Gate.Cell.RemoveHostAsync(id, forced, c), http.RequestAborted);
        http.Response.StatusCode = StatusCodes.Status204NoContent;
    }

    private static string Id(HttpContext http)
    {
        var id = (string)http.Request.RouteValues["id"]!;
        return VmSpecRules.IsHostId(id) ? id : throw NotFound(id);
    }

    private static RequestRefused NotFound(string id) => new(ErrorCodes.NotFound,
        $"There is no host {(id.Length <= 80 ? id : id[..80] + "…")}. The list of hosts shows those that there are.");
}
