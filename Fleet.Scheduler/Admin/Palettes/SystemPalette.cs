using System.Diagnostics;
using Fleet.Scheduler.Api;

namespace Fleet.Scheduler.Admin.Palettes;

/// <summary>This node's process.</summary>
internal sealed class SystemPalette : Palette
{
    public SystemPalette() : base("system", "This node's process")
    {
        Add("uptime", "Say since when the node runs, and what its process uses", UptimeAsync);
        Add("version", "Say which version runs", VersionAsync);
        Add("settings", "List the settings that the node runs with", SettingsAsync);
    }

    private static async Task UptimeAsync(CommandCall call)
    {
        using var process = Process.GetCurrentProcess();
        await call.Output.SheetAsync(
            ("started_at", call.Node.StartedAt), ("up_s", Math.Round((call.Node.Options.Clock.GetUtcNow() - call.Node.StartedAt).TotalSeconds)), ("pid", Environment.ProcessId),
            ("cpu_s", Math.Round(process.TotalProcessorTime.TotalSeconds, 1)), ("resident_mib", process.WorkingSet64 >> 20), ("heap_mib", GC.GetTotalMemory(false) >> 20),
            ("threads", process.Threads.Count), ("view_index", call.Node.Api.Projection.Index));
    }

    private static async Task VersionAsync(CommandCall call) => await call.Output.SheetAsync(
        ("fleet", ApiServer.Version), ("runtime", Environment.Version.ToString()), ("akka", typeof(Akka.Actor.ActorSystem).Assembly.GetName().Version?.ToString(3)));

    // Named one by one, so that a setting that holds a secret is never among them because somebody added it elsewhere.
    private static async Task SettingsAsync(CommandCall call)
    {
        var options = call.Node.Options;
        await call.Output.SheetAsync(
            ("data_directory", options.DataDirectory),
            ("link_endpoint", call.Node.LinkEndpoint),
            ("remoting_host", options.RemotingHost), ("remoting_port", options.RemotingPort), ("database", options.Database?.ToString() ?? "SQLite"),
            ("heartbeat_s", options.Heartbeat.TotalSeconds), ("host_dead_after_s", options.HostDeadAfter.TotalSeconds),
            ("lease_s", options.Lease.Lifetime.TotalSeconds), ("lease_margin_s", options.Lease.Margin.TotalSeconds), ("vmm_ends_after_s", options.Lease.EndsAfter.TotalSeconds),
            ("cpu_ratio", options.CpuRatio), ("memory_ratio", options.MemoryRatio), ("disk_ratio", options.DiskRatio), ("network_ratio", options.NetworkRatio), ("iops_ratio", options.IopsRatio),
            ("cpu_predictor", options.Prediction?.Cpu ?? "off"), ("memory_predictor", options.Prediction?.Memory ?? "off"), ("reserve", options.Prediction?.Reserve ?? 0),
            ("predicted_classes", string.Join("; ", options.Prediction?.Classes.Select(one => one.Text) ?? [])),
            ("ask_timeout_s", options.AskTimeout.TotalSeconds), ("placement_retry_s", options.PlacementRetry.TotalSeconds),
            ("reservation_audit_s", options.ReservationAudit.TotalSeconds), ("host_announce_s", options.HostAnnounce.TotalSeconds),
            ("rest_after_s", options.RestAfter.TotalSeconds), ("waiters_per_vm", options.WaitersPerVm), ("sessions_per_node", options.SessionsPerNode));
    }
}
