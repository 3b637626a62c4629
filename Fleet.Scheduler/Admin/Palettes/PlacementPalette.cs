using System.Globalization;
using Fleet.Scheduler.Api;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Vms;
using Fleet.Scheduler.Volumes;
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
        var search = await SearchAsync(call, vm);
        if (VmLife.AwaitsGang(vm))
        {
            var size = (int)vm.Spec.Gang.Size;
            var counted = await call.Node.AskAsync<RoomCounted>(call.Node.Placement, new CountRoom(search.Demand, size, 0), call.Cancellation);
            await call.Output.SayAsync($"Its gang of {size} is placed when there is room for all at once: there is for {counted.Room} at most. Each by itself:");
        }
        await JudgeAsync(call, search.Demand, search.Asked);
    }

    /// <summary>As its own actor would begin it now: for what it wants, where what it goes on from and its volumes are, without hosts that could not launch it.</summary>
    private static async Task<PlacementSearch> SearchAsync(CommandCall call, VmRecord vm)
    {
        var (gate, search) = (call.Node.Api.Gate, VmLife.SearchFor(vm, vm.Epoch + 1));
        if (vm.Spec.Volumes.Count > 0)
        {
            var there = await gate.CallAsync(c => gate.Cell.ListVolumesAsync(vm.Spec.Tenant, c), CellGate.Patience, call.Cancellation);
            foreach (var volume in there.Where(volume => vm.Spec.Volumes.Any(mount => mount.Name == volume.Name)))
            {
                if (VolumePlaces.Conflict(volume, search.Volume, vm.Spec.Host) is { } conflict)
                    await call.Output.SayAsync(conflict.Message);
                var holder = volume.VmId.Length == 0 || volume.VmId == vm.Id ? null : await FindAsync(volume.VmId);
                if (VolumePlaces.InUse(volume, holder) is { } inUse)
                    await call.Output.SayAsync(inUse.Message);
                search.BindTo(volume);
            }
        }
        var neighbours = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var rule in search.Demand.Rules?.Neighbours ?? [])
            neighbours[rule.VmId] = VmFold.CarriedBy(await FindAsync(rule.VmId));
        search.Found(neighbours);
        return search;

        async Task<VmRecord?> FindAsync(string vmId) => (await gate.CallAsync(c => gate.Cell.GetVmAsync(vmId, c), CellGate.Patience, call.Cancellation)).Vm;
    }

    private static Task CandidatesAsync(CommandCall call) => JudgeAsync(call, new Demand(
        (uint)call.Number("cpus"), (ulong)call.Number("memory"), call.Get("driver"), call.Has("own-kernel"), call.Find("host") ?? ""), new HashSet<string>());

    /// <param name="call">Whose it is.</param>
    /// <param name="demand">What is wanted.</param>
    /// <param name="avoided">Hosts that could not launch it.</param>
    private static async Task JudgeAsync(CommandCall call, Demand demand, IReadOnlySet<string> avoided)
    {
        var judged = (await KnownAsync(call, demand))
            .Select(host => avoided.Contains(host.View.HostId) ? host with { Rejection = new Rejection { Reason = RejectionReason.LaunchFailed, Hosts = 1 } } : host).ToList();
        var advice = (await call.Node.AskAsync<HostsFound>(call.Node.Placement, new FindHosts(demand, avoided, 0), call.Cancellation)).Advice;
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
        if (avoided.Count > 0)
            tally.Add(new Rejection { Reason = RejectionReason.LaunchFailed, Hosts = (uint)avoided.Count });
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
