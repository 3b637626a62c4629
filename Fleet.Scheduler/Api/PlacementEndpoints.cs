using Fleet.Scheduler.Access;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.OpenApi;

namespace Fleet.Scheduler.Api;

/// <summary>Where a microVM would go: nothing is created or reserved.</summary>
internal sealed class PlacementEndpoints(ApiContext api)
{
    public void Map(IEndpointRouteBuilder all) => all.MapGroup("").WithTags("placement").MapPost("/v1/placements", (Delegate)ReviewAsync).Describe(
        new("review_placement", "Says where a microVM would go, why, and what would have to be different: nothing is created or reserved")
        {
            Audience = Audience.Tenants,
            Query = [new("gang_size", "Of so many, placed all together or not at all, instead of one", JsonSchemaType.Integer) { Minimum = 1, Maximum = VmLimits.MaxGangSize }],
            Body = typeof(CreateVmBody),
            Answer = typeof(PlacementReviewBody),
            Errors = [ErrorCodes.InvalidJson, ErrorCodes.UnknownField, ErrorCodes.InvalidField, ErrorCodes.MissingField,
                ErrorCodes.PayloadTooLarge, ErrorCodes.UnsupportedMediaType],
        });

    private async Task ReviewAsync(HttpContext http)
    {
        var gang = new Query(http).Number("gang_size");
        var body = (await Exchange.ReadJsonAsync(http, ApiJson.Wire.CreateVmBody, optional: false))!;
        var who = Principal.Of(http);
        var spec = BodyMapping.ToSpec(await api.WithIdsAsync(VmEndpoints.AsOf(who, body, api.TenantQemu), http.RequestAborted), "it");
        if (VmSpecRules.FirstProblem(spec) is { } problem)
            throw new RequestRefused(ErrorCodes.InvalidField, problem.Message, problem.Field);
        if (gang is { } size)
            spec.Gang = new Gang { Size = (uint)size };
        var review = await api.Gate.CallAsync(c => api.Gate.Cell.ReviewPlacementAsync(spec, c), CellGate.Patience, http.RequestAborted);
        await Exchange.WriteJsonAsync(http, StatusCodes.Status200OK, ToBody(review, who.Tenant is not null), ApiJson.Wire.PlacementReviewBody);
    }

    /// <summary>A tenant hears no more of the hosts than one of its microVMs would tell: nothing if it fits, else how many refuse it for what. Its driver is not its own to change.</summary>
    private static PlacementReviewBody ToBody(PlacementReview review, bool tenant) => new(
        review.Reason is null,
        review.Preempts,
        tenant ? null : review.Fitting,
        tenant ? [] : [.. review.Candidates.Select(candidate => new PlacementCandidateBody(
            candidate.Host,
            Rounded(candidate.Cost.Sum(part => part.Value)),
            [.. candidate.Cost.Select(part => new PlacementScoreBody(part.Key, Rounded(part.Value)))]))],
        review.Reason is { } reason ? new ReasonBody(reason.Code, reason.Message) : null,
        tenant && review.Reason is null ? [] : [.. review.Rejections.Select(rejection => new PlacementRejectionBody(
            rejection.Reason,
            rejection.Hosts,
            rejection.Wanted > 0 ? rejection.Wanted : null,
            rejection.Wanted > 0 ? rejection.MostFree : null))],
        [.. review.Changes.Where(change => !tenant || change.Field is not (PlacementChange.AddHost or "driver")).Select(change => new PlacementChangeBody(
            change.Field,
            change.Value,
            change.Like.Length == 0 ? null : change.Like,
            tenant ? null : change.Fitting))]);

    private static double Rounded(double cost) => Math.Round(cost, 4);
}
