using System.Globalization;
using System.Text.RegularExpressions;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Prediction;

/// <summary>Hosts that are predicted by terms of their own, by their labels and their size.</summary>
/// <param name="Name">As people read it.</param>
/// <param name="Where">All must be true of a host.</param>
/// <param name="Terms">Its own.</param>
/// <param name="Text">Of which it was parsed.</param>
public sealed partial record PredictedClass(string Name, IReadOnlyList<HostCondition> Where, PredictionTerms Terms, string Text)
{
    /// <summary>Each of them may be asked of every host.</summary>
    public const int Most = 16;

    private const int MostWords = 16;
    private const int MostText = 1024;

    /// <summary>What may be written.</summary>
    public const string Grammar =
        "NAME, conditions (label.KEY=VALUE, cpus>=N, cpus<=N, memory>=MIB, memory<=MIB) and terms (cpu=PREDICTOR, memory=PREDICTOR, reserve=SHARE) with spaces between them, at least one of each, " +
        "such as \"large cpus>=64 cpu=peak:0.2:2 reserve=0.05\"";

    public bool Has(Inventory? inventory) => inventory is not null && Where.All(condition => condition.IsTrueOf(inventory));

    /// <summary>Null: the text is none, and <paramref name="problem"/> says why.</summary>
    /// <param name="text">See <see cref="Grammar"/>.</param>
    /// <param name="others">What holds where it says nothing.</param>
    /// <param name="problem">In words.</param>
    public static PredictedClass? Parse(string text, PredictionTerms others, out string problem)
    {
        ArgumentNullException.ThrowIfNull(text);
        ArgumentNullException.ThrowIfNull(others);
        var words = text.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        if (text.Length > MostText || words.Length is < 3 or > MostWords || !NameForm().IsMatch(words[0]))
        {
            problem = $"a class of hosts is {Grammar}";
            return null;
        }
        var terms = others with { Class = words[0], Classes = [] };
        var (where, said) = (new List<HostCondition>(), new HashSet<string>(StringComparer.Ordinal));
        foreach (var word in words.AsSpan(1))
        {
            if (HostCondition.Parse(word) is { } condition)
            {
                where.Add(condition);
                continue;
            }
            var at = word.IndexOf('=', StringComparison.Ordinal);
            var (key, value) = at < 0 ? ("", word) : (word[..at], word[(at + 1)..]);
            switch (key)
            {
                case "cpu" when said.Add(key):
                    terms = terms with { Cpu = value };
                    break;
                case "memory" when said.Add(key):
                    terms = terms with { Memory = value };
                    break;
                case "reserve" when said.Add(key) && double.TryParse(value, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out var reserve):
                    terms = terms with { Reserve = reserve };
                    break;
                default:
                    problem = $"'{word}' is no part of a class of hosts: {Grammar}";
                    return null;
            }
        }
        problem = where.Count == 0 ? $"the class {words[0]} has no condition, and so would be all hosts"
            : said.Count == 0 ? $"the class {words[0]} has no terms of its own"
            : terms.FirstProblem() is { } wrong ? $"of the class {words[0]} {wrong}"
            : "";
        return problem.Length > 0 ? null : new(words[0], where, terms, text);
    }

    [GeneratedRegex("^[a-z0-9][a-z0-9-]{0,31}\\z")]
    private static partial Regex NameForm();
}

/// <summary>One thing that is asked of a host's inventory.</summary>
/// <param name="Label">The label that it must have; empty: it is about size.</param>
/// <param name="Value">... with that value.</param>
/// <param name="OfMemory">About MiB, else about hardware threads.</param>
/// <param name="Least">What it has at least.</param>
/// <param name="AtMost">What it has at most.</param>
public sealed record HostCondition(string Label, string Value, bool OfMemory, ulong Least, ulong AtMost)
{
    private const string LabelPrefix = "label.";

    public bool IsTrueOf(Inventory inventory)
    {
        ArgumentNullException.ThrowIfNull(inventory);
        if (Label.Length > 0)
            return inventory.Labels.TryGetValue(Label, out var value) && value == Value;
        var has = OfMemory ? inventory.MemoryMib : inventory.Cpus;
        return has >= Least && has <= AtMost;
    }

    /// <summary>Null: the word is none.</summary>
    public static HostCondition? Parse(string word)
    {
        ArgumentNullException.ThrowIfNull(word);
        if (word.StartsWith(LabelPrefix, StringComparison.Ordinal))
        {
            var at = word.IndexOf('=', StringComparison.Ordinal);
            return at > LabelPrefix.Length ? new(word[LabelPrefix.Length..at], word[(at + 1)..], false, 0, 0) : null;
        }
        foreach (var (sign, least) in (ReadOnlySpan<(string, bool)>)[(">=", true), ("<=", false)])
        {
            var parts = word.Split(sign);
            if (parts is ["cpus" or "memory", _] && ulong.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out var amount))
                return new("", "", parts[0] == "memory", least ? amount : 0, least ? ulong.MaxValue : amount);
        }
        return null;
    }
}
