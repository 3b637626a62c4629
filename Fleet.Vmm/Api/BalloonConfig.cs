using System.Text.Json;
using Fleet.Vmm.Devices.Virtio;

namespace Fleet.Vmm.Api;

/// <summary>Bodies and answers of <c>/balloon</c>.</summary>
internal static class BalloonConfig
{
    private static readonly string[] Fields = ["amount_mib", "deflate_on_oom", "stats_polling_interval_s", "free_page_reporting", "free_page_hinting"];
    private static readonly string[] AmountFields = ["amount_mib"];
    private static readonly string[] IntervalFields = ["stats_polling_interval_s"];

    public static BalloonSettings Read(ref JsonBody body)
    {
        body.ExpectObject("struct BalloonDeviceConfig");
        var balloon = new BalloonSettings(0, false, 0, false);
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            balloon = field switch
            {
                0 => balloon with { AmountMib = (uint)body.Unsigned(uint.MaxValue, "u32") },
                1 => balloon with { DeflatesOnOom = body.Boolean() },
                2 => balloon with { StatisticsSeconds = (ushort)body.Unsigned(ushort.MaxValue, "u16") },
                3 => balloon with { ReportsFreePages = body.Boolean() },

                // Said and not done would be worse than refused: the caller would count on it.
                _ => body.Boolean() ? throw body.Fault("fleet-vmm has no free page hinting, leave out `free_page_hinting`") : balloon,
            };
        }

        body.Require(Fields, seen, 0);
        body.Require(Fields, seen, 1);
        return balloon;
    }

    /// <summary>Body of <c>PATCH /balloon</c>: MiB.</summary>
    public static uint ReadAmount(ref JsonBody body) => (uint)ReadNumber(ref body, "struct BalloonUpdateConfig", AmountFields, uint.MaxValue, "u32");

    /// <summary>Body of <c>PATCH /balloon/statistics</c>: seconds.</summary>
    public static ushort ReadInterval(ref JsonBody body) =>
        (ushort)ReadNumber(ref body, "struct BalloonUpdateStatsConfig", IntervalFields, ushort.MaxValue, "u16");

    public static void Write(Utf8JsonWriter json, BalloonSettings balloon)
    {
        json.WriteStartObject();
        json.WriteNumber(Fields[0], balloon.AmountMib);
        json.WriteBoolean(Fields[1], balloon.DeflatesOnOom);
        json.WriteNumber(Fields[2], balloon.StatisticsSeconds);
        json.WriteBoolean(Fields[4], false);
        json.WriteBoolean(Fields[3], balloon.ReportsFreePages);
        json.WriteEndObject();
    }

    public static void WriteStatistics(Utf8JsonWriter json, BalloonDevice balloon)
    {
        json.WriteStartObject();
        json.WriteNumber("target_pages", balloon.TargetPages);
        json.WriteNumber("actual_pages", balloon.ActualPages);
        json.WriteNumber("target_mib", balloon.TargetPages / BalloonDevice.PagesPerMib);
        json.WriteNumber("actual_mib", balloon.ActualPages / BalloonDevice.PagesPerMib);
        for (var i = 0; i < BalloonDevice.StatisticNames.Length; i++)
        {
            if (balloon.Statistics[i] is { } value)
            {
                json.WriteNumber(BalloonDevice.StatisticNames[i], value);
            }
        }

        json.WriteEndObject();
    }

    private static ulong ReadNumber(ref JsonBody body, string what, string[] fields, ulong largest, string type)
    {
        body.ExpectObject(what);
        ulong number = 0;
        uint seen = 0;
        while (body.NextField(fields, ref seen, out _))
        {
            number = body.Unsigned(largest, type);
        }

        body.Require(fields, seen, 0);
        return number;
    }
}
