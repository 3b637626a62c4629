using Fleet.Shared.Contracts;

namespace Fleet.Shared.Vms;

/// <summary>The rules of a microVM's health check.</summary>
public static class HealthRules
{
    /// <summary>Seconds, and for failures their number, where a spec does not say.</summary>
    public const uint DefaultInterval = 30, DefaultTimeout = 5, DefaultFailures = 3;

    public const int MaxSeconds = 3600, MaxTimeoutSeconds = 300, MaxFailures = 100;

    private const int MaxPathLength = 1024;

    /// <summary>The first rule that a spec's check breaks, or null.</summary>
    public static SpecProblem? FirstProblem(VmSpec spec)
    {
        ArgumentNullException.ThrowIfNull(spec);
        if (spec.Health is not { } health)
            return null;
        if (spec.Boot is not null || spec.Driver == "simulated")
            return new("health", "health does not go with boot or the driver simulated: fleet-init makes the checks, and there is none.");
        if (health.Command.Count > 0 == health.Port > 0)
            return new("health", "health needs either command or port.");
        return VmSpecRules.Command("health.command", health.Command)
            ?? (health.Port > 0 ? VmSpecRules.Range("health.port", health.Port, 1, ushort.MaxValue) : null)
            ?? Path(health)
            ?? VmSpecRules.Range("health.interval_seconds", health.IntervalSeconds, 1, MaxSeconds)
            ?? VmSpecRules.Range("health.timeout_seconds", health.TimeoutSeconds, 1, MaxTimeoutSeconds)
            ?? VmSpecRules.Range("health.failures", health.Failures, 1, MaxFailures)
            ?? VmSpecRules.Range("health.start_period_seconds", health.StartPeriodSeconds, 0, MaxSeconds);
    }

    private static SpecProblem? Path(HealthCheck health)
    {
        if (health.HttpPath.Length == 0)
            return null;
        if (health.Port == 0)
            return new("health.http_path", "health.http_path goes with health.port.");
        // It becomes part of a request.
        return health.HttpPath.Length <= MaxPathLength && health.HttpPath[0] == '/' && health.HttpPath.All(c => c is > ' ' and <= '~')
            ? null
            : new("health.http_path", $"health.http_path must begin with '/' and be at most {MaxPathLength} printable ASCII characters without spaces.");
    }
}
