using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Access;

/// <summary>What a token may be.</summary>
internal static class TokenRules
{
    public const int MaxNote = 128;

    public static readonly TimeSpan ShortestLife = TimeSpan.FromSeconds(10);
    public static readonly TimeSpan LongestLife = TimeSpan.FromDays(3650);

    /// <summary>Of tokens to join with, when nobody says otherwise: long enough to walk to the machine.</summary>
    public static readonly TimeSpan JoinLife = TimeSpan.FromHours(1);

    /// <summary>Roles by the words of the API.</summary>
    public static readonly IReadOnlyDictionary<string, TokenRole> Roles = new Dictionary<string, TokenRole>(StringComparer.Ordinal)
    {
        ["host"] = TokenRole.Host, ["scheduler"] = TokenRole.Scheduler, ["admin"] = TokenRole.Admin, ["tenant"] = TokenRole.Tenant,
    };

    /// <summary>Whether it is good for joining and for nothing else.</summary>
    public static bool IsForJoining(TokenRole role) => role is TokenRole.Host or TokenRole.Scheduler;

    /// <summary>Tenants are named as hosts are.</summary>
    public static bool IsTenant(string? text) => VmSpecRules.IsHostId(text);

    /// <summary>The first rule that is broken, with the member it is about.</summary>
    public static SpecProblem? FirstProblem(TokenRequest wanted)
    {
        if (wanted.Role == TokenRole.Tenant && !IsTenant(wanted.Tenant))
            return new("tenant", "A tenant's token needs the tenant's name: 1 to 40 of a-z, 0-9 and '-', not '-' first.");
        if (wanted.Role != TokenRole.Tenant && wanted.Tenant is not null)
            return new("tenant", "Only a token of role tenant has a tenant.");
        if (wanted.Host is not null && (wanted.Role != TokenRole.Host || !VmSpecRules.IsHostId(wanted.Host)))
            return new("host", "Only a token of role host names a host, by its id.");
        if (wanted.Life is { } life && (life < ShortestLife || life > LongestLife))
            return new("ttl_seconds", $"A token lives {ShortestLife.TotalSeconds:0} to {LongestLife.TotalSeconds:0} seconds.");
        if (wanted.Note.Length > MaxNote || wanted.Note.Any(char.IsControl))
            return new("note", $"The note has at most {MaxNote} characters, none of which steers a terminal.");
        return null;
    }
}

/// <summary>A token that is wanted.</summary>
public sealed record TokenRequest(TokenRole Role)
{
    /// <summary>With role tenant, and only then.</summary>
    public string? Tenant { get; init; }

    /// <summary>With role host: the one host that may join by it, known already or not. Null: any that the cell does not know.</summary>
    public string? Host { get; init; }

    /// <summary>Null: an hour for one to join with, without end for the others.</summary>
    public TimeSpan? Life { get; init; }

    public string Note { get; init; } = "";
}
