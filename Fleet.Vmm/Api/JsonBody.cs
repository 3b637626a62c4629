using System.Text;
using System.Text.Json;
using System.Text.Unicode;

namespace Fleet.Vmm.Api;

/// <summary>JSON that does not say what was asked for. The sentence ends with the place, as serde_json's do.</summary>
internal sealed class JsonFaultException(string message) : Exception(message);

/// <summary>
/// Reads one JSON document field by field: unknown, repeated and missing fields, wrong types and trailing text are
/// errors. Firecracker parses with serde and its clients match serde's sentences, so the sentences here are the same.
/// </summary>
internal ref struct JsonBody
{
    private readonly ReadOnlySpan<byte> _json;
    private Utf8JsonReader _reader;

    public JsonBody(ReadOnlySpan<byte> json)
    {
        _json = json;
        if (!Utf8.IsValid(json))
        {
            throw new JsonFaultException("invalid unicode code point at line 1 column 1");
        }

        _reader = new Utf8JsonReader(json);
    }

    /// <summary>Steps to the first token of the document.</summary>
    public void Begin() => Read();

    /// <summary>The current token opens an object; <paramref name="what"/> is what serde would call it.</summary>
    public readonly void ExpectObject(string what)
    {
        if (_reader.TokenType != JsonTokenType.StartObject)
        {
            throw WrongType(what);
        }
    }

    /// <summary>
    /// The next field's index in <paramref name="known"/>, with its value as the current token; false at the object's end.
    /// <paramref name="seen"/> collects a bit per field.
    /// </summary>
    public bool NextField(ReadOnlySpan<string> known, ref uint seen, out int field)
    {
        Read();
        if (_reader.TokenType == JsonTokenType.EndObject)
        {
            field = -1;
            return false;
        }

        field = Find(known);
        if (field < 0)
        {
            throw Fault($"unknown field `{Text()}`, {ExpectedOneOf(known)}");
        }

        Enter(known, ref seen, field);
        return true;
    }

    /// <summary>As <see cref="NextField"/>, but unknown fields are stepped over.</summary>
    public bool NextKnownField(ReadOnlySpan<string> known, ref uint seen, out int field)
    {
        while (true)
        {
            Read();
            if (_reader.TokenType == JsonTokenType.EndObject)
            {
                field = -1;
                return false;
            }

            field = Find(known);
            if (field >= 0)
            {
                Enter(known, ref seen, field);
                return true;
            }

            Read();
            SkipValue();
        }
    }

    /// <summary>The next field of an object with free names.</summary>
    public bool NextFreeField(out string name)
    {
        Read();
        if (_reader.TokenType == JsonTokenType.EndObject)
        {
            name = "";
            return false;
        }

        name = Text();
        Read();
        return true;
    }

    public readonly void Require(ReadOnlySpan<string> known, uint seen, int field)
    {
        if ((seen & (1u << field)) == 0)
        {
            throw Fault($"missing field `{known[field]}`");
        }
    }

    /// <summary>For values that may be of any type.</summary>
    public readonly JsonTokenType Kind => _reader.TokenType;

    /// <summary>A number as it is written.</summary>
    public readonly string NumberText() => Encoding.ASCII.GetString(_reader.ValueSpan);

    public readonly bool IsNull => _reader.TokenType == JsonTokenType.Null;

    public readonly bool IsString => _reader.TokenType == JsonTokenType.String;

    /// <summary>The current token opens an array.</summary>
    public readonly void ExpectArray()
    {
        if (_reader.TokenType != JsonTokenType.StartArray)
        {
            throw WrongType("a sequence");
        }
    }

    /// <summary>Steps to the next element of an array; false at its end.</summary>
    public bool NextElement()
    {
        Read();
        return _reader.TokenType != JsonTokenType.EndArray;
    }

    /// <summary>The current token opens an array, and the next one closes it.</summary>
    public bool IsEmptyArray()
    {
        if (_reader.TokenType != JsonTokenType.StartArray)
        {
            return false;
        }

        Read();
        return _reader.TokenType == JsonTokenType.EndArray;
    }

    public readonly string String() =>
        _reader.TokenType == JsonTokenType.String ? Text() : throw WrongType("a string");

    public readonly string? OptionalString() => IsNull ? null : String();

    public readonly bool Boolean() => _reader.TokenType switch
    {
        JsonTokenType.True => true,
        JsonTokenType.False => false,
        _ => throw WrongType("a boolean"),
    };

    /// <summary>A whole number from 0 to <paramref name="largest"/>; <paramref name="type"/> is the Rust type that clients know.</summary>
    public readonly ulong Unsigned(ulong largest, string type)
    {
        if (_reader.TokenType != JsonTokenType.Number)
        {
            throw WrongType(type);
        }

        if (_reader.TryGetUInt64(out var value) && value <= largest)
        {
            return value;
        }

        throw IsFraction(_reader.ValueSpan) ? WrongType(type) : Fault($"invalid value: integer `{Encoding.UTF8.GetString(_reader.ValueSpan)}`, expected {type}");
    }

    /// <summary>Index of the string in <paramref name="variants"/>.</summary>
    public readonly int Variant(ReadOnlySpan<string> variants, bool anyCase = false)
    {
        if (_reader.TokenType != JsonTokenType.String)
        {
            throw WrongType("a string");
        }

        var text = Text();
        for (var i = 0; i < variants.Length; i++)
        {
            if (string.Equals(text, variants[i], anyCase ? StringComparison.OrdinalIgnoreCase : StringComparison.Ordinal))
            {
                return i;
            }
        }

        throw Fault($"unknown variant `{text}`, {ExpectedOneOf(variants)}");
    }

    /// <summary>Nothing but white space follows.</summary>
    public void End()
    {
        try
        {
            if (!_reader.Read())
            {
                return;
            }
        }
        catch (JsonException fault)
        {
            throw new JsonFaultException("trailing characters" + Place(fault));
        }

        throw Fault("trailing characters");
    }

    public readonly JsonFaultException Fault(string message)
    {
        // The reader takes a name's colon along, serde does not.
        var consumed = _reader.TokenType == JsonTokenType.PropertyName
            ? (int)_reader.TokenStartIndex + _reader.ValueSpan.Length + 2
            : (int)_reader.BytesConsumed;
        var before = _json[..consumed];
        var line = before.Count((byte)'\n') + 1;
        var column = consumed - (before.LastIndexOf((byte)'\n') + 1);
        return new JsonFaultException($"{message} at line {line} column {column}");
    }

    private readonly int Find(ReadOnlySpan<string> known)
    {
        for (var i = 0; i < known.Length; i++)
        {
            if (_reader.ValueTextEquals(known[i]))
            {
                return i;
            }
        }

        return -1;
    }

    private void Enter(ReadOnlySpan<string> known, ref uint seen, int field)
    {
        if ((seen & (1u << field)) != 0)
        {
            throw Fault($"duplicate field `{known[field]}`");
        }

        seen |= 1u << field;
        Read();
    }

    // To the last token of the value that the reader stands on.
    private void SkipValue()
    {
        var depth = _reader.CurrentDepth;
        if (_reader.TokenType is JsonTokenType.StartObject or JsonTokenType.StartArray)
        {
            do
            {
                Read();
            }
            while (_reader.CurrentDepth > depth);
        }
    }

    private void Read()
    {
        try
        {
            if (_reader.Read())
            {
                return;
            }
        }
        catch (JsonException fault)
        {
            throw new JsonFaultException((AtEnd(fault) ? "EOF while parsing a value" : "expected value") + Place(fault));
        }

        throw Fault("EOF while parsing a value");
    }

    private readonly bool AtEnd(JsonException fault)
    {
        var line = _json.Count((byte)'\n');
        var column = _json.Length - (_json.LastIndexOf((byte)'\n') + 1);
        return fault.LineNumber > line || (fault.LineNumber == line && fault.BytePositionInLine >= column);
    }

    private static string Place(JsonException fault) =>
        $" at line {(fault.LineNumber ?? 0) + 1} column {fault.BytePositionInLine ?? 0}";

    private readonly string Text()
    {
        try
        {
            return _reader.GetString()!;
        }
        catch (InvalidOperationException)
        {
            // Half of a surrogate pair, written as an escape.
            throw Fault("lone leading surrogate in hex escape");
        }
    }

    private readonly JsonFaultException WrongType(string expected)
    {
        var found = _reader.TokenType switch
        {
            JsonTokenType.Null => "null",
            JsonTokenType.True => "boolean `true`",
            JsonTokenType.False => "boolean `false`",
            JsonTokenType.StartArray => "sequence",
            JsonTokenType.StartObject => "map",
            JsonTokenType.String => $"string \"{Text()}\"",
            JsonTokenType.Number when IsFraction(_reader.ValueSpan) => $"floating point `{Encoding.UTF8.GetString(_reader.ValueSpan)}`",
            _ => $"integer `{Encoding.UTF8.GetString(_reader.ValueSpan)}`",
        };
        return Fault($"invalid type: {found}, expected {expected}");
    }

    private static bool IsFraction(ReadOnlySpan<byte> number) => number.IndexOfAny((byte)'.', (byte)'e', (byte)'E') >= 0;

    private static string ExpectedOneOf(ReadOnlySpan<string> names)
    {
        switch (names.Length)
        {
            case 1:
                return $"expected `{names[0]}`";
            case 2:
                return $"expected `{names[0]}` or `{names[1]}`";
            default:
                var list = new StringBuilder("expected one of ");
                for (var i = 0; i < names.Length; i++)
                {
                    list.Append(i == 0 ? "`" : ", `").Append(names[i]).Append('`');
                }

                return list.ToString();
        }
    }
}
