using System.Globalization;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;

namespace Fleet.Cli.Vms;

/// <summary>A health check as one word of the command line.</summary>
internal static class HealthText
{
    public const string Form = "tcp:PORT, http:PORT/PATH or exec:SHELL-COMMAND, before it in brackets if need be [interval=30,timeout=5,failures=3,start_period=0]";

    private static readonly Dictionary<string, string> Members = new(StringComparer.Ordinal)
    {
        ["interval"] = "interval_seconds", ["timeout"] = "timeout_seconds", ["failures"] = "failures", ["start_period"] = "start_period_seconds",
    };

    /// <exception cref="ApiException">It has another form.</exception>
    public static JsonObject Parse(string word)
    {
        var health = new JsonObject();
        if (word.StartsWith('['))
        {
            var end = word.IndexOf(']');
            if (end < 0)
                throw Wrong(word);
            foreach (var setting in word[1..end].Split(',', StringSplitOptions.RemoveEmptyEntries))
            {
                if (KeyValue.Parse(setting) is not { } pair || !Members.TryGetValue(pair.Key, out var member) || Number(pair.Value) is not { } value)
                    throw Wrong(word);
                health[member] = value;
            }
            word = word[(end + 1)..];
        }
        switch (word.Split(':', 2))
        {
            case ["exec", { Length: > 0 } script]:
                health["command"] = new JsonArray("sh", "-c", script);
                return health;
            case ["tcp", var text] when Number(text) is { } port:
                health["port"] = port;
                return health;
            case ["http", var text] when text.IndexOf('/') is > 0 and var slash && Number(text[..slash]) is { } port:
                health["port"] = port;
                health["http_path"] = text[slash..];
                return health;
            default:
                throw Wrong(word);
        }
    }

    private static int? Number(string text) => int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number : null;

    private static ApiException Wrong(string word) => new("invalid_field", $"--health wants {Form}, not '{word}'.");
}
