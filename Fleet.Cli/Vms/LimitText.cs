using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Fleet.Cli.Vms;

/// <summary>
/// Rate limits as people write them: <c>entropy=64KiB/s+1MiB,100ops/500ms</c>, which is 64 KiB each second with a mebibyte on top once, and
/// 100 operations each half second; <c>entropy=none</c> lifts the limit.
/// </summary>
internal static class LimitText
{
    public const string Form = "NAME=RATE[,RATE] with RATE as 64KiB/s, 1MiB/100ms+8MiB (once on top) or 100ops/s; NAME=none lifts it";

    private static readonly (string Unit, long Bytes)[] Units = [("KiB", 1L << 10), ("MiB", 1L << 20), ("GiB", 1L << 30), ("B", 1), ("", 1)];

    /// <summary>The limiter's name and the API's body for it (null: none); null when the word is not of that form.</summary>
    public static (string Name, JsonObject? Limit)? Parse(string word)
    {
        if (KeyValue.Parse(word) is not { } pair)
            return null;
        if (pair.Value == "none")
            return (pair.Key, null);
        var limit = new JsonObject();
        foreach (var rate in pair.Value.Split(','))
        {
            if (Rate(rate) is not { } read || !limit.TryAdd(read.Member, read.Bucket))
                return null;
        }

        return (pair.Key, limit);
    }

    /// <summary>What the API says of a limit, in the same words.</summary>
    public static string Of(JsonElement limit)
    {
        if (limit.ValueKind != JsonValueKind.Object)
            return "none";
        var rates = new[] { Of(limit, "bandwidth", ""), Of(limit, "ops", "ops") }.OfType<string>();
        return string.Join(',', rates);
    }

    private static string? Of(JsonElement limit, string member, string operations)
    {
        if (!limit.TryGetProperty(member, out var bucket) || bucket.ValueKind != JsonValueKind.Object)
            return null;
        string Amount(string name) => bucket.GetProperty(name).GetInt64() is var tokens && operations.Length > 0 ? $"{tokens}{operations}" : Size(tokens);
        var time = bucket.GetProperty("refill_time_ms").GetInt64();
        var burst = bucket.GetProperty("one_time_burst").GetInt64() > 0 ? "+" + Amount("one_time_burst") : "";
        return $"{Amount("size")}/{(time == 1000 ? "s" : time % 1000 == 0 ? $"{time / 1000}s" : $"{time}ms")}{burst}";
    }

    private static string Size(long bytes)
    {
        foreach (var (unit, size) in Units.OrderByDescending(unit => unit.Bytes))
        {
            if (bytes >= size && bytes % size == 0)
                return $"{bytes / size}{unit}";
        }

        return $"{bytes}B";
    }

    private static (string Member, JsonObject Bucket)? Rate(string text)
    {
        var words = text.Split('+');
        var rate = words[0].Split('/');
        if (words.Length > 2 || rate.Length != 2 || Time(rate[1]) is not { } time || Amount(rate[0]) is not { } size)
            return null;
        var bucket = new JsonObject { ["size"] = size.Tokens, ["refill_time_ms"] = time };
        if (words.Length == 2)
        {
            if (Amount(words[1]) is not { } burst || burst.IsOperations != size.IsOperations)
                return null;
            bucket["one_time_burst"] = burst.Tokens;
        }

        return (size.IsOperations ? "ops" : "bandwidth", bucket);
    }

    private static (long Tokens, bool IsOperations)? Amount(string text)
    {
        if (text.EndsWith("ops", StringComparison.Ordinal))
            return Number(text[..^3], 1) is { } operations ? (operations, true) : null;
        var (unit, bytes) = Units.First(unit => text.EndsWith(unit.Unit, StringComparison.Ordinal));
        return Number(text[..^unit.Length], bytes) is { } tokens ? (tokens, false) : null;
    }

    private static long? Time(string text) => text == "s" ? 1000
        : text.EndsWith("ms", StringComparison.Ordinal) ? Number(text[..^2], 1)
        : text.EndsWith('s') ? Number(text[..^1], 1000)
        : null;

    private static long? Number(string digits, long times) =>
        long.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number <= long.MaxValue / times ? number * times : null;
}
