using Fleet.Scheduler.Access;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace Fleet.Scheduler.Api;

/// <summary>Makes, lists and revokes tokens. A token's text is in the answer to its create, and nowhere else ever.</summary>
internal sealed class TokenEndpoints(ApiContext api)
{
    public void Map(IEndpointRouteBuilder all)
    {
        var routes = all.MapGroup("").WithTags("tokens");
        routes.MapPost("/v1/tokens", (Delegate)CreateAsync).Describe(new("create_token", "Makes a token, and shows it this once")
        {
            Body = typeof(CreateTokenBody),
            Status = 201,
            Answer = typeof(NewTokenBody),
            Errors = [ErrorCodes.InvalidJson, ErrorCodes.UnknownField, ErrorCodes.InvalidField, ErrorCodes.MissingField, ErrorCodes.TooManyTokens,
                ErrorCodes.PayloadTooLarge, ErrorCodes.UnsupportedMediaType],
        });
        routes.MapGet("/v1/tokens", (Delegate)ListAsync).Describe(new("list_tokens", "Lists tokens in the order they were made; ended ones for a week")
        {
            Answer = typeof(TokenListBody),
        });
        routes.MapDelete("/v1/tokens/{id}", (Delegate)RevokeAsync).Describe(new("revoke_token", "Ends a token, and what goes on under it, on every node within a second")
        {
            Answer = typeof(TokenBody),
            Errors = [ErrorCodes.NotFound],
        });
    }

    private async Task CreateAsync(HttpContext http)
    {
        _ = new Query(http);
        var body = (await Exchange.ReadJsonAsync(http, ApiJson.Wire.CreateTokenBody, optional: false))!;
        if (body.Role is null)
            throw new RequestRefused(ErrorCodes.MissingField, $"A token needs a role: {string.Join(", ", TokenRules.Roles.Keys)}.", "role");
        if (!TokenRules.Roles.TryGetValue(body.Role, out var role))
            throw new RequestRefused(ErrorCodes.InvalidField, $"There is no such role; there are {string.Join(", ", TokenRules.Roles.Keys)}.", "role");
        var wanted = new TokenRequest(role)
        {
            Tenant = body.Tenant,
            Host = body.Host,
            Note = body.Note ?? "",
            // Out of range is told by the rules; what does not even fit is the same.
            Life = body.TtlSeconds is { } seconds ? TimeSpan.FromSeconds(Math.Clamp(seconds, 0, 1L << 36)) : null,
        };
        if (TokenRules.FirstProblem(wanted) is { } problem)
            throw new RequestRefused(ErrorCodes.InvalidField, problem.Message, problem.Field);
        var (token, record) = await api.Gate.CallAsync(c => api.Tokens.CreateAsync(wanted, Principal.Of(http).TokenId, c), CellGate.Patience, http.RequestAborted);
        await Exchange.WriteJsonAsync(http, StatusCodes.Status201Created, new NewTokenBody(token.Text, BodyMapping.ToBody(record)), ApiJson.Wire.NewTokenBody);
    }

    private Task ListAsync(HttpContext http)
    {
        _ = new Query(http);
        return Exchange.WriteJsonAsync(http, StatusCodes.Status200OK, new TokenListBody([.. api.Tokens.All.Select(BodyMapping.ToBody)]), ApiJson.Wire.TokenListBody);
    }

    private async Task RevokeAsync(HttpContext http)
    {
        _ = new Query(http);
        var id = (string)http.Request.RouteValues["id"]!;
        if (api.Tokens.All.All(token => token.Id != id))
            throw new RequestRefused(ErrorCodes.NotFound, "There is no such token. The list of tokens shows those that there are, by their ids; a token itself is never asked for.");
        var record = await api.Gate.CallAsync(c => api.Tokens.RevokeAsync(id, Principal.Of(http).TokenId, c), CellGate.Patience, http.RequestAborted);
        await Exchange.WriteJsonAsync(http, StatusCodes.Status200OK, BodyMapping.ToBody(record), ApiJson.Wire.TokenBody);
    }
}
