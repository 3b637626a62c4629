using System.Globalization;
using Microsoft.AspNetCore.Http;

namespace Fleet.Scheduler.Api;

/// <summary>The query of a request, read by what its operation takes: unknown and repeated parameters are refused.</summary>
internal sealed class Query
{
    private readonly Dictionary<string, string> _values = [];
    private readonly Operation _operation;

    /// <exception cref="RequestRefused"><c>invalid_query</c></exception>
    public Query(HttpContext http)
    {
        _operation = http.GetEndpoint()!.Metadata.GetRequiredMetadata<Operation>();
        foreach (var (name, values) in http.Request.Query)
        {
            if (!_operation.Query.Any(p => p.IsPrefix ? name.StartsWith(p.Name, StringComparison.Ordinal) : name == p.Name))
            {
                var known = _operation.Query.Select(p => p.IsPrefix ? p.Name + "KEY" : p.Name).ToList();
                throw RequestRefused.InvalidQuery(name, $"There is no parameter {Short(name)} here. " +
                    (known.Count == 0 ? "This request takes none." : $"Known: {string.Join(", ", known)}."));
            }
            if (values.Count != 1)
                throw RequestRefused.InvalidQuery(name, $"{Short(name)} is given {values.Count} times.");
            _values[name] = values[0] ?? "";
        }
        if (_operation.Query.FirstOrDefault(p => p.Required && !_values.ContainsKey(p.Name)) is { } missing)
            throw RequestRefused.InvalidQuery(missing.Name, $"The parameter {missing.Name} is missing. {missing.Description}.");
    }

    public string? Text(string name) => _values.GetValueOrDefault(name);

    /// <summary>The number, its default, or null when there is neither.</summary>
    public long? Number(string name)
    {
        var parameter = _operation.Query.First(p => p.Name == name);
        if (Text(name) is not { } text)
            return parameter.Default;
        if (long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number)
            && number >= parameter.Minimum && number <= parameter.Maximum)
            return number;
        throw RequestRefused.InvalidQuery(name, parameter.Maximum == long.MaxValue
            ? $"{name} must be a whole number from {parameter.Minimum}."
            : $"{name} must be a whole number from {parameter.Minimum} to {parameter.Maximum}.");
    }

    /// <summary>True or false; absent is false.</summary>
    public bool Flag(string name) => Text(name) switch
    {
        null or "false" => false,
        "true" => true,
        _ => throw RequestRefused.InvalidQuery(name, $"{name} must be true or false."),
    };

    /// <summary>A list with commas in between, each item turned by <paramref name="parse"/>; null from it refuses the item.</summary>
    public IReadOnlyList<T> Items<T>(string name, Func<string, T?> parse, string allowed) where T : struct =>
        Text(name) is not { } text
            ? []
            : [.. text.Split(',').Select(item => parse(item) ?? throw RequestRefused.InvalidQuery(name, $"{name} must be one or more of {allowed}, with commas in between.")).Distinct()];

    /// <summary>The parameters that begin with the prefix, without it.</summary>
    public IReadOnlyList<KeyValuePair<string, string>> Family(string prefix) =>
        [.. _values.Where(v => v.Key.StartsWith(prefix, StringComparison.Ordinal)).Select(v => KeyValuePair.Create(v.Key[prefix.Length..], v.Value))];

    private static string Short(string name) => name.Length <= 64 ? name : name[..64] + "…";
}
