using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Vms;

/// <summary>Launches that failed by what the host is or has, and not by what was asked of it.</summary>
public static class LaunchFaults
{
    /// <summary>So many hosts are tried for one microVM: what fails on all of them is hardly the hosts' fault.</summary>
    public const int MostHosts = 3;

    private static readonly HashSet<string> Codes = new(StringComparer.Ordinal) { "image_unavailable", "vmm_failed", "launch_failed", "driver_unusable" };

    /// <summary>Whether another host might do better with a microVM of which nothing has run yet.</summary>
    public static bool IsHosts(VmReport report)
    {
        ArgumentNullException.ThrowIfNull(report);
        return report is { State: HostVmState.Failed, NeverRan: true } && Codes.Contains(report.Reason?.Code ?? "");
    }
}
