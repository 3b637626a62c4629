using System.Globalization;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;

namespace Fleet.Cli.Vms;

/// <summary>
/// Rules about groups as people write them: the group, then words with commas in between. <c>web,zone,soft</c> is a wish about web within a
/// zone, <c>web,ahead=2</c> a spread that leaves a difference of two.
/// </summary>
internal static class GroupText
{
    public const string AffinityForm = "GROUP[,zone][,soft] or vm=NAME[,zone][,soft]";
    public const string SpreadForm = "GROUP[,host][,soft][,ahead=N]";

    /// <summary>The API's body for an affinity; null when the word is not of that form.</summary>
    public static JsonObject? Affinity(string word, bool apart)
    {
        if (Rule(word, "within", "zone") is not { } rule || rule.ContainsKey("most_ahead"))
            return null;
        if (KeyValue.Parse((string)rule["group"]!) is ("vm", var name))
        {
            rule.Remove("group");
            rule["vm"] = name;
        }

        rule["apart"] = apart;
        return rule;
    }

    /// <summary>The API's body for a spread; null when the word is not of that form.</summary>
    public static JsonObject? Spread(string word) => Rule(word, "over", "host");

    /// <exception cref="ApiException">A word is not of its form.</exception>
    public static JsonArray Rules(IEnumerable<string> words, Func<string, JsonObject?> parse, string option, string form) =>
        [.. words.Select(word => (JsonNode?)parse(word) ?? throw new ApiException("invalid_field", $"{option} wants {form}, not '{word}'."))];

    private static JsonObject? Rule(string word, string scopeMember, string otherScope)
    {
        var parts = word.Split(',');
        var rule = new JsonObject { ["group"] = parts[0] };
        foreach (var part in parts[1..])
        {
            var added = part == otherScope ? rule.TryAdd(scopeMember, part)
                : part == "soft" ? rule.TryAdd("hard", false)
                : KeyValue.Parse(part) is ("ahead", var text) && int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var ahead) && rule.TryAdd("most_ahead", ahead);
            if (!added)
                return null;
        }

        return rule;
    }
}
