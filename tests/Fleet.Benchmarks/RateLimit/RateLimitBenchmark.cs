using System.Diagnostics;
using Fleet.Tests;

namespace Fleet.Benchmarks.RateLimit;

/// <summary>
/// <c>fleet bench ratelimit</c>: how near a limited device comes to what was asked, over seconds and in its burst. A guest
/// asks for more than it may have all the while.
/// </summary>
internal static class RateLimitBenchmark
{
    private const ulong Mebibyte = 1 << 20;
    private const ulong Hour = 3_600_000;
    private static readonly TimeSpan Settled = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan Span = TimeSpan.FromSeconds(4);

    /// <summary>From tiny and quick to large and slow, of bytes and of operations.</summary>
    private static readonly Bucket[] Rates =
    [
        new("bandwidth", Mebibyte, 100),
        new("bandwidth", 10_000, 10),
        new("bandwidth", 1000, 1),
        new("bandwidth", 20 * Mebibyte, 1000),
        new("ops", 100, 100),
        new("ops", 1, 1),
        new("ops", 1000, 250),
    ];

    /// <summary>Hardly refilled, so that what passes is the burst and what the bucket holds.</summary>
    private static readonly Bucket[] Bursts = [new("bandwidth", Mebibyte, Hour, 32 * Mebibyte), new("ops", 10, Hour, 5000)];

    public static IReadOnlyList<Measurement> Run()
    {
        var rates = Rates.Select(bucket => new Measurement($"{bucket.Kind} {bucket.Size}/{bucket.RefillMs}ms", RateError(bucket), "%")).ToArray();
        var bursts = Bursts.Select(bucket => new Measurement($"burst {bucket.Kind} {bucket.Burst}", BurstError(bucket), "%")).ToArray();
        return [Worst("rate_error_pct", rates), Worst("burst_error_pct", bursts), .. rates, .. bursts];
    }

    private static Measurement Worst(string metric, Measurement[] cases) => new(metric, cases.Max(one => Math.Abs(one.Value)), "%");

    private static double RateError(Bucket bucket)
    {
        using var vmm = Start(bucket);
        Thread.Sleep(Settled);
        var (first, firstAt) = Passed(vmm, bucket.Kind);
        Thread.Sleep(Span);
        var (second, secondAt) = Passed(vmm, bucket.Kind);
        var asked = bucket.Size * 1000.0 / bucket.RefillMs;
        return (((second - first) / (secondAt - firstAt) / asked) - 1) * 100;
    }

    private static double BurstError(Bucket bucket)
    {
        using var vmm = Start(bucket);
        Thread.Sleep(Span);
        var (passed, _) = Passed(vmm, bucket.Kind);
        return (((passed - bucket.Size) / bucket.Burst) - 1) * 100;
    }

    private static VmmProcess Start(Bucket bucket)
    {
        var vmm = new VmmProcess();
        try
        {
            SmallGuest.Write(vmm.File("kernel"), HungryGuest.Code);
            vmm.Put("/boot-source", $$"""{"kernel_image_path": "{{vmm.File("kernel")}}", "boot_args": "x"}""");
            vmm.Put("/machine-config", """{"vcpu_count": 1, "mem_size_mib": 16}""");
            vmm.Put("/entropy", $$"""{"rate_limiter": {"{{bucket.Kind}}": {"size": {{bucket.Size}}, "refill_time": {{bucket.RefillMs}}, "one_time_burst": {{bucket.Burst}} } } }""");
            vmm.Put("/actions", """{"action_type": "InstanceStart"}""");
            return vmm;
        }
        catch
        {
            vmm.Dispose();
            throw;
        }
    }

    private static (double Tokens, double Seconds) Passed(VmmProcess vmm, string kind)
    {
        var limiter = vmm.Get("/fleet/limiters")["limiters"]![0]!;
        var at = Stopwatch.GetTimestamp() / (double)Stopwatch.Frequency;
        return ((double)limiter[kind == "ops" ? "passed_ops" : "passed_bytes"]!, at);
    }

    private sealed record Bucket(string Kind, ulong Size, ulong RefillMs, ulong Burst = 0);
}
