using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace Fleet.Scheduler.Api;

/// <summary>The rate limiters of a microVM: what they let pass, what they did, and how to change it while it runs.</summary>
internal sealed class RateLimitEndpoints(ApiContext api)
{
    public void Map(IEndpointRouteBuilder all)
    {
        var routes = all.MapGroup("").WithTags("microVMs");
        routes.MapGet("/v1/vms/{id}/rate_limits", (Delegate)ReadAsync).Describe(new("read_rate_limits", "Shows the rate limiters of a microVM and what they did")
        {
            Audience = Audience.Tenants,
            Answer = typeof(RateLimitersBody),
            Errors = [ErrorCodes.NotFound],
        });
        routes.MapPut("/v1/vms/{id}/rate_limits/{limiter}", (Delegate)SetAsync).Describe(new("set_rate_limit", "Sets or changes what a rate limiter lets pass, also while the microVM runs")
        {
            Audience = Audience.Tenants,
            Body = typeof(RateLimitBody),
            Status = 202,
            Answer = typeof(VmBody),
            Errors = [ErrorCodes.InvalidJson, ErrorCodes.UnknownField, ErrorCodes.InvalidField, ErrorCodes.MissingField, ErrorCodes.NotFound, ErrorCodes.WrongState,
                ErrorCodes.PayloadTooLarge, ErrorCodes.UnsupportedMediaType],
        });
        routes.MapDelete("/v1/vms/{id}/rate_limits/{limiter}", (Delegate)LiftAsync).Describe(new("lift_rate_limit", "Lets a rate limiter pass everything")
        {
            Audience = Audience.Tenants,
            Status = 202,
            Answer = typeof(VmBody),
            Errors = [ErrorCodes.InvalidField, ErrorCodes.NotFound, ErrorCodes.WrongState],
        });
    }

    private async Task ReadAsync(HttpContext http)
    {
        _ = new Query(http);
        var id = await api.OwnVmAsync(http);
        // The microVM and its host are asked, one after the other.
        var answer = await api.Gate.CallAsync(c => api.Gate.Cell.GetLimitersAsync(id, c), 2 * CellGate.Patience, http.RequestAborted);
        if (answer.Problem is { } problem)
            throw RequestRefused.From(problem);
        if (answer.Vm is not { State: not VmState.Deleted } vm)
            throw VmNames.NotFound(id);
        await Exchange.WriteJsonAsync(http, StatusCodes.Status200OK, BodyMapping.ToBody(vm, answer.Limiters), ApiJson.Wire.RateLimitersBody);
    }

    private async Task SetAsync(HttpContext http)
    {
        _ = new Query(http);
        var name = Limiter(http);
        var limit = BodyMapping.ToLimit("", (await Exchange.ReadJsonAsync(http, ApiJson.Wire.RateLimitBody, optional: false))!);
        Refuse(RateLimitRules.FirstProblem("", limit));
        await LimitAsync(http, name, limit);
    }

    private async Task LiftAsync(HttpContext http)
    {
        _ = new Query(http);
        await LimitAsync(http, Limiter(http), null);
    }

    private async Task LimitAsync(HttpContext http, string name, RateLimit? limit)
    {
        var id = await api.OwnVmAsync(http);
        await Exchange.WriteVmAsync(http, StatusCodes.Status202Accepted,
            await api.Gate.VmAsync(c => api.Gate.Cell.LimitVmAsync(id, name, limit, c), http.RequestAborted));
    }

    private static string Limiter(HttpContext http)
    {
        var name = (string)http.Request.RouteValues["limiter"]!;
        Refuse(RateLimitRules.Name("limiter", name));
        return name;
    }

    private static void Refuse(SpecProblem? problem)
    {
        if (problem is not null)
            throw new RequestRefused(ErrorCodes.InvalidField, problem.Message, problem.Field);
    }
}
