using System.Text.Json;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Api;

/// <summary>A <c>rate_limiter</c> in a body: <c>{bandwidth, ops}</c>, each <c>{size, refill_time, one_time_burst}</c>.</summary>
internal static class LimiterConfig
{
    public static readonly LimiterSettings Unlimited = new(null, null);

    private static readonly string[] Fields = ["bandwidth", "ops"];
    private static readonly string[] BucketFields = ["size", "one_time_burst", "refill_time"];

    /// <summary>Null in the body is "not said".</summary>
    public static LimiterSettings Read(ref JsonBody body)
    {
        if (body.IsNull)
        {
            return Unlimited;
        }

        body.ExpectObject("struct RateLimiterConfig");
        BucketSettings? bandwidth = null, operations = null;
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            if (body.IsNull)
            {
                continue;
            }

            if (field == 0)
            {
                bandwidth = ReadBucket(ref body);
            }
            else
            {
                operations = ReadBucket(ref body);
            }
        }

        return new LimiterSettings(bandwidth, operations);
    }

    public static void Write(Utf8JsonWriter json, LimiterSettings limits)
    {
        if (limits.Bandwidth is not { Limits: true } && limits.Operations is not { Limits: true })
        {
            json.WriteNullValue();
            return;
        }

        json.WriteStartObject();
        WriteBucket(json, Fields[0], limits.Bandwidth);
        WriteBucket(json, Fields[1], limits.Operations);
        json.WriteEndObject();
    }

    /// <summary>One bucket by itself.</summary>
    public static BucketSettings ReadBucket(ref JsonBody body)
    {
        body.ExpectObject("struct TokenBucketConfig");
        ulong size = 0, burst = 0, refill = 0;
        uint seen = 0;

        // Upstream lets unknown fields pass in here, and so must we for its clients.
        while (body.NextKnownField(BucketFields, ref seen, out var field))
        {
            switch (field)
            {
                case 0: size = body.Unsigned(ulong.MaxValue, "u64"); break;
                case 1: burst = body.IsNull ? 0 : body.Unsigned(ulong.MaxValue, "u64"); break;
                default: refill = body.Unsigned(ulong.MaxValue, "u64"); break;
            }
        }

        body.Require(BucketFields, seen, 0);
        body.Require(BucketFields, seen, 2);
        return new BucketSettings(size, refill, burst);
    }

    private static void WriteBucket(Utf8JsonWriter json, string name, BucketSettings? bucket)
    {
        if (bucket is not { Limits: true } known)
        {
            json.WriteNull(name);
            return;
        }

        json.WriteStartObject(name);
        json.WriteNumber(BucketFields[0], known.Size);
        if (known.OneTimeBurst > 0)
        {
            json.WriteNumber(BucketFields[1], known.OneTimeBurst);
        }
        else
        {
            json.WriteNull(BucketFields[1]);
        }

        json.WriteNumber(BucketFields[2], known.RefillMilliseconds);
        json.WriteEndObject();
    }
}
