using System.Globalization;

namespace Fleet.Benchmarks;

/// <summary>What stands behind <c>fleet bench</c>.</summary>
/// <param name="Traces">Folder with public traces, by <c>--traces</c>; null: none was given.</param>
internal sealed record BenchmarkOptions(string Name, bool Json, IReadOnlyDictionary<string, ulong> Numbers, string? Traces = null)
{
    /// <summary>An option with a number, or what it is when it is not given.</summary>
    public ulong Number(string option, ulong otherwise) => Numbers.GetValueOrDefault(option, otherwise);

    /// <summary>Null when it makes no sense.</summary>
    public static BenchmarkOptions? Parse(string[] words)
    {
        string? name = null;
        string? traces = null;
        var json = false;
        var numbers = new Dictionary<string, ulong>(StringComparer.Ordinal);
        for (var i = 0; i < words.Length; i++)
        {
            if (words[i] == "--json")
                json = true;
            else if (words[i] == "--traces")
            {
                if (++i == words.Length)
                    return null;
                traces = words[i];
            }
            else if (words[i].StartsWith("--", StringComparison.Ordinal))
            {
                if (++i == words.Length || !ulong.TryParse(words[i], NumberStyles.None, CultureInfo.InvariantCulture, out var number))
                    return null;
                numbers[words[i - 1][2..]] = number;
            }
            else if (name is null)
                name = words[i];
            else
                return null;
        }

        return name is null ? null : new BenchmarkOptions(name, json, numbers, traces);
    }
}
