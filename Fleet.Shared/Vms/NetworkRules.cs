using Fleet.Shared.Contracts;
using Google.Protobuf.Collections;

namespace Fleet.Shared.Vms;

/// <summary>The rules of a microVM's network and of the host's ports that lead to it.</summary>
public static class NetworkRules
{
    /// <summary>No interface; costs nothing.</summary>
    public const string None = "none";

    /// <summary>An interface in its tenant's network on its host.</summary>
    public const string Tenant = "tenant";

    public const string Tcp = "tcp";
    public const string Udp = "udp";

    /// <summary>What reaches the guest.</summary>
    public const string ReceiveLimiter = "net.rx";

    /// <summary>What the guest sends.</summary>
    public const string SendLimiter = "net.tx";

    /// <summary>Below these are the services of the host itself: no tenant's to publish.</summary>
    public const int FirstTenantPort = 1024;

    public static readonly IReadOnlyList<string> Kinds = [None, Tenant];

    public static readonly IReadOnlyList<string> Protocols = [Tcp, Udp];

    /// <summary>Whether it is to have an interface.</summary>
    public static bool IsWanted(VmSpec spec)
    {
        ArgumentNullException.ThrowIfNull(spec);
        return spec.Network == Tenant;
    }

    /// <summary>A problem when a limiter is of an interface that the microVM has not.</summary>
    public static SpecProblem? Limiter(string field, string name, VmSpec spec) => name is ReceiveLimiter or SendLimiter && !IsWanted(spec)
        ? new(field, $"{name} limits a network interface, and the microVM has none; it gets one by network {Tenant}.")
        : null;

    /// <summary>The first rule that is broken, or null.</summary>
    public static SpecProblem? FirstProblem(VmSpec spec)
    {
        ArgumentNullException.ThrowIfNull(spec);
        if (spec.Network.Length > 0 && !Kinds.Contains(spec.Network))
            return new("network", $"network must be one of {string.Join(", ", Kinds)}.");
        if (IsWanted(spec) && spec.Driver == "simulated")
            return new("network", "A simulated guest has no network; leave network out.");
        foreach (var name in spec.RateLimits.Keys)
        {
            if (Limiter($"rate_limits.{name}", name, spec) is { } problem)
                return problem;
        }
        if (spec.Ports.Count > 0 && !IsWanted(spec))
            return new("ports", $"ports need network {Tenant}: without an interface nothing reaches the guest.");
        return spec.Ports.Count > VmLimits.MaxPorts
            ? new("ports", $"ports has {spec.Ports.Count} entries; at most {VmLimits.MaxPorts} are allowed.")
            : Ports(spec.Ports);
    }

    private static SpecProblem? Ports(RepeatedField<PublishedPort> ports)
    {
        var seen = new HashSet<(uint, string)>();
        for (var i = 0; i < ports.Count; i++)
        {
            var field = $"ports[{i}]";
            if ((VmSpecRules.Range($"{field}.host", ports[i].Host, 1, ushort.MaxValue) ?? VmSpecRules.Range($"{field}.guest", ports[i].Guest, 1, ushort.MaxValue)) is { } problem)
                return problem;
            if (!Protocols.Contains(ports[i].Protocol))
                return new($"{field}.protocol", $"{field}.protocol must be one of {string.Join(", ", Protocols)}.");
            if (!seen.Add((ports[i].Host, ports[i].Protocol)))
                return new($"{field}.host", $"Port {ports[i].Host}/{ports[i].Protocol} of the host can lead to one place only.");
        }
        return null;
    }
}
