using System.Text.Json;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Api;

/// <summary>What <c>PUT /drives/{id}</c> says.</summary>
internal sealed record DriveConfig(
    string Id, bool IsRoot, string PathOnHost, string? PartUuid, bool IsReadOnly, bool Flushes, bool IsAsynchronous, LimiterSettings Limits)
{
    private static readonly string[] Fields =
        ["drive_id", "is_root_device", "path_on_host", "partuuid", "cache_type", "is_read_only", "io_engine", "rate_limiter", "socket"];

    private static readonly string[] UpdateFields = ["drive_id", "path_on_host", "rate_limiter"];
    private static readonly string[] CacheTypes = ["Unsafe", "Writeback"];
    private static readonly string[] Engines = ["Sync", "Async"];

    public static DriveConfig Read(ref JsonBody body)
    {
        body.ExpectObject("struct BlockDeviceConfig");
        var drive = new DriveConfig("", false, "", null, false, false, false, LimiterConfig.Unlimited);
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            if (body.IsNull && field >= 2)
            {
                continue;
            }

            drive = field switch
            {
                0 => drive with { Id = body.String() },
                1 => drive with { IsRoot = body.Boolean() },
                2 => drive with { PathOnHost = body.String() },
                3 => drive with { PartUuid = body.String() },
                4 => drive with { Flushes = body.Variant(CacheTypes) == 1 },
                5 => drive with { IsReadOnly = body.Boolean() },
                6 => drive with { IsAsynchronous = body.Variant(Engines) == 1 },
                7 => drive with { Limits = LimiterConfig.Read(ref body) },

                // Said and not done would be worse than refused: the caller would count on it.
                _ => throw body.Fault("fleet-vmm has no vhost-user devices, leave out `socket`"),
            };
        }

        body.Require(Fields, seen, 0);
        body.Require(Fields, seen, 1);
        return drive;
    }

    /// <summary>Body of <c>PATCH /drives/{id}</c>: which drive, its new file if there is to be another, its limits' changes.</summary>
    public static (string Id, string? PathOnHost, LimiterSettings Limits) ReadUpdate(ref JsonBody body)
    {
        body.ExpectObject("struct BlockDeviceUpdateConfig");
        string id = "";
        string? path = null;
        var limits = LimiterConfig.Unlimited;
        uint seen = 0;
        while (body.NextField(UpdateFields, ref seen, out var field))
        {
            switch (field)
            {
                case 0:
                    id = body.String();
                    break;
                case 1:
                    path = body.OptionalString();
                    break;
                default:
                    limits = LimiterConfig.Read(ref body);
                    break;
            }
        }

        body.Require(UpdateFields, seen, 0);
        return (id, path, limits);
    }

    public DiskSettings ToDisk() => new(Id, PathOnHost, IsReadOnly, Flushes, IsAsynchronous, Limits);

    public void Write(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        json.WriteString("drive_id", Id);
        json.WriteString("partuuid", PartUuid);
        json.WriteBoolean("is_root_device", IsRoot);
        json.WriteString("cache_type", CacheTypes[Flushes ? 1 : 0]);
        json.WriteBoolean("is_read_only", IsReadOnly);
        json.WriteString("path_on_host", PathOnHost);
        json.WritePropertyName("rate_limiter");
        LimiterConfig.Write(json, Limits);
        json.WriteString("io_engine", Engines[IsAsynchronous ? 1 : 0]);
        json.WriteNull("socket");
        json.WriteEndObject();
    }
}
