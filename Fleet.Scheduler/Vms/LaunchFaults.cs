using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Vms;

/// <summary>Launches that failed by what the host is or has, and not by what was asked of it.</summary>
public static class LaunchFaults
{
    /// <summary>So many hosts are tried for one microVM: what fails on all of them is hardly the hosts' fault.</summary>
    public const int MostHosts = 3;

    private static readonly HashSet<string> Broken = new(StringComparer.Ordinal) { "image_unavailable", "vmm_failed", "launch_failed", "driver_unusable", "network_unavailable" };

    /// <summary>The host has given away what was asked for, or can't have it: another may, and this one is sound.</summary>
    private static readonly HashSet<string> Taken = new(StringComparer.Ordinal) { "port_taken", "addresses_exhausted", "image_no_space", "registry_unavailable" };

    /// <summary>Whether another host might do better with a microVM of which nothing has run yet.</summary>
    public static bool MayWorkElsewhere(VmReport report) => IsHosts(report) || Is(report, Taken);

    /// <summary>Whether it speaks against the host, so that enough of them have it left alone for a while.</summary>
    public static bool IsHosts(VmReport report) => Is(report, Broken);

    private static bool Is(VmReport report, HashSet<string> codes)
    {
        ArgumentNullException.ThrowIfNull(report);
        return report is { State: HostVmState.Failed, NeverRan: true } && codes.Contains(report.Reason?.Code ?? "");
    }
}
