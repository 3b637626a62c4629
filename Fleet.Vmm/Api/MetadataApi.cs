using System.Globalization;
using System.Text.Json;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Metadata;

namespace Fleet.Vmm.Api;

/// <summary>The host's side of the metadata service: <c>/mmds</c>, <c>/mmds/config</c> and <c>--metadata</c>.</summary>
/// <remarks>What it holds is the customer's, often credentials: it must not get into the log.</remarks>
internal sealed class MetadataApi(MetadataService service)
{
    private const string ConfigError = "MMMDS config error: ";
    private const string StoreError = "MMDS error: ";

    /// <summary>White space may make a file longer than the document in it.</summary>
    private const int LargestFile = 1024 * 1024;

    private static readonly string[] Fields = ["network_interfaces", "version", "ipv4_address", "imds_compat"];
    private static readonly string[] Versions = ["V1", "V2"];

    /// <summary>Null while no interface leads to the service.</summary>
    public MetadataService? Configured => service.Settings is null ? null : service;

    /// <summary>The document; before the start and where the service is configured an empty object stands for none.</summary>
    public byte[] Get(bool isStarted) => service.Store.Document is { } document
        ? document.ToJson()
        : isStarted && service.Settings is null ? throw NotInitialized() : "{}"u8.ToArray();

    /// <summary>Throws <see cref="MetadataTooLargeException"/>.</summary>
    public void Put(MetadataValue document) => service.Store.Replace(document);

    /// <summary>Merges a patch (RFC 7396). Throws <see cref="MetadataTooLargeException"/>.</summary>
    public void Patch(MetadataValue patch) => service.Store.Replace((service.Store.Document ?? throw NotInitialized()).Merge(patch));

    /// <summary>Puts a file's document. Throws <see cref="ApiFaultException"/>.</summary>
    public void Load(string path)
    {
        try
        {
            var body = new JsonBody(Descriptors.ReadFile(path, LargestFile));
            body.Begin();
            var document = Read(ref body);
            body.End();
            Put(document);
        }
        catch (Exception failure) when (failure is JsonFaultException or MetadataTooLargeException)
        {
            throw new ApiFaultException($"Populating MMDS from file failed: {failure.Message} ({path})", inner: failure);
        }
        catch (Exception failure) when (failure is SystemCallException or NotARegularFileException or FileTooLargeException)
        {
            throw new ApiFaultException($"Unable to open or read from the mmds content file {path}: {failure.Message}", inner: failure);
        }
    }

    /// <param name="settings">What is asked for.</param>
    /// <param name="interfaces">Ids of the network interfaces that there are.</param>
    public void Configure(MetadataSettings settings, IReadOnlyList<string> interfaces)
    {
        if (settings.Interfaces.Count == 0)
        {
            throw new ApiFaultException(ConfigError + "The list of network interface IDs that allow forwarding MMDS requests is empty.");
        }

        foreach (var id in settings.Interfaces)
        {
            if (!interfaces.Contains(id))
            {
                throw new ApiFaultException(
                    ConfigError + "The list of network interface IDs provided contains at least one ID that does not correspond to any existing network interface.");
            }
        }

        if (!MetadataSettings.IsUsable(settings.Address))
        {
            throw new ApiFaultException(ConfigError + "The MMDS IPv4 address is not link local.");
        }

        service.Settings = settings;
    }

    /// <summary>Body of <c>PUT /mmds/config</c>.</summary>
    public static MetadataSettings ReadSettings(ref JsonBody body)
    {
        body.ExpectObject("struct MmdsConfig");
        var settings = new MetadataSettings([], false, MetadataSettings.DefaultAddress, false);
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            switch (field)
            {
                case 0:
                    body.ExpectArray();
                    List<string> interfaces = [];
                    while (body.NextElement())
                    {
                        interfaces.Add(body.String());
                    }

                    settings = settings with { Interfaces = interfaces };
                    break;
                case 1:
                    settings = settings with { NeedsToken = body.Variant(Versions) == 1 };
                    break;
                case 2 when !body.IsNull:
                    settings = settings with { Address = TryParseAddress(body.String(), out var address) ? address : throw body.Fault("invalid IPv4 address syntax") };
                    break;
                case 3:
                    settings = settings with { AlwaysText = body.Boolean() };
                    break;
                default:
                    break;
            }
        }

        body.Require(Fields, seen, 0);
        return settings;
    }

    public void WriteSettings(Utf8JsonWriter json)
    {
        json.WritePropertyName("mmds-config");
        if (service.Settings is not { } settings)
        {
            json.WriteNullValue();
            return;
        }

        var address = settings.Address;
        json.WriteStartObject();
        json.WriteString("version", Versions[settings.NeedsToken ? 1 : 0]);
        json.WriteStartArray("network_interfaces");
        foreach (var id in settings.Interfaces)
        {
            json.WriteStringValue(id);
        }

        json.WriteEndArray();
        json.WriteString("ipv4_address", $"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}");
        json.WriteBoolean("imds_compat", settings.AlwaysText);
        json.WriteEndObject();
    }

    /// <summary>Any JSON value, from the current token on. As deep as the reader goes, which is 64 levels.</summary>
    public static MetadataValue Read(ref JsonBody body)
    {
        switch (body.Kind)
        {
            case JsonTokenType.StartObject:
                Dictionary<string, MetadataValue> members = [];
                while (body.NextFreeField(out var name))
                {
                    // The last of several with one name, as in Firecracker.
                    members[name] = Read(ref body);
                }

                return MetadataValue.Object(members);
            case JsonTokenType.StartArray:
                List<MetadataValue> elements = [];
                while (body.NextElement())
                {
                    elements.Add(Read(ref body));
                }

                return MetadataValue.Array([.. elements]);
            case JsonTokenType.String:
                return MetadataValue.String(body.String());
            case JsonTokenType.Number:
                return MetadataValue.Number(body.NumberText());
            case JsonTokenType.True:
                return MetadataValue.True;
            case JsonTokenType.False:
                return MetadataValue.False;
            default:
                return MetadataValue.Null;
        }
    }

    private static ApiFaultException NotInitialized() => new(StoreError + "The MMDS data store is not initialized.");

    // Four decimal numbers and nothing else: forms that only some programs understand are how addresses slip through checks.
    private static bool TryParseAddress(string text, out uint address)
    {
        address = 0;
        var parts = text.Split('.');
        foreach (var part in parts)
        {
            if (part.Length is 0 or > 3 || (part.Length > 1 && part[0] == '0') || !byte.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out var number))
            {
                return false;
            }

            address = address << 8 | number;
        }

        return parts.Length == 4;
    }
}
