using System.Globalization;
using System.Text.Json;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Api;

/// <summary>What <c>PUT /network-interfaces/{id}</c> says.</summary>
/// <param name="Mac">Six bytes in an integer, the first one highest.</param>
internal sealed record NetworkConfig(
    string Id, string HostDevice, ulong? Mac, ushort? Mtu, LimiterSettings Received, LimiterSettings Sent)
{
    /// <summary>The least that IPv4 allows (RFC 791).</summary>
    private const int LeastMtu = 68;

    private static readonly string[] Fields = ["iface_id", "host_dev_name", "guest_mac", "mtu", "rx_rate_limiter", "tx_rate_limiter"];
    private static readonly string[] UpdateFields = ["iface_id", "rx_rate_limiter", "tx_rate_limiter"];

    public static NetworkConfig Read(ref JsonBody body)
    {
        body.ExpectObject("struct NetworkInterfaceConfig");
        var network = new NetworkConfig("", "", null, null, LimiterConfig.Unlimited, LimiterConfig.Unlimited);
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            if (body.IsNull && field >= 2)
            {
                continue;
            }

            network = field switch
            {
                0 => network with { Id = body.String() },
                1 => network with { HostDevice = body.String() },
                2 => network with { Mac = ReadMac(ref body) },
                3 => network with { Mtu = ReadMtu(ref body) },
                4 => network with { Received = LimiterConfig.Read(ref body) },
                _ => network with { Sent = LimiterConfig.Read(ref body) },
            };
        }

        body.Require(Fields, seen, 0);
        body.Require(Fields, seen, 1);
        return network;
    }

    /// <summary>Body of <c>PATCH</c>: which interface, and changes of its limits.</summary>
    public static (string Id, LimiterSettings Received, LimiterSettings Sent) ReadUpdate(ref JsonBody body)
    {
        body.ExpectObject("struct NetworkInterfaceUpdateConfig");
        var id = "";
        LimiterSettings received = LimiterConfig.Unlimited, sent = LimiterConfig.Unlimited;
        uint seen = 0;
        while (body.NextField(UpdateFields, ref seen, out var field))
        {
            switch (field)
            {
                case 0: id = body.String(); break;
                case 1: received = LimiterConfig.Read(ref body); break;
                default: sent = LimiterConfig.Read(ref body); break;
            }
        }

        body.Require(UpdateFields, seen, 0);
        return (id, received, sent);
    }

    /// <summary>As people write it.</summary>
    public static string Text(ulong mac) =>
        string.Join(':', Enumerable.Range(0, 6).Select(i => ((byte)(mac >> (8 * (5 - i)))).ToString("x2", CultureInfo.InvariantCulture)));

    public NetworkSettings ToSettings() => new(Id, HostDevice, Mac, Mtu, Received, Sent);

    public void Write(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        json.WriteString("iface_id", Id);
        json.WriteString("host_dev_name", HostDevice);
        json.WriteString("guest_mac", Mac is { } mac ? Text(mac) : null);
        json.WritePropertyName("rx_rate_limiter");
        LimiterConfig.Write(json, Received);
        json.WritePropertyName("tx_rate_limiter");
        LimiterConfig.Write(json, Sent);
        if (Mtu is { } mtu)
        {
            json.WriteNumber("mtu", mtu);
        }
        else
        {
            json.WriteNull("mtu");
        }

        json.WriteEndObject();
    }

    private static ulong ReadMac(ref JsonBody body)
    {
        var text = body.String();
        var mac = 0ul;
        var parts = text.Split(':');
        var valid = parts.Length == 6;
        foreach (var part in parts)
        {
            valid &= part.Length == 2 & byte.TryParse(part, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var value);
            mac = mac << 8 | value;
        }

        return valid ? mac : throw body.Fault("invalid MAC address");
    }

    private static ushort ReadMtu(ref JsonBody body)
    {
        var mtu = body.Unsigned(ushort.MaxValue, "u16");
        return mtu >= LeastMtu ? (ushort)mtu : throw body.Fault($"an MTU of {mtu}, the least is {LeastMtu}");
    }
}
