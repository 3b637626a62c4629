using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;
using Fleet.Cli.Output;

namespace Fleet.Cli.Vms;

/// <summary>Published ports as they are written on the command line: <c>8080:80</c>, <c>5353:53/udp</c>.</summary>
internal static class PortText
{
    public const string Form = "HOST:GUEST[/udp], or PORT where both are the same";

    /// <exception cref="ApiException">A word has not that form.</exception>
    public static JsonArray Ports(IEnumerable<string> words) => new([.. words.Select(Port)]);

    public static string Of(JsonElement port) =>
        $"{port.Text("host")}:{port.Text("guest")}" + (port.Text("protocol") == "udp" ? "/udp" : "");

    private static JsonNode Port(string word)
    {
        var slash = word.IndexOf('/', StringComparison.Ordinal);
        var protocol = slash < 0 ? "tcp" : word[(slash + 1)..];
        var numbers = (slash < 0 ? word : word[..slash]).Split(':');
        if (numbers.Length is 1 or 2 && protocol is "tcp" or "udp" && Number(numbers[0]) is { } host && Number(numbers[^1]) is { } guest)
            return new JsonObject { ["host"] = host, ["guest"] = guest, ["protocol"] = protocol };
        throw new ApiException("invalid_field", $"--publish wants {Form}, not '{word}'.");
    }

    private static int? Number(string text) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number is > 0 and <= ushort.MaxValue ? number : null;
}
