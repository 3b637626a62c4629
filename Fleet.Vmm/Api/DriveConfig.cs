using System.Text.Json;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Api;

/// <summary>What <c>PUT /drives/{id}</c> says.</summary>
internal sealed record DriveConfig(
    string Id, bool IsRoot, string PathOnHost, string? PartUuid, bool IsReadOnly, bool Flushes, LimiterSettings Limits)
{
    /// <summary>As many as there are places for virtio devices, less one for each other kind.</summary>
    public const int Most = 17;

    private static readonly string[] Fields =
        ["drive_id", "is_root_device", "path_on_host", "partuuid", "cache_type", "is_read_only", "io_engine", "rate_limiter", "socket"];

    private static readonly string[] UpdateFields = ["drive_id", "path_on_host", "rate_limiter"];
    private static readonly string[] CacheTypes = ["Unsafe", "Writeback"];
    private static readonly string[] Engines = ["Sync", "Async"];

    public static DriveConfig Read(ref JsonBody body)
    {
        body.ExpectObject("struct BlockDeviceConfig");
        var drive = new DriveConfig("", false, "", null, false, false, LimiterConfig.Unlimited);
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
                6 when body.Variant(Engines) == 0 => drive,

                // Said and not done would be worse than refused: the caller would count on it.
                6 => throw body.Fault("fleet-vmm has no asynchronous engine yet, say `Sync` or leave out `io_engine`"),
                7 => drive with { Limits = LimiterConfig.Read(ref body) },
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

    /// <summary>The id from the path, checked against the body's.</summary>
    public static void CheckId(string fromPath, string fromBody)
    {
        if (fromPath.Length == 0 || fromBody.Length == 0)
        {
            throw new ApiFaultException("The ID cannot be empty.");
        }

        foreach (var character in fromPath)
        {
            if (!char.IsAsciiLetterOrDigit(character) && character != '_')
            {
                throw new ApiFaultException("API Resource IDs can only contain alphanumeric characters and underscores.");
            }
        }

        if (fromPath != fromBody)
        {
            throw new ApiFaultException("The id from the path does not match the id from the body!");
        }
    }

    public DiskSettings ToDisk() => new(Id, PathOnHost, IsReadOnly, Flushes, Limits);

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
        json.WriteString("io_engine", Engines[0]);
        json.WriteNull("socket");
        json.WriteEndObject();
    }
}
