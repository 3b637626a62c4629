using System.Globalization;
using System.Net;

namespace Fleet.Scheduler.Membership;

/// <summary>HOST:PORT of a control-plane node; an IPv6 address stands in brackets.</summary>
public static class NodeAddress
{
    public static string Write(string host, int port)
    {
        ArgumentNullException.ThrowIfNull(host);
        return string.Create(CultureInfo.InvariantCulture, $"{(host.Contains(':', StringComparison.Ordinal) ? $"[{host}]" : host)}:{port}");
    }

    /// <summary>Host without brackets, and port.</summary>
    public static (string Host, int Port) Split(string address) =>
        TryParse(address, out var host, out var port) ? (host, port) : throw new FormatException($"'{address}' is no HOST:PORT.");

    public static bool TryParse(string? text, out string host, out int port)
    {
        (host, port) = ("", 0);
        if (text is null || text.LastIndexOf(':') is not (> 0 and var colon) || !int.TryParse(text.AsSpan(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out port) || port is < 1 or > 65535)
            return false;
        host = text[..colon];
        if (host is ['[', .., ']'])
            return IPAddress.TryParse(host = host[1..^1], out _);
        return Uri.CheckHostName(host) is UriHostNameType.Dns or UriHostNameType.IPv4;
    }
}
