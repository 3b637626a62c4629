using System.Globalization;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;

namespace Fleet.Cli.Volumes;

/// <summary>Volumes as words of a command line.</summary>
internal static class VolumeText
{
    public const string Form = "NAME:/PATH[:SIZE], or NAME[::SIZE] with --kernel; SIZE in MiB, or such as 10G";

    /// <summary>The API's body for a <c>--volume</c>.</summary>
    /// <exception cref="ApiException">The word has not that form.</exception>
    public static JsonNode? Mount(string word)
    {
        var parts = word.Split(':');
        if (parts.Length > 3 || parts[0].Length == 0)
            throw Wrong(word);
        var volume = new JsonObject { ["name"] = parts[0] };
        if (parts.Length > 1 && parts[1].Length > 0)
            volume["path"] = parts[1];
        if (parts.Length > 2)
            volume["size_mib"] = Mib(parts[2]) ?? throw Wrong(word);
        return volume;
    }

    /// <summary>MiB: a number of them, or one with M, G or T; null: something else.</summary>
    public static long? Mib(string text)
    {
        var factor = text.Length == 0 ? 0 : char.ToUpperInvariant(text[^1]) switch { 'M' => 1L, 'G' => 1L << 10, 'T' => 1L << 20, _ => 0 };
        return int.TryParse(factor == 0 ? text : text[..^1], NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number * Math.Max(1, factor) : null;
    }

    private static ApiException Wrong(string word) => new("invalid_field", $"--volume wants {Form}, not '{word}'.");
}
