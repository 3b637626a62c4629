using System.Text;

namespace Fleet.Vmm.Metadata;

/// <summary>Bytes of a guest that are no request; the connection ends with an answer that says why.</summary>
internal sealed class MetadataRequestException(string message) : Exception(message);

/// <summary>A guest's request: HTTP/1.0 or 1.1, with what of its headers matters here. Throws nothing but <see cref="MetadataRequestException"/>.</summary>
internal ref struct MetadataRequest
{
    public ReadOnlySpan<byte> Method { get; private set; }

    /// <summary>Printable ASCII that begins with a slash.</summary>
    public string Path { get; private set; }

    /// <summary>0 or 1.</summary>
    public int MinorVersion { get; private set; }

    public bool KeepAlive { get; private set; }

    public bool AcceptsJson { get; private set; }

    /// <summary>Bytes of the whole request, its body included.</summary>
    public int Length { get; private set; }

    public bool HasToken { get; private set; }

    public ReadOnlySpan<byte> Token { get; private set; }

    /// <summary>The header that tells how long a token is to live, as the guest spelled it; empty when there is none.</summary>
    public ReadOnlySpan<byte> LifeName { get; private set; }

    public ReadOnlySpan<byte> Life { get; private set; }

    /// <summary>The header that only proxies send, as it was spelled; empty when there is none.</summary>
    public ReadOnlySpan<byte> ForwardedName { get; private set; }

    /// <summary>The request at the start of the input; false while it is not complete.</summary>
    /// <param name="input">What has come.</param>
    /// <param name="most">Bytes that head and body together may have.</param>
    /// <param name="request">The request; its spans are of the input.</param>
    public static bool TryParse(ReadOnlySpan<byte> input, int most, out MetadataRequest request)
    {
        request = default;
        var end = input.IndexOf("\r\n\r\n"u8);
        if (end < 0)
        {
            return input.Length < most ? false : throw new MetadataRequestException($"The request is larger than the limit of {most} bytes.");
        }

        var lines = input[..(end + 2)];
        var lineEnd = lines.IndexOf("\r\n"u8);
        request.ParseLine(lines[..lineEnd]);
        lines = lines[(lineEnd + 2)..];
        var body = -1;
        while (!lines.IsEmpty)
        {
            lineEnd = lines.IndexOf("\r\n"u8);
            request.ParseHeader(lines[..lineEnd], ref body);
            lines = lines[(lineEnd + 2)..];
        }

        if (body > most - (end + 4))
        {
            throw new MetadataRequestException($"The request is larger than the limit of {most} bytes.");
        }

        request.Length = end + 4 + Math.Max(0, body);
        return input.Length >= request.Length;
    }

    private void ParseLine(ReadOnlySpan<byte> line)
    {
        var first = line.IndexOf((byte)' ');
        var last = line.LastIndexOf((byte)' ');
        if (first <= 0 || first == last || line[..first].ContainsAnyExceptInRange((byte)'A', (byte)'Z'))
        {
            throw new MetadataRequestException("Invalid request.");
        }

        Method = line[..first];
        var target = line[(first + 1)..last];
        if (target.IsEmpty || target.ContainsAnyExceptInRange((byte)'!', (byte)'~'))
        {
            throw new MetadataRequestException("Invalid URI.");
        }

        if (target.StartsWith("http://"u8))
        {
            target = target["http://".Length..];
            var slash = target.IndexOf((byte)'/');
            target = slash >= 0 ? target[slash..] : throw new MetadataRequestException("Invalid URI.");
        }

        Path = target[0] == (byte)'/' ? Encoding.ASCII.GetString(target) : throw new MetadataRequestException("Invalid URI.");
        MinorVersion = line[(last + 1)..] switch
        {
            var version when version.SequenceEqual("HTTP/1.1"u8) => 1,
            var version when version.SequenceEqual("HTTP/1.0"u8) => 0,
            _ => throw new MetadataRequestException("Invalid HTTP Version: Unsupported HTTP version."),
        };
        KeepAlive = MinorVersion == 1;
    }

    private void ParseHeader(ReadOnlySpan<byte> line, ref int body)
    {
        var colon = line.IndexOf((byte)':');
        if (colon <= 0 || line[..colon].ContainsAnyExceptInRange((byte)'!', (byte)'~'))
        {
            throw new MetadataRequestException("Invalid header. Reason: Header is incorrectly formatted.");
        }

        var name = line[..colon];
        var value = line[(colon + 1)..].Trim(" \t"u8);
        if (value.ContainsAnyInRange((byte)0, (byte)8) || value.ContainsAnyInRange((byte)10, (byte)31))
        {
            throw new MetadataRequestException($"Invalid header. Reason: Header contains invalid characters. Key: {Encoding.ASCII.GetString(name)}");
        }

        if (Is(name, "content-length"u8))
        {
            body = body < 0 && TryNumber(value, out var length) && length <= int.MaxValue
                ? (int)length
                : throw Invalid(name, value);
        }
        else if (Is(name, "transfer-encoding"u8))
        {
            throw new MetadataRequestException($"Invalid header. Reason: Unsupported feature. Key: Transfer-Encoding; Value: {Encoding.Latin1.GetString(value)}");
        }
        else if (Is(name, "connection"u8))
        {
            KeepAlive = !Is(value, "close"u8) && (KeepAlive || Is(value, "keep-alive"u8));
        }
        else if (Is(name, "accept"u8))
        {
            AcceptsJson |= Names(value, "application/json"u8);
        }
        else if (Is(name, "x-metadata-token"u8) || Is(name, "x-aws-ec2-metadata-token"u8))
        {
            HasToken = true;
            Token = value;
        }
        else if (Is(name, "x-metadata-token-ttl-seconds"u8) || Is(name, "x-aws-ec2-metadata-token-ttl-seconds"u8))
        {
            LifeName = name;
            Life = value;
        }
        else if (Is(name, "x-forwarded-for"u8))
        {
            ForwardedName = name;
        }
    }

    /// <summary>Digits and nothing else, up to what 32 bits hold.</summary>
    public static bool TryNumber(ReadOnlySpan<byte> text, out uint number)
    {
        ulong value = 0;
        foreach (var digit in text)
        {
            if (digit is < (byte)'0' or > (byte)'9' || value > uint.MaxValue)
            {
                number = 0;
                return false;
            }

            value = value * 10 + (ulong)(digit - '0');
        }

        number = (uint)value;
        return !text.IsEmpty && value <= uint.MaxValue;
    }

    public static MetadataRequestException Invalid(ReadOnlySpan<byte> name, ReadOnlySpan<byte> value) =>
        new($"Invalid header. Reason: Invalid value. Key:{Encoding.ASCII.GetString(name)}; Value:{Encoding.Latin1.GetString(value)}");

    private static bool Is(ReadOnlySpan<byte> text, ReadOnlySpan<byte> lowerCase) => Ascii.EqualsIgnoreCase(text, lowerCase);

    // Whether a list of media types has one, whatever its parameters.
    private static bool Names(ReadOnlySpan<byte> list, ReadOnlySpan<byte> type)
    {
        while (!list.IsEmpty)
        {
            var comma = list.IndexOf((byte)',');
            var item = comma < 0 ? list : list[..comma];
            var parameters = item.IndexOf((byte)';');
            if (Is((parameters < 0 ? item : item[..parameters]).Trim(" \t"u8), type))
            {
                return true;
            }

            list = comma < 0 ? [] : list[(comma + 1)..];
        }

        return false;
    }
}
