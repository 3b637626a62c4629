using System.Text.Json.Nodes;
using Fleet.Host.Pressure;

namespace Fleet.Host.Drivers;

/// <summary>The balloon as fleet-vmm's API writes it: Firecracker's <c>/balloon</c>.</summary>
internal static class VmmBalloon
{
    private const int MibShift = 20;

    /// <summary>Empty at first; a guest that needs memory may take it back before the VMM hears of it, and tells by itself what it does not use.</summary>
    public static JsonObject Configuration() => new()
    {
        ["amount_mib"] = 0,
        ["deflate_on_oom"] = true,
        ["stats_polling_interval_s"] = (int)KvmVmm.TellsInCalm.TotalSeconds,
        ["free_page_reporting"] = true,
    };

    /// <summary>An answer of <c>GET /balloon/statistics</c>.</summary>
    /// <exception cref="InvalidOperationException">The answer is not of that form.</exception>
    /// <exception cref="FormatException">A number is none.</exception>
    public static BalloonReading Read(JsonObject answer) => new(
        (uint)Math.Min(Number(answer, "target_mib") ?? throw new InvalidOperationException("fleet-vmm does not tell what the balloon is to hold"), uint.MaxValue),
        (uint)Math.Min(Number(answer, "actual_mib") ?? 0, uint.MaxValue),
        Number(answer, "available_memory") >> MibShift,
        // A sum that wraps is as good: it only matters whether it is another one.
        unchecked((Number(answer, "swap_in") ?? 0) + (Number(answer, "oom_kill") ?? 0) + (Number(answer, "alloc_stall") ?? 0)));

    private static ulong? Number(JsonObject of, string member) => of[member]?.GetValue<ulong>();
}
