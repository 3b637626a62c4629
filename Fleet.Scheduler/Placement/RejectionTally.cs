using System.Globalization;
using System.Text;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Placement;

/// <summary>Adds up why hosts said no, and says it in words.</summary>
public sealed class RejectionTally
{
    private readonly SortedDictionary<string, Rejection> _byReason = new(StringComparer.Ordinal);

    public void Add(Rejection rejection)
    {
        ArgumentNullException.ThrowIfNull(rejection);
        if (!_byReason.TryGetValue(rejection.Reason, out var sum))
        {
            _byReason.Add(rejection.Reason, rejection.Clone());
            return;
        }
        sum.Hosts += rejection.Hosts;
        sum.MostFree = Math.Max(sum.MostFree, rejection.MostFree);
    }

    /// <summary>One host that said no.</summary>
    public void Add(in Refusal refusal)
    {
        if (!_byReason.TryGetValue(refusal.Reason, out var sum))
            _byReason.Add(refusal.Reason, sum = new Rejection { Reason = refusal.Reason, Wanted = refusal.Wanted });
        sum.Hosts++;
        sum.MostFree = Math.Max(sum.MostFree, refusal.Free);
    }

    public IReadOnlyList<Rejection> ToList() => [.. _byReason.Values];

    /// <summary>Why the microVM is unplaced: a code of docs/api.md, "Reasons", and a sentence with the numbers.</summary>
    public Reason Explain(Demand demand)
    {
        ArgumentNullException.ThrowIfNull(demand);
        uint Hosts(string reason) => _byReason.TryGetValue(reason, out var rejection) ? rejection.Hosts : 0;

        var looked = (uint)_byReason.Where(row => row.Key != RejectionReason.OtherHost).Sum(row => row.Value.Hosts);
        var connected = looked - Hosts(RejectionReason.Disconnected);
        if (demand.Host.Length > 0 && connected == 0)
        {
            return new Reason
            {
                Code = "host_not_found",
                Message = looked == 0
                    ? $"No host named '{demand.Host}' is known. It is placed as soon as that host joins."
                    : $"Host '{demand.Host}' is not connected. It is placed as soon as its agent is back.",
            };
        }
        if (connected == 0)
        {
            return new Reason
            {
                Code = "no_hosts",
                Message = looked == 0
                    ? "No host has joined this cell yet. Start an agent with 'fleet host' or 'fleet up'."
                    : $"None of the {looked} known hosts is connected. Look at the agents: 'fleet host list'.",
            };
        }
        if (Hosts(RejectionReason.Driver) == connected)
        {
            var driver = demand.Driver == Demand.AutoDriver ? demand.Limited ? "a driver with rate limiters" : "any driver" : $"driver {demand.Driver}";
            var kernel = demand.OwnKernel ? "a kernel of your own" : "the default image";
            return new Reason
            {
                Code = "no_driver",
                Message = $"None of the {connected} connected hosts can boot {kernel} with {driver}. 'fleet doctor' on a host says why.",
            };
        }

        if (Hosts(RejectionReason.Cordoned) == connected)
        {
            return new Reason
            {
                Code = "no_hosts",
                Message = $"{(connected == 1 ? "The connected host is" : $"All {connected} connected hosts are")} cordoned. 'fleet host uncordon' lets one take microVMs again.",
            };
        }

        if (Hosts(RejectionReason.Cordoned) + Hosts(RejectionReason.Quarantined) == connected)
        {
            return new Reason
            {
                Code = "no_hosts",
                Message = $"Each of the {connected} connected hosts is cordoned, or quarantined because launches failed there. 'fleet host list' tells which, 'fleet host uncordon' lets one take microVMs again.",
            };
        }

        var message = new StringBuilder();
        message.Append(CultureInfo.InvariantCulture, $"No host has room for {Wanted(demand)}: ");
        message.AppendJoin("; ", _byReason.Values.Select(Describe).Where(part => part.Length > 0));
        message.Append('.');
        return new Reason { Code = "no_capacity", Message = message.ToString() };
    }

    private static string Wanted(Demand demand)
    {
        List<string> parts = [$"{demand.Cpus} vCPUs", $"{demand.MemoryMib} MiB"];
        if (demand.Needs.DiskMib > 0)
            parts.Add($"{demand.Needs.DiskMib} MiB of disk");
        if (demand.Needs.NetworkMbit > 0)
            parts.Add($"{demand.Needs.NetworkMbit} Mbit/s of network");
        if (demand.Needs.Iops > 0)
            parts.Add($"{demand.Needs.Iops} disk operations a second");
        return $"{string.Join(", ", parts[..^1])} and {parts[^1]}";
    }

    private static string Describe(Rejection rejection)
    {
        var hosts = rejection.Hosts == 1 ? "1 host" : $"{rejection.Hosts} hosts";
        return rejection.Reason switch
        {
            RejectionReason.Memory => $"{hosts} short of memory (wanted {rejection.Wanted} MiB, most free {rejection.MostFree} MiB)",
            RejectionReason.Cpus => $"{hosts} short of vCPUs (wanted {rejection.Wanted}, most free {rejection.MostFree})",
            RejectionReason.CpuPeak => $"{hosts} whose microVMs are predicted to use the CPUs (wanted {rejection.Wanted}, most free {rejection.MostFree})",
            RejectionReason.MemoryPeak => $"{hosts} whose microVMs are predicted to use the memory (wanted {rejection.Wanted} MiB, most free {rejection.MostFree} MiB)",
            RejectionReason.Disk => $"{hosts} short of disk (wanted {rejection.Wanted} MiB, most free {rejection.MostFree} MiB)",
            RejectionReason.Network => $"{hosts} short of network (wanted {rejection.Wanted} Mbit/s, most free {rejection.MostFree} Mbit/s)",
            RejectionReason.Iops => $"{hosts} short of disk operations (wanted {rejection.Wanted}/s, most free {rejection.MostFree}/s)",
            RejectionReason.Labels => $"{hosts} without the labels",
            RejectionReason.Zone => $"{hosts} in other zones",
            RejectionReason.Spread => $"{hosts} in no zone, or in one that has enough of its group",
            RejectionReason.Group => $"{hosts} kept from it by its rules about groups",
            RejectionReason.VolumeInUse => $"{hosts} where another microVM has its volume",
            RejectionReason.Driver => $"{hosts} without the driver",
            RejectionReason.Architecture => $"{hosts} of another architecture",
            RejectionReason.Kernel => $"{hosts} with an older kernel",
            RejectionReason.CpuTemplate => $"{hosts} without the CPU template",
            RejectionReason.MicroVms => $"{hosts} with {VmLimits.MaxVmsPerHost} microVMs, the most that one takes; those that have ended count until they are deleted",
            RejectionReason.Disconnected => $"{hosts} not connected",
            RejectionReason.Cordoned => $"{hosts} cordoned",
            RejectionReason.Quarantined => $"{hosts} quarantined because launches failed there",
            RejectionReason.Pressure => $"{hosts} whose machine is short of CPU or memory at present",
            RejectionReason.LaunchFailed => $"{hosts} where its launch failed",
            RejectionReason.Unreachable => $"{hosts} gave no answer",
            RejectionReason.Stale => $"{hosts} holds another reservation of it",
            _ => "",
        };
    }
}
