using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json.Nodes;

namespace Fleet.Host.Tests.Images.Oci;

/// <summary>An image made in a test: blobs by their digests, and its manifest.</summary>
internal sealed class TestImage
{
    /// <summary>Its architecture as images name it.</summary>
    public static readonly string ThisMachine = RuntimeInformation.OSArchitecture == Architecture.Arm64 ? "arm64" : "amd64";

    private const string Oci = "application/vnd.oci.image.";

    private TestImage(byte[] manifest, string digest) => (Manifest, Digest) = (manifest, digest);

    public Dictionary<string, byte[]> Blobs { get; } = new(StringComparer.Ordinal);

    public byte[] Manifest { get; }

    public string Digest { get; }

    public IReadOnlyList<string> Layers { get; private init; } = [];

    /// <param name="layers">Tars, from the lowest up.</param>
    /// <param name="config">Its member <c>config</c>: what it runs.</param>
    /// <param name="change">Makes something else of the manifest.</param>
    /// <param name="architecture">Of the machines that it is for.</param>
    public static TestImage Of(byte[][] layers, JsonObject? config = null, Action<JsonObject>? change = null, string? architecture = null)
    {
        var packed = layers.Select(TarMaker.Gzip).ToArray();
        var description = new JsonObject
        {
            ["architecture"] = architecture ?? ThisMachine,
            ["os"] = "linux",
            ["config"] = config ?? [],
            ["rootfs"] = new JsonObject { ["type"] = "layers", ["diff_ids"] = new JsonArray([.. layers.Select(layer => (JsonNode)TarMaker.Digest(layer))]) },
        };
        var described = Encoding.UTF8.GetBytes(description.ToJsonString());
        var manifest = new JsonObject
        {
            ["schemaVersion"] = 2,
            ["mediaType"] = Oci + "manifest.v1+json",
            ["config"] = Descriptor(Oci + "config.v1+json", described),
            ["layers"] = new JsonArray([.. packed.Select(layer => (JsonNode)Descriptor(Oci + "layer.v1.tar+gzip", layer))]),
        };
        change?.Invoke(manifest);
        var bytes = Encoding.UTF8.GetBytes(manifest.ToJsonString());
        var image = new TestImage(bytes, TarMaker.Digest(bytes)) { Layers = [.. packed.Select(TarMaker.Digest)] };
        foreach (var blob in packed.Append(described).Append(bytes)) image.Blobs[TarMaker.Digest(blob)] = blob;
        return image;
    }

    public static TestImage Small(string content = "hello") => Of([new TarMaker().Folder("etc").File("etc/greeting", content).ToArray(), new TarMaker().File("etc/second", "2").ToArray()]);

    /// <summary>One whose layer does not compress.</summary>
    public static TestImage Big(int bytes = 3 << 20)
    {
        var content = new byte[bytes];
        new Random(7).NextBytes(content);
        return Of([new TarMaker().File("big", content).ToArray()]);
    }

    /// <summary>Writes it as an OCI layout, for everybody to read.</summary>
    public void WriteLayout(string folder, string tag)
    {
        var blobs = Directory.CreateDirectory(Path.Combine(folder, "blobs", "sha256")).FullName;
        foreach (var (digest, blob) in Blobs) File.WriteAllBytes(Path.Combine(blobs, digest[7..]), blob);
        File.WriteAllText(Path.Combine(folder, "oci-layout"), """{"imageLayoutVersion":"1.0.0"}""");
        var entry = Descriptor(Oci + "manifest.v1+json", Manifest);
        entry["annotations"] = new JsonObject { ["org.opencontainers.image.ref.name"] = tag };
        File.WriteAllText(Path.Combine(folder, "index.json"), new JsonObject { ["schemaVersion"] = 2, ["manifests"] = new JsonArray(entry) }.ToJsonString());
    }

    private static JsonObject Descriptor(string type, byte[] bytes) => new() { ["mediaType"] = type, ["digest"] = TarMaker.Digest(bytes), ["size"] = bytes.Length };
}
