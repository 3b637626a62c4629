using System.Text;

namespace Fleet.Vmm.Api;

internal enum HttpMethod
{
    Get,
    Put,
    Patch,
    Delete,
}

/// <summary>Bytes that are not a request this server takes. The connection can't go on after it.</summary>
internal sealed class BadRequestException(string message) : Exception(message);

/// <summary>Request line and headers, checked. HTTP/1.0 and 1.1; the only body is one with Content-Length.</summary>
/// <param name="Target">The path, as it came.</param>
/// <param name="Length">Bytes up to and with the empty line.</param>
/// <param name="ContentLength">Bytes of body that follow.</param>
internal sealed record HttpRequestHead(
    HttpMethod Method, string Target, int Length, int ContentLength, bool KeepAlive, bool ExpectsContinue)
{
    /// <summary>Request line and headers together. Firecracker's limit is 1024 for a line.</summary>
    public const int LongestHead = 8192;

    /// <summary>
    /// The head at the start of <paramref name="input"/>, null while it is not complete. Throws <see cref="BadRequestException"/> for
    /// what is wrong whatever may follow.
    /// </summary>
    public static HttpRequestHead? Parse(ReadOnlySpan<byte> input, int largestBody)
    {
        var end = input.IndexOf("\r\n\r\n"u8);
        if (end < 0)
        {
            return input.Length < LongestHead
                ? null
                : throw new BadRequestException($"Request line and headers are larger than the limit of {LongestHead} bytes.");
        }

        if (end + 4 > LongestHead)
        {
            throw new BadRequestException($"Request line and headers are larger than the limit of {LongestHead} bytes.");
        }

        var lines = input[..(end + 2)];
        var lineEnd = lines.IndexOf("\r\n"u8);
        var (method, target, minorVersion) = ParseRequestLine(lines[..lineEnd]);
        var headers = new Headers { KeepAlive = minorVersion == 1 };
        lines = lines[(lineEnd + 2)..];
        while (!lines.IsEmpty)
        {
            lineEnd = lines.IndexOf("\r\n"u8);
            headers.Parse(lines[..lineEnd], largestBody);
            lines = lines[(lineEnd + 2)..];
        }

        return new HttpRequestHead(method, target, end + 4, headers.ContentLength ?? 0, headers.KeepAlive, headers.ExpectsContinue);
    }

    private static (HttpMethod Method, string Target, int MinorVersion) ParseRequestLine(ReadOnlySpan<byte> line)
    {
        var first = line.IndexOf((byte)' ');
        var last = line.LastIndexOf((byte)' ');
        if (first < 0 || first == last)
        {
            throw new BadRequestException("Invalid request.");
        }

        var method = line[..first] switch
        {
            var m when m.SequenceEqual("GET"u8) => HttpMethod.Get,
            var m when m.SequenceEqual("PUT"u8) => HttpMethod.Put,
            var m when m.SequenceEqual("PATCH"u8) => HttpMethod.Patch,
            var m when m.SequenceEqual("DELETE"u8) => HttpMethod.Delete,
            _ => throw new BadRequestException("Invalid HTTP Method: Unsupported HTTP method."),
        };

        var target = line[(first + 1)..last];
        if (target.IsEmpty)
        {
            throw new BadRequestException("Invalid URI: Empty URI not allowed.");
        }

        if (target.ContainsAnyExceptInRange((byte)'!', (byte)'~'))
        {
            throw new BadRequestException("Invalid URI: Only printable ASCII characters are allowed.");
        }

        var version = line[(last + 1)..];
        var minor = version.SequenceEqual("HTTP/1.1"u8) ? 1
            : version.SequenceEqual("HTTP/1.0"u8) ? 0
            : throw new BadRequestException("Invalid HTTP Version: Unsupported HTTP version.");
        return (method, PathOf(target), minor);
    }

    /// <summary>Proxies and some clients send the absolute form, <c>http://host/path</c>.</summary>
    private static string PathOf(ReadOnlySpan<byte> target)
    {
        if (target.StartsWith("http://"u8))
        {
            target = target["http://".Length..];
            var slash = target.IndexOf((byte)'/');
            target = slash < 0 ? "/"u8 : target[slash..];
        }

        return target[0] == (byte)'/' ? Encoding.ASCII.GetString(target) : throw new BadRequestException("Invalid URI: A path starts with a slash.");
    }

    private ref struct Headers
    {
        public int? ContentLength;
        public bool KeepAlive;
        public bool ExpectsContinue;

        public void Parse(ReadOnlySpan<byte> line, int largestBody)
        {
            var colon = line.IndexOf((byte)':');
            if (colon <= 0 || !IsToken(line[..colon]))
            {
                throw new BadRequestException("Invalid header. Reason: Header is incorrectly formatted.");
            }

            var name = line[..colon];
            var value = line[(colon + 1)..].Trim(" \t"u8);
            foreach (var b in value)
            {
                if (b < 0x20 && b != (byte)'\t' || b == 0x7f)
                {
                    throw new BadRequestException($"Invalid header. Reason: Header contains invalid characters. Key: {Encoding.ASCII.GetString(name)}");
                }
            }

            if (Is(name, "content-length"u8))
            {
                ParseContentLength(value, largestBody);
            }
            else if (Is(name, "transfer-encoding"u8))
            {
                // A body whose end we would see elsewhere than the sender is how requests are smuggled.
                throw Unsupported("Transfer-Encoding", value);
            }
            else if (Is(name, "expect"u8))
            {
                ExpectsContinue = Is(value, "100-continue"u8) ? true : throw Unsupported("Expect", value);
            }
            else if (Is(name, "connection"u8))
            {
                KeepAlive = Is(value, "close"u8) ? false : Is(value, "keep-alive"u8) || KeepAlive;
            }
            else if (Is(name, "accept-encoding"u8) && value.IndexOf("identity;q=0"u8) is var at and >= 0 && !value[(at + "identity;q=0".Length)..].StartsWith("."u8))
            {
                throw Unsupported("Accept-Encoding", value);
            }
        }

        private void ParseContentLength(ReadOnlySpan<byte> value, int largestBody)
        {
            if (ContentLength is not null)
            {
                throw new BadRequestException("Invalid header. Reason: Content-Length was given more than once.");
            }

            if (value.IsEmpty || value.ContainsAnyExceptInRange((byte)'0', (byte)'9'))
            {
                throw new BadRequestException($"Invalid header. Reason: Invalid value. Key:Content-Length; Value:{Encoding.Latin1.GetString(value)}");
            }

            long length = 0;
            foreach (var digit in value)
            {
                length = Math.Min(length * 10 + (digit - '0'), int.MaxValue);
            }

            ContentLength = length <= largestBody
                ? (int)length
                : throw new BadRequestException($"Request payload with size {Encoding.ASCII.GetString(value)} is larger than the limit of {largestBody} allowed by server.");
        }

        private static BadRequestException Unsupported(string name, ReadOnlySpan<byte> value) =>
            new($"Invalid header. Reason: Unsupported feature. Key: {name}; Value: {Encoding.Latin1.GetString(value)}");

        private static bool Is(ReadOnlySpan<byte> text, ReadOnlySpan<byte> lowerCase)
        {
            if (text.Length != lowerCase.Length)
            {
                return false;
            }

            for (var i = 0; i < text.Length; i++)
            {
                var b = text[i];
                if ((b is >= (byte)'A' and <= (byte)'Z' ? b | 0x20 : b) != lowerCase[i])
                {
                    return false;
                }
            }

            return true;
        }

        /// <summary>RFC 9110 §5.6.2. No space either: "Name : value" is read differently by different servers.</summary>
        private static bool IsToken(ReadOnlySpan<byte> name)
        {
            foreach (var b in name)
            {
                var letterOrDigit = b is >= (byte)'a' and <= (byte)'z' or >= (byte)'A' and <= (byte)'Z' or >= (byte)'0' and <= (byte)'9';
                if (!letterOrDigit && "!#$%&'*+-.^_`|~"u8.IndexOf(b) < 0)
                {
                    return false;
                }
            }

            return true;
        }
    }
}
