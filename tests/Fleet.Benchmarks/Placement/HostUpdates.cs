using System.Diagnostics;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Benchmarks.Placement;

/// <summary>
/// What a host's word about itself costs the index: after each reservation, and every few seconds without anything new. Each is a message of its own,
/// nothing of which the index has seen before, as it comes from another node.
/// </summary>
internal static class HostUpdates
{
    private const int Warm = 20_000;
    private const int Measured = 50_000;

    /// <summary>On each host, of which it carries one member each.</summary>
    private const int Groups = 5;

    private static readonly string[] Zones = ["zone-a", "zone-b", "zone-c"];

    /// <summary>Medians, and the 99th percentiles.</summary>
    public static IEnumerable<Measurement> Run(int hosts, int seed)
    {
        var random = new Random(seed);
        var index = new HostIndex();
        var views = Enumerable.Range(0, hosts).Select(host => Carrying(host, random)).ToArray();
        foreach (var view in views)
            index.Update(view.Clone(), TimeSpan.Zero);
        var (changed, same) = (new double[Measured], new double[Measured]);
        for (var i = -Warm; i < Measured; i++)
        {
            var view = views[random.Next(hosts)];
            Change(view, random);
            // Of another host than the one that is still in the caches.
            var (anew, again) = (Time(view.Clone(), i), Time(views[random.Next(hosts)].Clone(), i));
            if (i >= 0)
                (changed[i], same[i]) = (anew, again);
        }
        foreach (var (name, micros) in ((string, double[])[])[("update", changed), ("update_unchanged", same)])
        {
            Array.Sort(micros);
            yield return new($"{name}_us", micros[Measured / 2], "us");
            yield return new($"{name}_p99_us", micros[Measured * 99 / 100], "us");
        }

        double Time(HostView view, int at)
        {
            var now = TimeSpan.FromMilliseconds(Warm + at);
            var began = Stopwatch.GetTimestamp();
            index.Update(view, now);
            return (Stopwatch.GetTimestamp() - began) * 1e6 / Stopwatch.Frequency;
        }
    }

    // One small microVM of the lowest class more, or one fewer.
    private static void Change(HostView view, Random random)
    {
        var lowest = view.Preemptible[0];
        var sign = lowest.Vms == 0 || random.Next(2) == 0 ? 1 : -1;
        view.Version++;
        view.ReservedCpus = (uint)(view.ReservedCpus + sign);
        view.ReservedMemoryMib = (ulong)((long)view.ReservedMemoryMib + (sign * 2048));
        lowest.Vms = (uint)(lowest.Vms + sign);
        lowest.Cpus = (ulong)((long)lowest.Cpus + sign);
        lowest.MemoryMib = (ulong)((long)lowest.MemoryMib + (sign * 2048));
    }

    // Two generations of machines, of which some 100 microVMs take about half.
    private static HostView Carrying(int host, Random random)
    {
        var cpus = 100 + (uint)random.Next(100);
        var view = new HostView
        {
            HostId = $"host-{host:d5}",
            Connected = true,
            Version = 1,
            CpuRatio = 4,
            MemoryRatio = 1,
            ReservedCpus = cpus,
            ReservedMemoryMib = 2048 * cpus,
            Inventory = new Inventory
            {
                Cpus = host % 4 == 0 ? 128u : 96, MemoryMib = host % 4 == 0 ? 1_536_000u : 1_024_000, DiskMib = 5_000_000, NetworkMbit = 25_000, AutoDriver = "kvm", Kernel = "6.1.0", Architecture = "x86_64",
                Drivers = { new DriverStatus { Name = "kvm", Usable = true, StockKernels = true }, new DriverStatus { Name = "qemu", Usable = true, StockKernels = true } },
                Labels = { ["zone"] = Zones[host % 3], ["disk"] = host % 2 == 0 ? "nvme" : "ssd" },
            },
            CapOther = new OtherResources { DiskMib = 5_000_000, NetworkMbit = 25_000 },
            FreeOther = new OtherResources { DiskMib = 5_000_000, NetworkMbit = 25_000 },
            Groups = { Enumerable.Range(0, Groups).Select(at => new GroupCount { Group = $"service-{(at * 1000) + (host % 1000):d5}", Members = 1 }) },
            Preemptible = { PriorityClass.All.Select((_, rank) => new ClassRoom { Rank = (uint)rank }) },
        };
        (view.Preemptible[0].Vms, view.Preemptible[0].Cpus, view.Preemptible[0].MemoryMib) = (20, 20, 40_960);
        return view;
    }
}
