using System.Text.Json;
using System.Text.Json.Serialization.Metadata;

namespace Fleet.Scheduler.Api;

/// <summary>
/// Reads a request's JSON by the shape of its type and nothing more: unknown members, double members, wrong types and
/// nulls inside lists are refused, each with the place where it stands.
/// </summary>
internal static class StrictJson
{
    private const int MaxDepth = 16;
    private const int MaxPathLength = 160;

    private static readonly JsonDocumentOptions Options = new() { AllowDuplicateProperties = false, MaxDepth = MaxDepth };

    /// <exception cref="RequestRefused"><c>invalid_json</c>, <c>unknown_field</c> or <c>invalid_field</c>.</exception>
    public static T Read<T>(ReadOnlyMemory<byte> utf8, JsonTypeInfo<T> type) where T : class
    {
        try
        {
            using var document = JsonDocument.Parse(utf8, Options);
            if (document.RootElement.ValueKind != JsonValueKind.Object)
                throw new RequestRefused(ErrorCodes.InvalidJson, $"The body is {Kind(document.RootElement)}; it must be a JSON object.");
            Check(document.RootElement, type, "");
            return document.RootElement.Deserialize(type)!;
        }
        catch (JsonException fault)
        {
            throw new RequestRefused(ErrorCodes.InvalidJson, $"The body is not valid JSON (line {fault.LineNumber + 1}, byte {fault.BytePositionInLine}): {Sentence(fault)}", inner: fault);
        }
        catch (InvalidOperationException fault)
        {
            // The reader looks into strings only when they are asked for.
            throw new RequestRefused(ErrorCodes.InvalidJson, "The body contains text that is not valid Unicode.", inner: fault);
        }
    }

    private static void Check(JsonElement element, JsonTypeInfo type, string path)
    {
        switch (type.Kind)
        {
            case JsonTypeInfoKind.Object:
                Expect(element, path, element.ValueKind == JsonValueKind.Object, "an object");
                foreach (var member in element.EnumerateObject())
                    CheckMember(member, type, path);
                break;
            case JsonTypeInfoKind.Dictionary:
                Expect(element, path, element.ValueKind == JsonValueKind.Object, "an object");
                foreach (var member in element.EnumerateObject())
                    Check(member.Value, type.Options.GetTypeInfo(type.ElementType!), Join(path, member.Name));
                break;
            case JsonTypeInfoKind.Enumerable:
                Expect(element, path, element.ValueKind == JsonValueKind.Array, "a list");
                var at = 0;
                foreach (var item in element.EnumerateArray())
                    Check(item, type.Options.GetTypeInfo(type.ElementType!), $"{path}[{at++}]");
                break;
            default:
                CheckValue(element, Nullable.GetUnderlyingType(type.Type) ?? type.Type, path);
                break;
        }
    }

    private static void CheckMember(JsonProperty member, JsonTypeInfo type, string path)
    {
        var place = Join(path, member.Name);
        var known = type.Properties.FirstOrDefault(p => p.Name == member.Name)
            ?? throw new RequestRefused(ErrorCodes.UnknownField,
                $"There is no member {place}. Known here: {string.Join(", ", type.Properties.Select(p => p.Name))}.", place);
        if (member.Value.ValueKind != JsonValueKind.Null)
            Check(member.Value, type.Options.GetTypeInfo(known.PropertyType), place);
    }

    private static void CheckValue(JsonElement element, Type type, string path)
    {
        if (type == typeof(string))
        {
            Expect(element, path, element.ValueKind == JsonValueKind.String, "a string");
            _ = element.GetString();
        }
        else if (type == typeof(long))
        {
            Expect(element, path, element.ValueKind == JsonValueKind.Number && element.TryGetInt64(out _), "a whole number");
        }
        else if (type == typeof(bool))
        {
            Expect(element, path, element.ValueKind is JsonValueKind.True or JsonValueKind.False, "true or false");
        }
        else
        {
            throw new NotSupportedException($"Requests have no members of type {type}.");
        }
    }

    private static void Expect(JsonElement element, string path, bool met, string wanted)
    {
        if (!met)
            throw new RequestRefused(ErrorCodes.InvalidField, $"{path} must be {wanted}, and is {Kind(element)}.", path);
    }

    private static string Kind(JsonElement element) => element.ValueKind switch
    {
        JsonValueKind.Object => "an object",
        JsonValueKind.Array => "a list",
        JsonValueKind.String => "a string",
        JsonValueKind.Number => element.TryGetInt64(out var number) ? number.ToString(System.Globalization.CultureInfo.InvariantCulture) : "another number",
        JsonValueKind.True => "true",
        JsonValueKind.False => "false",
        _ => "null",
    };

    private static string Join(string path, string name)
    {
        var joined = path.Length == 0 ? name : $"{path}.{name}";
        return joined.Length <= MaxPathLength ? joined : joined[..MaxPathLength] + "…";
    }

    // The reader's own message ends with a second statement of the position.
    private static string Sentence(JsonException fault)
    {
        var end = fault.Message.IndexOf(" LineNumber:", StringComparison.Ordinal);
        return end < 0 ? fault.Message : fault.Message[..end];
    }
}
