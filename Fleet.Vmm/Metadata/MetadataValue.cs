using System.Buffers;
using System.Text.Encodings.Web;
using System.Text.Json;

namespace Fleet.Vmm.Metadata;

/// <summary>The kinds of JSON values.</summary>
internal enum MetadataKind
{
    Null,
    False,
    True,
    Number,
    String,
    Array,
    Object,
}

/// <summary>A name and its value in an object.</summary>
internal sealed class MetadataMember(string name, MetadataValue value)
{
    public string Name => name;

    public MetadataValue Value => value;
}

/// <summary>
/// A JSON value that never changes: an update makes a new one that shares what stayed the same. Members stand in the order
/// of their names, each name once.
/// </summary>
internal sealed class MetadataValue
{
    private static readonly MetadataMember[] NoMembers = [];

    // As the API's answers: for programs, not for HTML.
    private static readonly JsonWriterOptions Options = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping, SkipValidation = true };

    private readonly string _text;
    private readonly MetadataValue[] _elements;
    private readonly MetadataMember[] _members;

    private MetadataValue(MetadataKind kind, string text, MetadataValue[] elements, MetadataMember[] members)
    {
        Kind = kind;
        _text = text;
        _elements = elements;
        _members = members;
    }

    public static MetadataValue Null { get; } = new(MetadataKind.Null, "null", [], NoMembers);

    public static MetadataValue True { get; } = new(MetadataKind.True, "true", [], NoMembers);

    public static MetadataValue False { get; } = new(MetadataKind.False, "false", [], NoMembers);

    public MetadataKind Kind { get; }

    /// <summary>What a string says.</summary>
    public string Text => _text;

    public ReadOnlySpan<MetadataMember> Members => _members;

    public static MetadataValue String(string text) => new(MetadataKind.String, text, [], NoMembers);

    /// <summary>A number, as it was written; it is told again in the same way.</summary>
    public static MetadataValue Number(string json) => new(MetadataKind.Number, json, [], NoMembers);

    public static MetadataValue Array(MetadataValue[] elements) => new(MetadataKind.Array, "", elements, NoMembers);

    public static MetadataValue Object(Dictionary<string, MetadataValue> members)
    {
        var sorted = new MetadataMember[members.Count];
        var count = 0;
        foreach (var (name, value) in members)
        {
            sorted[count++] = new MetadataMember(name, value);
        }

        System.Array.Sort(sorted, static (a, b) => string.CompareOrdinal(a.Name, b.Name));
        return new(MetadataKind.Object, "", [], sorted);
    }

    /// <summary>This value with a patch in it (RFC 7396): null takes a member away, an object is merged, all else replaces.</summary>
    public MetadataValue Merge(MetadataValue patch)
    {
        if (patch.Kind != MetadataKind.Object)
        {
            return patch;
        }

        var result = new List<MetadataMember>(_members.Length + patch._members.Length);
        var old = 0;
        foreach (var change in patch._members)
        {
            while (old < _members.Length && string.CompareOrdinal(_members[old].Name, change.Name) < 0)
            {
                result.Add(_members[old++]);
            }

            var before = Null;
            if (old < _members.Length && _members[old].Name == change.Name)
            {
                before = _members[old++].Value;
            }

            if (change.Value.Kind != MetadataKind.Null)
            {
                result.Add(new MetadataMember(change.Name, before.Merge(change.Value)));
            }
        }

        while (old < _members.Length)
        {
            result.Add(_members[old++]);
        }

        return new(MetadataKind.Object, "", [], [.. result]);
    }

    /// <summary>The value at a JSON pointer (RFC 6901) without its first slash; null when there is none.</summary>
    public MetadataValue? Find(ReadOnlySpan<char> pointer)
    {
        var value = this;
        while (value is not null)
        {
            var slash = pointer.IndexOf('/');
            var token = slash < 0 ? pointer : pointer[..slash];
            value = value.Child(token);
            if (slash < 0)
            {
                break;
            }

            pointer = pointer[(slash + 1)..];
        }

        return value;
    }

    /// <summary>As JSON text in UTF-8, without white space.</summary>
    public byte[] ToJson()
    {
        var buffer = new ArrayBufferWriter<byte>(256);
        using (var json = new Utf8JsonWriter(buffer, Options))
        {
            Write(json);
        }

        return buffer.WrittenSpan.ToArray();
    }

    private MetadataValue? Child(ReadOnlySpan<char> token)
    {
        switch (Kind)
        {
            case MetadataKind.Object:
                var name = token.Contains('~') ? token.ToString().Replace("~1", "/", StringComparison.Ordinal).Replace("~0", "~", StringComparison.Ordinal) : token;
                var (low, high) = (0, _members.Length - 1);
                while (low <= high)
                {
                    var middle = (low + high) / 2;
                    var order = name.SequenceCompareTo(_members[middle].Name);
                    if (order == 0)
                    {
                        return _members[middle].Value;
                    }

                    (low, high) = order < 0 ? (low, middle - 1) : (middle + 1, high);
                }

                return null;
            case MetadataKind.Array:
                return token is "0" || (!token.IsEmpty && token.Length < 10 && token[0] != '0' && !token.ContainsAnyExceptInRange('0', '9'))
                    ? IndexOf(token) is var index && index < _elements.Length ? _elements[index] : null
                    : null;
            default:
                return null;
        }
    }

    private static int IndexOf(ReadOnlySpan<char> digits)
    {
        var index = 0;
        foreach (var digit in digits)
        {
            index = index * 10 + (digit - '0');
        }

        return index;
    }

    // As deep as what was read, and the reader has a limit.
    private void Write(Utf8JsonWriter json)
    {
        switch (Kind)
        {
            case MetadataKind.String:
                json.WriteStringValue(_text);
                break;
            case MetadataKind.Array:
                json.WriteStartArray();
                foreach (var element in _elements)
                {
                    element.Write(json);
                }

                json.WriteEndArray();
                break;
            case MetadataKind.Object:
                json.WriteStartObject();
                foreach (var member in _members)
                {
                    json.WritePropertyName(member.Name);
                    member.Value.Write(json);
                }

                json.WriteEndObject();
                break;
            default:
                json.WriteRawValue(_text, skipInputValidation: true);
                break;
        }
    }
}
