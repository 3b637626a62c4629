using Fleet.Shared.Contracts;
using Google.Protobuf.Collections;

namespace Fleet.Shared.Vms;

/// <summary>The rules of a microVM's rate limits, wherever they come from.</summary>
public static class RateLimitRules
{
    /// <summary>
    /// The limiters that a microVM can have: one for each device that a host gives to every microVM and that has something to limit.
    /// </summary>
    public static readonly IReadOnlyList<string> Names = ["entropy", NetworkRules.ReceiveLimiter, NetworkRules.SendLimiter];

    /// <summary>Drivers whose VMM has rate limiters; <c>auto</c> may turn out to be one.</summary>
    public static readonly IReadOnlyList<string> Drivers = ["auto", "kvm", "simulated"];

    /// <summary>The first rule that is broken, or null.</summary>
    /// <param name="field">Where the limits stand, as the API writes it.</param>
    /// <param name="limits">By the limiter's name.</param>
    public static SpecProblem? FirstProblem(string field, MapField<string, RateLimit> limits)
    {
        ArgumentNullException.ThrowIfNull(limits);
        foreach (var (name, limit) in limits)
        {
            if (Name(field, name) is { } unknown)
                return unknown;
            if (FirstProblem($"{field}.{name}", limit) is { } wrong)
                return wrong;
        }
        return null;
    }

    /// <summary>The first rule that one limit breaks, or null.</summary>
    /// <param name="field">Where it stands; empty: the body is the limit.</param>
    /// <param name="limit">Complete.</param>
    public static SpecProblem? FirstProblem(string field, RateLimit limit)
    {
        ArgumentNullException.ThrowIfNull(limit);
        return limit.Bandwidth is null && limit.Ops is null
            ? new(Join(field, "bandwidth"), $"{(field.Length == 0 ? "The limit" : field)} needs bandwidth, ops or both.")
            : Bucket(Join(field, "bandwidth"), limit.Bandwidth) ?? Bucket(Join(field, "ops"), limit.Ops);
    }

    /// <summary>A problem when no limiter has that name.</summary>
    public static SpecProblem? Name(string field, string name) => Names.Contains(name)
        ? null
        : new(field, $"There is no rate limiter '{(name.Length <= 64 ? name : name[..64] + "…")}'. A microVM has: {string.Join(", ", Names)}.");

    private static SpecProblem? Bucket(string field, TokenBucket? bucket) => bucket is null
        ? null
        : Range($"{field}.size", bucket.Size, 1, VmLimits.MaxBucketSize)
            ?? Range($"{field}.refill_time_ms", bucket.RefillTimeMs, 1, VmLimits.MaxRefillMs)
            ?? Range($"{field}.one_time_burst", bucket.OneTimeBurst, 0, VmLimits.MaxBucketSize);

    private static SpecProblem? Range(string field, ulong value, long least, long most) =>
        VmSpecRules.Range(field, (long)Math.Min(value, long.MaxValue), least, most);

    private static string Join(string field, string member) => field.Length == 0 ? member : $"{field}.{member}";
}
