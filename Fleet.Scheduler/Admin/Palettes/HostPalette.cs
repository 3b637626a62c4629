using Fleet.Scheduler.Api;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Admin;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Admin.Palettes;

/// <summary>Hosts, and what was promised on them.</summary>
internal sealed class HostPalette : Palette
{
    private static readonly ArgumentDefinition Id = new("host", "Id of the host", ["-i", "--host"]) { Mandatory = true, Bare = true };

    public HostPalette() : base("host", "Hosts, and what was promised on them")
    {
        Add("list", "List the hosts", ListAsync, Most("hosts", 1000, 100));
        Add("show", "Show a host, as its actor knows it", ShowAsync, Id);
        Add("cordon", "Have a host take no new microVM; those that it has stay", call => CordonAsync(call, cordoned: true), Id);
        Add("uncordon", "Have a host take microVMs again", call => CordonAsync(call, cordoned: false), Id);
        Add("ledger", "List what a host has promised to whom", LedgerAsync, Id, Most("reservations", 5000, 200));
    }

    private static async Task ListAsync(CommandCall call)
    {
        await call.Node.Api.FreshViewAsync(call.Cancellation);
        var page = call.Node.Api.Projection.Reader.ListHosts("", call.Number("most"));
        var rows = page.Items.Select(host => new object?[]
        {
            host.Id, BodyMapping.Name(host.State), host.Cordoned, DrainOf(host), host.Quarantine is not null, host.ReservedCpus, host.Inventory?.Cpus, host.ReservedMemoryMib, host.Inventory?.MemoryMib, host.Vms,
            host.AgentVersion,
        }).ToList();
        await call.Output.TableAsync(["host", "state", "cordoned", "drain", "quarantined", "reserved_cpus", "cpus", "reserved_mib", "mib", "vms", "agent"], rows, "No host has joined.");
        if (page.NextAfter is not null)
            await call.Output.SayAsync("… and more; ask for more with -n.");
    }

    private static async Task ShowAsync(CommandCall call)
    {
        var id = call.Get(Id.Name);
        var host = await call.Node.Api.Gate.HostAsync(c => call.Node.Api.Gate.Cell.GetHostAsync(id, c), call.Cancellation);
        var inventory = host.Inventory ?? new Inventory();
        await call.Output.SheetAsync(
            ("host", host.Id), ("state", BodyMapping.Name(host.State)), ("cordoned", host.Cordoned), ("fenced", host.Fenced),
            ("drain", DrainOf(host)), ("drain_deadline", host.Drain?.Deadline?.ToDateTimeOffset()), ("drain_staying", host.Drain?.Staying.Count),
            ("quarantined", host.Quarantine is not null), ("quarantine_reason", host.Quarantine?.Reason?.Message), ("quarantine_retry_at", host.Quarantine?.RetryAt?.ToDateTimeOffset()),
            ("pressure", host.Pressure is { } pressure ? $"{BodyMapping.Name(pressure.Cpu)} for CPU, {BodyMapping.Name(pressure.Memory)} for memory: {pressure.Why}" : null),
            ("connected_at", host.ConnectedAt?.ToDateTimeOffset()), ("changed_at", host.ChangedAt?.ToDateTimeOffset()), ("version", host.Version),
            ("machine", $"{inventory.Architecture}, Linux {inventory.Kernel}"), ("agent", host.AgentVersion),
            ("cpus", inventory.Cpus), ("reserved_cpus", host.ReservedCpus), ("memory_mib", inventory.MemoryMib), ("reserved_memory_mib", host.ReservedMemoryMib),
            ("disk_mib", inventory.HasDiskMib ? inventory.DiskMib : null), ("reserved_disk_mib", host.ReservedOther?.DiskMib ?? 0), ("volumes_mib", host.Usage?.VolumesMib), ("saved_mib", host.Usage?.SavedMib),
            ("network_mbit", inventory.HasNetworkMbit ? inventory.NetworkMbit : null), ("reserved_network_mbit", host.ReservedOther?.NetworkMbit ?? 0),
            ("iops", inventory.HasIops ? inventory.Iops : null), ("reserved_iops", host.ReservedOther?.Iops ?? 0), ("cpu_templates", string.Join(", ", inventory.CpuTemplates)),
            ("predicted_by", host.Usage?.Forecast is { } by ? $"{(by.HostClass.Length > 0 ? $"class {by.HostClass}: " : "")}{by.CpuPredictor} for CPU, {by.MemoryPredictor} for memory, {by.Reserve} left free" : null),
            ("vms", host.Vms), ("drivers", string.Join(", ", inventory.Drivers.Where(driver => driver.Usable).Select(driver => driver.Name))), ("auto_driver", inventory.AutoDriver));
    }

    private static string? DrainOf(HostRecord host) => host.Drain is not { } drain ? null : drain.DoneAt is null ? "draining" : "drained";

    private static async Task CordonAsync(CommandCall call, bool cordoned)
    {
        var id = call.Get(Id.Name);
        var host = await call.Node.Api.Gate.HostAsync(c => call.Node.Api.Gate.Cell.CordonHostAsync(id, cordoned, c), call.Cancellation);
        await call.Output.SayAsync(host.Cordoned
            ? $"{host.Id} is cordoned: it takes no new microVM; the {host.Vms} that it has stay."
            : $"{host.Id} takes microVMs.");
    }

    private static async Task LedgerAsync(CommandCall call)
    {
        var ledger = await call.Node.LedgerAsync(call.Get(Id.Name), call.Number("most"), call.Cancellation);
        var rows = ledger.Entries.Select(entry => new object?[]
        {
            entry.VmId, entry.Epoch, entry.Cpus, entry.MemoryMib, entry.Other?.DiskMib ?? 0, entry.Other?.NetworkMbit ?? 0, entry.Other?.Iops ?? 0, entry.Lost ? "lost" : entry.Vacated ? "vacated" : "reserved",
        }).ToList();
        await call.Output.TableAsync(["vm", "epoch", "cpus", "memory_mib", "disk_mib", "network_mbit", "iops", "state"], rows, $"{ledger.Host.Id} has promised nothing.");
        if (ledger.Total > (uint)ledger.Entries.Count)
            await call.Output.SayAsync($"… and {ledger.Total - (uint)ledger.Entries.Count} more.");
        await call.Output.SayAsync($"{ledger.Host.ReservedCpus} vCPUs and {ledger.Host.ReservedMemoryMib} MiB are reserved for {ledger.Host.Vms} microVMs.");
    }
}
