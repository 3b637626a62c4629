using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;

namespace Fleet.Scheduler.Access;

/// <summary>Who sends a request.</summary>
/// <param name="TokenId">The token that was shown.</param>
/// <param name="Tenant">Whose microVMs it may see and touch; null: everybody's.</param>
/// <param name="Expires">When the token ends; null: never.</param>
/// <param name="Revoked">Cancelled when the token is.</param>
internal sealed record Principal(string TokenId, string? Tenant, DateTimeOffset? Expires, CancellationToken Revoked)
{
    /// <summary>Who sent this one. Only for endpoints that not everybody may call.</summary>
    public static Principal Of(HttpContext http) => http.Features.GetRequiredFeature<Principal>();

    /// <summary>Whether a microVM of that tenant is its own.</summary>
    public bool Owns(string tenant) => Tenant is null || Tenant == tenant;
}

/// <summary>Who may call an endpoint.</summary>
internal enum Audience
{
    /// <summary>Tokens of role admin; where nothing else is said.</summary>
    Admins,

    /// <summary>Those and tokens of role tenant.</summary>
    Tenants,

    /// <summary>Whoever reaches it, also without a token.</summary>
    Anybody,
}
