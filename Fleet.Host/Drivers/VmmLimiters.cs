using System.Text.Json.Nodes;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Host.Drivers;

/// <summary>Rate limiters as fleet-vmm's API writes them: Firecracker's <c>rate_limiter</c>, and our <c>GET /fleet/limiters</c>.</summary>
internal static class VmmLimiters
{
    /// <summary>A <c>rate_limiter</c>; null: no limit.</summary>
    public static JsonObject? Write(RateLimit? limit) => limit is null
        ? null
        : new JsonObject { ["bandwidth"] = Write(limit.Bandwidth), ["ops"] = Write(limit.Ops) };

    /// <summary>The request that changes a limiter of a running microVM.</summary>
    public static (string Path, JsonObject Body) Update(string name, RateLimit? limit)
    {
        // A bucket that is not named stays as it is, so one that is to go is named as one that limits nothing.
        var buckets = new JsonObject { ["bandwidth"] = Write(limit?.Bandwidth) ?? Unlimited(), ["ops"] = Write(limit?.Ops) ?? Unlimited() };
        var (device, queue) = Place(name);
        return queue is null ? (device, new JsonObject { ["rate_limiter"] = buckets }) : (device, new JsonObject { ["iface_id"] = VmmNetwork.Id, [$"{queue}_rate_limiter"] = buckets });
    }

    /// <summary>The reading of one limiter; null when the VMM has none of that name.</summary>
    /// <exception cref="InvalidOperationException">The answer is not of that form.</exception>
    /// <exception cref="FormatException">A number is none.</exception>
    public static LimiterReading? Find(JsonObject answer, string name)
    {
        var (device, queue) = Place(name);
        var found = (answer["limiters"] as JsonArray)?.OfType<JsonObject>()
            .FirstOrDefault(limiter => (string?)limiter["device"] == device && (queue is null || (string?)limiter["queue"] == queue));
        return found is null ? null : new(
            found["rate_limiter"] is JsonObject limit ? new RateLimit { Bandwidth = Bucket(limit["bandwidth"]), Ops = Bucket(limit["ops"]) } : null,
            Number(found, "passed_ops"), Number(found, "passed_bytes"), Number(found, "throttled_count"), Number(found, "throttled_us"));
    }

    /// <summary>The device, as fleet-vmm's API has it, and which of its queues; null: it has one limiter.</summary>
    private static (string Device, string? Queue) Place(string name) => name switch
    {
        NetworkRules.ReceiveLimiter => ("network-interfaces/" + VmmNetwork.Id, "rx"),
        NetworkRules.SendLimiter => ("network-interfaces/" + VmmNetwork.Id, "tx"),
        _ => (name, null),
    };

    private static JsonObject? Write(TokenBucket? bucket) => bucket is null ? null : new JsonObject
    {
        ["size"] = bucket.Size,
        ["refill_time"] = bucket.RefillTimeMs,
        ["one_time_burst"] = bucket.OneTimeBurst,
    };

    private static JsonObject Unlimited() => new() { ["size"] = 0, ["refill_time"] = 0 };

    private static TokenBucket? Bucket(JsonNode? node) => node is not JsonObject bucket ? null : new TokenBucket
    {
        Size = Number(bucket, "size"),
        RefillTimeMs = Number(bucket, "refill_time"),
        OneTimeBurst = Number(bucket, "one_time_burst"),
    };

    private static ulong Number(JsonObject of, string member) => of[member]?.GetValue<ulong>() ?? 0;
}
