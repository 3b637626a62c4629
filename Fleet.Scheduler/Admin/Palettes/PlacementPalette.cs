using System.Globalization;
using Fleet.Scheduler.Api;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Admin;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Admin.Palettes;

/// <summary>What this node's placement knows, and what it would say.</summary>
internal sealed class PlacementPalette : Palette
{
    public PlacementPalette() : base("placement", "What this node's placement knows, and what it would say")
    {
        Add("index", "List the hosts as placement knows them", IndexAsync, Most("hosts", 1000, 100));
        Add("explain", "Say for every host whether it would take a microVM now, and why not", ExplainAsync,
            VmPalette.Vm, Most("hosts", 1000, 100));
        Add("candidates", "Say which hosts would take a microVM like this", CandidatesAsync,
            new ArgumentDefinition("cpus", "vCPUs", ["-c", "--cpus"]) { Minimum = 1, Maximum = VmLimits.MaxCpus, Default = "1" },
            new ArgumentDefinition("memory", "MiB", ["-m", "--memory"]) { Minimum = VmLimits.MinMemoryMib, Maximum = VmLimits.MaxMemoryMib, Default = VmLimits.DefaultMemoryMib.ToString(CultureInfo.InvariantCulture) },
            new ArgumentDefinition("driver", "The driver it must have", ["-d", "--driver"]) { Choices = [Demand.AutoDriver, "kvm", "qemu", Demand.SimulatedDriver], Default = Demand.AutoDriver },
            new ArgumentDefinition("own-kernel", "It brings a kernel of its own", ["-k", "--own-kernel"]) { Flag = true },
            new ArgumentDefinition("host", "The only host that may carry it", ["-i", "--host"]),
            Most("hosts", 1000, 100));
    }

    private static async Task IndexAsync(CommandCall call)
    {
        var known = await KnownAsync(call, null);
        var rows = known.OrderBy(host => host.View.HostId, StringComparer.Ordinal).Take(call.Number("most")).Select(host => new object?[]
        {
            host.View.HostId, host.View.Connected, host.View.Cordoned, host.FreeCpus, host.View.ReservedCpus, host.FreeMemoryMib, host.View.ReservedMemoryMib,
            host.View.Inventory?.AutoDriver, host.View.Version, Math.Round(host.HeardAgo.TotalSeconds, 1),
        }).ToList();
        await call.Output.TableAsync(
            ["host", "connected", "cordoned", "free_cpus", "reserved_cpus", "free_mib", "reserved_mib", "auto", "version", "heard_s_ago"], rows, "Placement knows no host.");
        await SayMoreAsync(call, known.Count);
    }

    private static async Task ExplainAsync(CommandCall call)
    {
        var vm = await VmPalette.FindAsync(call);
        var reason = vm.Reason is { } stored ? $" ({stored.Code}: {stored.Message})" : "";
        await call.Output.SayAsync($"{vm.Spec.Name} ({vm.Id}) is {BodyMapping.Name(vm.State)}{(vm.Host.Length > 0 ? $" on {vm.Host}" : "")}, epoch {vm.Epoch}{reason}.");
        await JudgeAsync(call, Demand.Of(vm.Spec));
    }

    private static Task CandidatesAsync(CommandCall call) => JudgeAsync(call, new Demand(
        (uint)call.Number("cpus"), (ulong)call.Number("memory"), call.Get("driver"), call.Has("own-kernel"), call.Find("host") ?? ""));

    private static async Task JudgeAsync(CommandCall call, Demand demand)
    {
        var judged = await KnownAsync(call, demand);
        var advice = (await call.Node.AskAsync<HostsFound>(call.Node.Placement, new FindHosts(demand, new HashSet<string>(), 0), call.Cancellation)).Advice;
        var rows = judged
            .OrderBy(host => host.Rejection is not null)
            .ThenBy(host => host.Cost.Sum(part => part.Value))
            .ThenBy(host => host.View.HostId, StringComparer.Ordinal)
            .Take(call.Number("most"))
            .Select(host => new object?[]
            {
                host.View.HostId, host.Rejection is null ? "would take it" : "no", host.Rejection?.Reason, Wanted(host.Rejection, demand), Free(host),
            }).ToList();
        await call.Output.SayAsync(
            $"Wanted: {demand.Cpus} vCPUs, {demand.MemoryMib} MiB, driver {demand.Driver}{(demand.OwnKernel ? ", a kernel of its own" : "")}{(demand.Host.Length > 0 ? $", host {demand.Host}" : "")}{(demand.Limited ? ", rate limits" : "")}.");
        await call.Output.TableAsync(["host", "says", "reason", "wanted", "free"], rows, "Placement knows no host.");
        await SayMoreAsync(call, judged.Count);
        if (advice.Hosts.Count > 0)
        {
            await call.Output.SayAsync($"Tried first: {string.Join(", ", advice.Hosts)}. The host's own actor decides.");
            return;
        }
        var tally = new RejectionTally();
        foreach (var rejection in advice.Rejections)
            tally.Add(rejection);
        await call.Output.SayAsync(tally.Explain(demand).Message);
    }

    /// <summary>What a host lacks, where that can be named.</summary>
    private static object? Wanted(Rejection? no, Demand demand) => no switch
    {
        { Wanted: > 0 } => no.Wanted,
        { Reason: RejectionReason.Driver } => demand.Driver,
        _ => null,
    };

    private static object? Free(HostVerdict host) => host.Rejection switch
    {
        { Wanted: > 0 } no => no.MostFree,
        { Reason: RejectionReason.Driver } => string.Join(',', (host.View.Inventory?.Drivers ?? []).Where(driver => driver.Usable).Select(driver => driver.Name)),
        _ => null,
    };

    private static async Task<IReadOnlyList<HostVerdict>> KnownAsync(CommandCall call, Demand? demand) =>
        (await call.Node.AskAsync<HostsJudged>(call.Node.Placement, new JudgeHosts(demand), call.Cancellation)).Hosts;

    private static async Task SayMoreAsync(CommandCall call, int known)
    {
        if (known > call.Number("most"))
            await call.Output.SayAsync($"… and {known - call.Number("most")} more.");
    }
}
