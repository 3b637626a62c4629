using System.Text.Json;
using Fleet.Vmm.Fencing;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Api;

/// <summary>Body of <c>PUT /fleet/lease</c>, and the answer of <c>GET</c>.</summary>
internal static class LeaseBody
{
    /// <summary>A century; what is behind it is a mistake in the unit.</summary>
    private const ulong LatestTime = 100UL * 365 * 24 * 3600 * 1000;

    /// <summary>A day: who waits longer for a lease has lost it.</summary>
    private const ulong LongestWait = 24UL * 3600 * 1000;

    private static readonly string[] Fields = ["lapses_at_ms", "ends_after_ms"];

    public static LeaseTimes Read(ref JsonBody body)
    {
        body.ExpectObject("struct Lease");
        ulong lapses = 0, wait = 0;
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            if (field == 0)
            {
                lapses = body.Unsigned(LatestTime, "u64");
            }
            else
            {
                wait = body.Unsigned(LongestWait, "u64");
            }
        }

        body.Require(Fields, seen, 0);
        body.Require(Fields, seen, 1);
        return new LeaseTimes(lapses, lapses + wait);
    }

    public static void Write(Utf8JsonWriter json, Lease lease)
    {
        json.WriteStartObject();
        json.WriteString("state", lease switch { { IsGiven: false } => "none", { HasLapsed: true } => "lapsed", _ => "held" });
        if (lease.IsGiven)
        {
            json.WriteNumber("lapses_at_ms", lease.LapsesAt / 1_000_000);
            json.WriteNumber("ends_after_ms", (lease.EndsAt - lease.LapsesAt) / 1_000_000);
            json.WriteNumber("now_ms", KernelClock.BootNow / 1_000_000);
        }

        json.WriteEndObject();
    }
}
