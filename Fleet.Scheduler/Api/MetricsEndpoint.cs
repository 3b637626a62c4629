using System.Globalization;
using System.Text;
using Fleet.Scheduler.Sessions;
using Fleet.Shared.Contracts;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace Fleet.Scheduler.Api;

/// <summary>
/// Figures in Prometheus' text format, version 0.0.4. Each node tells of the hosts whose agents have dialled it, so that all nodes
/// together tell everything once.
/// </summary>
internal sealed class MetricsEndpoint(HostFigures figures)
{
    private const string ContentType = "text/plain; version=0.0.4; charset=utf-8";

    private static readonly (string Name, string Help, Func<LimiterFigure, double> Value)[] Limiters =
    [
        ("fleet_vm_limiter_passed_operations_total", "Operations that a rate limiter let pass.", static limiter => limiter.PassedOps),
        ("fleet_vm_limiter_passed_bytes_total", "Bytes that a rate limiter let pass.", static limiter => limiter.PassedBytes),
        ("fleet_vm_limiter_throttled_total", "Requests that had to wait for a rate limiter.", static limiter => limiter.ThrottledCount),
        ("fleet_vm_limiter_throttled_seconds_total", "Time that requests waited for a rate limiter.", static limiter => limiter.ThrottledUs / 1e6),
    ];

    private static readonly (string Name, string Help, Func<MachineUse, double?> Value)[] Machines =
    [
        ("fleet_host_cpus_used", "CPUs that a host's machine used, of the last sample.", static use => use.CpuMillis / 1e3),
        ("fleet_host_memory_used_bytes", "Memory of a host's machine that is not available.", static use => use.MemoryKib * 1024.0),
        ("fleet_host_vcpus_waiting", "vCPUs that were ready to run and waited for a CPU, on average.", static use => use.CpuWaitMillis / 1e3),
        ("fleet_host_stolen_ratio", "Share of the CPUs' time that the machine's own hypervisor took.", static use => use.StealPermille / 1e3),
        ("fleet_host_stalled_cpu_ratio", "Share of time in which some process waited for a CPU.", static use => use.Stalls?.CpuSome / 1e3),
        ("fleet_host_stalled_memory_ratio", "Share of time in which some process waited for memory.", static use => use.Stalls?.MemorySome / 1e3),
        ("fleet_host_stalled_memory_full_ratio", "Share of time in which all processes waited for memory.", static use => use.Stalls?.MemoryFull / 1e3),
        ("fleet_host_stalled_io_ratio", "Share of time in which some process waited for a disk.", static use => use.Stalls?.IoSome / 1e3),
        ("fleet_host_stalled_io_full_ratio", "Share of time in which all processes waited for a disk.", static use => use.Stalls?.IoFull / 1e3),
    ];

    private static readonly (string Name, string Help, Func<VmUse, double?> Value)[] Vms =
    [
        ("fleet_vm_cpus_used", "CPUs that a microVM used, of the last sample.", static use => use.CpuMillis / 1e3),
        ("fleet_vm_memory_used_bytes", "Resident memory of a microVM, its VMM included.", static use => use.MemoryKib * 1024.0),
        ("fleet_vm_vcpus_waiting", "vCPUs of it that were ready to run and waited for a CPU, on average.", static use => use.CpuWaitMillis / 1e3),
        ("fleet_vm_vcpus_held_back", "vCPUs of it that have no CPU credits left and are held to their baseline.", static use => use.VcpusHeldBack),
        ("fleet_vm_cpu_credits_seconds", "CPU time that its vCPUs have saved for more than their baseline, below zero a debt.", static use => use.Credits?.BalanceMs / 1e3),
        ("fleet_vm_balloon_bytes", "Memory that a microVM's guest does without for its host's sake.", static use => use.BalloonMib * 1048576.0),
        ("fleet_vm_stalled_memory_ratio", "Share of time in which some thread of its control group waited for memory.", static use => use.Stalls?.MemorySome / 1e3),
    ];

    public void Map(IEndpointRouteBuilder all) =>
        all.MapGroup("").WithTags("health").MapGet("/metrics", (Delegate)ReadAsync).Describe(new("metrics", "Figures in Prometheus' text format")
        {
            Answer = typeof(string),
            AnswerType = "text/plain",
        });

    /// <summary>The whole text.</summary>
    public string Write()
    {
        var text = new StringBuilder();
        var hosts = figures.All();
        foreach (var (name, help, value) in Limiters)
        {
            Head(text, name, help, "counter");
            foreach (var (host, limiters, _, _) in hosts)
            {
                // Ids and names are of forms that need no quoting; HostMessageRules saw to that.
                foreach (var limiter in limiters)
                    text.Append(CultureInfo.InvariantCulture, $"{name}{{host=\"{host}\",vm=\"{limiter.VmId}\",limiter=\"{limiter.Name}\"}} {value(limiter)}\n");
            }
        }
        foreach (var (name, help, value) in Machines)
        {
            Head(text, name, help, "gauge");
            foreach (var (host, _, usage, _) in hosts)
            {
                if (usage?.Machine is { } machine && value(machine) is { } figure)
                    text.Append(CultureInfo.InvariantCulture, $"{name}{{host=\"{host}\"}} {figure}\n");
            }
        }
        Head(text, "fleet_host_pressure", "What a host does about pressure: 1 nothing, 2 takes no microVM, 3 reclaims memory, 4 squeezes low classes, 5 evicts.", "gauge");
        foreach (var (host, _, _, pressure) in hosts)
        {
            if (pressure is not null)
                text.Append(CultureInfo.InvariantCulture, $"fleet_host_pressure{{host=\"{host}\",of=\"cpu\"}} {(int)pressure.Cpu}\nfleet_host_pressure{{host=\"{host}\",of=\"memory\"}} {(int)pressure.Memory}\n");
        }
        foreach (var (name, help, value) in Vms)
        {
            Head(text, name, help, "gauge");
            foreach (var (host, _, usage, _) in hosts)
            {
                foreach (var vm in usage?.Vms ?? [])
                {
                    if (value(vm) is { } figure)
                        text.Append(CultureInfo.InvariantCulture, $"{name}{{host=\"{host}\",vm=\"{vm.VmId}\"}} {figure}\n");
                }
            }
        }
        return text.ToString();
    }

    private static void Head(StringBuilder text, string name, string help, string type) =>
        text.Append(CultureInfo.InvariantCulture, $"# HELP {name} {help}\n# TYPE {name} {type}\n");

    private async Task ReadAsync(HttpContext http)
    {
        _ = new Query(http);
        http.Response.ContentType = ContentType;
        await http.Response.WriteAsync(Write(), http.RequestAborted);
    }
}
