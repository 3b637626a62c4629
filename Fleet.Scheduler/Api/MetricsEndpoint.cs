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
            text.Append(CultureInfo.InvariantCulture, $"# HELP {name} {help}\n# TYPE {name} counter\n");
            foreach (var (host, limiters) in hosts)
            {
                // Ids and names are of forms that need no quoting; HostMessageRules saw to that.
                foreach (var limiter in limiters)
                    text.Append(CultureInfo.InvariantCulture, $"{name}{{host=\"{host}\",vm=\"{limiter.VmId}\",limiter=\"{limiter.Name}\"}} {value(limiter)}\n");
            }
        }
        return text.ToString();
    }

    private async Task ReadAsync(HttpContext http)
    {
        _ = new Query(http);
        http.Response.ContentType = ContentType;
        await http.Response.WriteAsync(Write(), http.RequestAborted);
    }
}
