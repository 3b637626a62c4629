using System.Runtime.InteropServices;
using System.Text.Json;
using Fleet.Shared.Vms;

namespace Fleet.Host.Images.Oci;

/// <summary>What a manifest says of a blob.</summary>
/// <param name="Digest"><c>sha256:</c> and 64 hexadecimal digits.</param>
/// <param name="Size">Bytes.</param>
/// <param name="MediaType">As given; may be empty.</param>
internal sealed record Descriptor(string Digest, long Size, string MediaType)
{
    /// <summary>The digest without its kind: what a file is named by.</summary>
    public string Hex => Digest[7..];
}

/// <summary>What an image runs unless the microVM's spec says something else.</summary>
internal sealed record ImageConfig(
    IReadOnlyList<string> DiffIds, string User, IReadOnlyList<string> Env, IReadOnlyList<string> Entrypoint, IReadOnlyList<string> Cmd, string WorkingDirectory, string StopSignal);

/// <summary>A manifest: a configuration, and layers from the lowest up.</summary>
internal sealed record ImageManifest(Descriptor Config, IReadOnlyList<Descriptor> Layers);

/// <summary>
/// Reads the JSON documents of images, OCI's and Docker's second version, which say the same in other words. Members that are not
/// needed are passed over, as both specifications ask for. Everything wrong is <c>image_refused</c>.
/// </summary>
internal static class ImageDocuments
{
    private const int MostManifests = 1024, MostStrings = 1024, MostText = 64 * 1024;

    private static readonly JsonDocumentOptions Strictness = new() { MaxDepth = 32 };

    /// <summary>This machine's architecture as images name it.</summary>
    public static string Architecture { get; } = RuntimeInformation.OSArchitecture switch
    {
        System.Runtime.InteropServices.Architecture.X64 => "amd64",
        System.Runtime.InteropServices.Architecture.Arm64 => "arm64",
        var other => other.ToString().ToLowerInvariant(),
    };

    /// <summary>A manifest, or of an index the descriptor of the manifest for this machine.</summary>
    public static (ImageManifest? Manifest, Descriptor? Next) ReadManifest(ReadOnlyMemory<byte> json)
    {
        using var document = Parse(json, "manifest");
        var root = document.RootElement;
        if (root.ValueKind != JsonValueKind.Object)
            throw ImageFault.Refused("its manifest is no JSON object");
        if (root.TryGetProperty("manifests", out var manifests))
            return (null, ForThisMachine(manifests));
        if (Number(root, "schemaVersion") != 2)
            throw ImageFault.Refused("its manifest is of the first version, which nothing writes any more; push it anew");
        if (!root.TryGetProperty("config", out var config) || !root.TryGetProperty("layers", out var list) || list.ValueKind != JsonValueKind.Array)
            throw ImageFault.Refused("its manifest has no config or no layers");
        if (list.GetArrayLength() > ImageLimits.Layers)
            throw ImageFault.Refused($"it has {list.GetArrayLength()} layers; at most {ImageLimits.Layers} are taken");
        var layers = list.EnumerateArray().Select(ReadDescriptor).ToArray();
        if (layers.FirstOrDefault(layer => layer.MediaType.Contains("foreign", StringComparison.Ordinal) || layer.MediaType.Contains("nondistributable", StringComparison.Ordinal)) is not null)
            throw ImageFault.Refused("a layer of it may not be distributed, and is to be had elsewhere");
        return (new ImageManifest(ReadDescriptor(config), layers), null);
    }

    /// <summary>The images of an OCI layout's <c>index.json</c> by their names; a name may be empty.</summary>
    public static IReadOnlyList<(string Name, Descriptor Manifest)> ReadLayoutIndex(ReadOnlyMemory<byte> json)
    {
        using var document = Parse(json, "index.json");
        if (document.RootElement.ValueKind != JsonValueKind.Object || !document.RootElement.TryGetProperty("manifests", out var manifests))
            throw ImageFault.Refused("index.json names no manifests");
        return [.. Bounded(manifests).Select(one => (
            one.TryGetProperty("annotations", out var notes) && notes.ValueKind == JsonValueKind.Object ? Text(notes, "org.opencontainers.image.ref.name") : "",
            ReadDescriptor(one)))];
    }

    /// <summary>The images of a docker-archive's <c>manifest.json</c>: names, the configuration's file and the layers' files.</summary>
    public static IReadOnlyList<(IReadOnlyList<string> Names, string Config, IReadOnlyList<string> Layers)> ReadArchiveManifest(ReadOnlyMemory<byte> json)
    {
        using var document = Parse(json, "manifest.json");
        return [.. Bounded(document.RootElement).Select(one => ((IReadOnlyList<string>)Strings(one, "RepoTags"), Text(one, "Config"), (IReadOnlyList<string>)Strings(one, "Layers")))];
    }

    /// <summary>The configuration of an image that runs here.</summary>
    public static ImageConfig ReadConfig(ReadOnlyMemory<byte> json, int layers)
    {
        using var document = Parse(json, "configuration");
        var root = document.RootElement;
        if (root.ValueKind != JsonValueKind.Object)
            throw ImageFault.Refused("its configuration is no JSON object");
        if (Text(root, "os") is { Length: > 0 } os && os != "linux")
            throw ImageFault.Refused($"it is for {ImageFault.Show(os)}, and microVMs run linux");
        if (Text(root, "architecture") is { Length: > 0 } architecture && architecture != Architecture)
            throw ImageFault.Refused($"it is for machines of {ImageFault.Show(architecture)}, and this host is {Architecture}");
        if (!root.TryGetProperty("rootfs", out var rootfs) || rootfs.ValueKind != JsonValueKind.Object)
            throw ImageFault.Refused("its configuration has no rootfs");
        var diffs = Strings(rootfs, "diff_ids");
        if (diffs.Length != layers || !diffs.All(ImageReference.IsDigest))
            throw ImageFault.Refused($"its configuration names {diffs.Length} layers by their digests, and its manifest {layers}");
        var run = root.TryGetProperty("config", out var config) && config.ValueKind == JsonValueKind.Object ? config : default;
        var env = Strings(run, "Env");
        if (env.FirstOrDefault(pair => pair.IndexOf('=', StringComparison.Ordinal) <= 0) is { } wrong)
            throw ImageFault.Refused($"'{ImageFault.Show(wrong)}' in its environment is not NAME=value");
        var folder = Text(run, "WorkingDir");
        if (folder.Length > ImageLimits.Path)
            throw ImageFault.Refused("its working directory's name is too long");
        return new ImageConfig(diffs, Text(run, "User"), env, Strings(run, "Entrypoint"), Strings(run, "Cmd"), folder, Text(run, "StopSignal"));
    }

    private static Descriptor ForThisMachine(JsonElement manifests)
    {
        var all = Bounded(manifests).ToArray();
        foreach (var one in all)
        {
            if (!one.TryGetProperty("platform", out var platform) || platform.ValueKind != JsonValueKind.Object)
            {
                if (all.Length == 1) return ReadDescriptor(one);
                continue;
            }
            if (Text(platform, "os") == "linux" && Text(platform, "architecture") == Architecture) return ReadDescriptor(one);
        }
        throw ImageFault.Refused($"it has nothing for linux on {Architecture}");
    }

    private static Descriptor ReadDescriptor(JsonElement element)
    {
        var digest = element.ValueKind == JsonValueKind.Object ? Text(element, "digest") : "";
        if (!ImageReference.IsDigest(digest))
            throw ImageFault.Refused($"'{ImageFault.Show(digest)}' in its manifest is no sha256 digest");
        var size = Number(element, "size");
        return size >= 0 ? new Descriptor(digest, size, Text(element, "mediaType")) : throw ImageFault.Refused($"its manifest gives {digest} no size");
    }

    private static IEnumerable<JsonElement> Bounded(JsonElement list)
    {
        if (list.ValueKind != JsonValueKind.Array || list.GetArrayLength() is 0 or > MostManifests)
            throw ImageFault.Refused($"it lists no manifests, or more than {MostManifests}");
        return list.EnumerateArray().Select(one => one.ValueKind == JsonValueKind.Object ? one : throw ImageFault.Refused("what it lists as a manifest is none"));
    }

    private static JsonDocument Parse(ReadOnlyMemory<byte> json, string what)
    {
        try
        {
            return JsonDocument.Parse(json, Strictness);
        }
        catch (JsonException wrong)
        {
            throw ImageFault.Refused($"its {what} is not JSON", wrong);
        }
    }

    private static long Number(JsonElement element, string name) =>
        element.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.Number && value.TryGetInt64(out var number) ? number : -1;

    private static string Text(JsonElement element, string name) =>
        element.ValueKind == JsonValueKind.Object && element.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.String ? Checked(value) : "";

    private static string[] Strings(JsonElement element, string name)
    {
        if (element.ValueKind != JsonValueKind.Object || !element.TryGetProperty(name, out var list) || list.ValueKind == JsonValueKind.Null)
            return [];
        if (list.ValueKind != JsonValueKind.Array || list.GetArrayLength() > MostStrings || list.EnumerateArray().Any(one => one.ValueKind != JsonValueKind.String))
            throw ImageFault.Refused($"{name} is not a list of at most {MostStrings} strings");
        var texts = list.EnumerateArray().Select(Checked).ToArray();
        return texts.Sum(text => (long)text.Length) <= MostText ? texts : throw ImageFault.Refused($"{name} is longer than {MostText} characters");
    }

    private static string Checked(JsonElement value)
    {
        string? text;
        try
        {
            text = value.GetString();
        }
        catch (InvalidOperationException wrong)
        {
            throw ImageFault.Refused("it has text that is not Unicode", wrong);
        }
        return text is { Length: <= MostText } && !text.Contains('\0', StringComparison.Ordinal) ? text : throw ImageFault.Refused("it has text that is too long, or holds a zero byte");
    }
}
