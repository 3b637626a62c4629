using System.Text;
using Fleet.Vmm.Devices;

namespace Fleet.Vmm.Metadata;

/// <summary>What the metadata service counts, in the order in which a line of metrics tells it.</summary>
internal enum MetadataCount
{
    Accepted,
    AcceptedWithError,
    AcceptedUnusual,
    BadEthernet,
    InvalidToken,
    NoToken,
    Received,
    SentBytes,
    Sends,
    SendFailures,
    SentFrames,
    ConnectionsCreated,
    ConnectionsDestroyed,
}

/// <summary>How the service is reached and speaks; set before the start.</summary>
/// <param name="Interfaces">Ids of the network interfaces that lead to it.</param>
/// <param name="NeedsToken">Version 2: nothing is told without a session token.</param>
/// <param name="Address">Its IPv4 address, the first byte highest.</param>
/// <param name="AlwaysText">Never JSON, whatever the guest would accept.</param>
internal sealed record MetadataSettings(IReadOnlyList<string> Interfaces, bool NeedsToken, uint Address, bool AlwaysText)
{
    /// <summary>169.254.169.254.</summary>
    public const uint DefaultAddress = 0xa9fea9fe;

    /// <summary>169.254.1.0 to 169.254.254.255: the link-local addresses that may be used (RFC 3927, §2.1).</summary>
    public static bool IsUsable(uint address) => address is >= 0xa9fe0100 and <= 0xa9fefeff;
}

/// <summary>An answer for the guest, ready to be sent.</summary>
/// <param name="Bytes">Head and body.</param>
/// <param name="Taken">Bytes of the input that it answers.</param>
/// <param name="Ends">Whether the connection ends behind it.</param>
internal readonly record struct MetadataAnswer(byte[] Bytes, int Taken, bool Ends);

/// <summary>The metadata service of one microVM: what the host stored, told to the guest over HTTP, whichever interface it asks through.</summary>
/// <remarks>Event loop only.</remarks>
internal sealed class MetadataService(int limit, TimeProvider clock)
{
    /// <summary>Head and body of a request. A GET with a token takes some 200 bytes; clients that send cookies and the like a few more.</summary>
    public const int LargestRequest = 4096;

    private const string TokenPath = "/latest/api/token";

    private static readonly string[] MetricNames =
    [
        "rx_accepted", "rx_accepted_err", "rx_accepted_unusual", "rx_bad_eth", "rx_invalid_token", "rx_no_token", "rx_count",
        "tx_bytes", "tx_count", "tx_errors", "tx_frames", "connections_created", "connections_destroyed",
    ];

    private readonly MetadataTokens _tokens = new(clock);

    // Answers that guests have not taken yet. A few whole documents at once, and at least enough for small ones on every connection.
    private readonly int _mostPending = Math.Max(4 * limit, 256 * 1024);
    private int _pending;

    public MetadataStore Store { get; } = new(limit);

    /// <summary>Null while no interface leads here.</summary>
    public MetadataSettings? Settings { get; set; }

    public TimeProvider Clock => clock;

    public DeviceMetrics Metrics { get; } = new("mmds", null, MetricNames);

    public void Count(MetadataCount what, ulong count = 1) => Metrics.Add((int)what, count);

    /// <summary>Answers the request at the start of the input; false while it is not complete. Each answer has to be given back by <see cref="Release"/>.</summary>
    public bool TryAnswer(ReadOnlySpan<byte> input, out MetadataAnswer answer)
    {
        answer = default;
        try
        {
            if (!MetadataRequest.TryParse(input, LargestRequest, out var request))
            {
                return false;
            }

            // Before it is made: no answer is longer than a whole document and its head.
            answer = _pending + limit > _mostPending
                ? Text(request, 503, "Service Unavailable", "Too many answers are waiting to be taken.")
                : Answer(request);
        }
        catch (MetadataRequestException bad)
        {
            var body = Encoding.UTF8.GetBytes(bad.Message);
            answer = new(Build(1, 400, "Bad Request", keepsAlive: false, "", "text/plain", body), input.Length, Ends: true);
        }

        _pending += answer.Bytes.Length;
        return true;
    }

    /// <summary>The guest has it, or never will.</summary>
    public void Release(byte[] answer) => _pending -= answer.Length;

    private MetadataAnswer Answer(in MetadataRequest request)
    {
        if (request.Method.SequenceEqual("GET"u8))
        {
            return Get(request);
        }

        if (request.Method.SequenceEqual("PUT"u8))
        {
            return PutToken(request);
        }

        // To HEAD there is no body, so that the text would be taken for the next answer: the connection ends.
        var refusal = Encoding.UTF8.GetBytes("Not allowed HTTP method.");
        return new(Build(request.MinorVersion, 405, "Method Not Allowed", keepsAlive: false, "Allow: GET, PUT\r\n", "text/plain", refusal), request.Length, Ends: true);
    }

    private MetadataAnswer Get(in MetadataRequest request)
    {
        var valid = request.HasToken && _tokens.IsValid(request.Token);
        if (!valid)
        {
            Count(request.HasToken ? MetadataCount.InvalidToken : MetadataCount.NoToken);
            if (Settings is null or { NeedsToken: true })
            {
                return Text(request, 401, "Unauthorized", request.HasToken
                    ? "MMDS token not valid."
                    : "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header to specify the session token.");
            }
        }

        var value = Store.Find(request.Path);
        if (value is null)
        {
            return Text(request, 404, "Not Found", $"Resource not found: {request.Path}.");
        }

        if (request.AcceptsJson && Settings is not { AlwaysText: true })
        {
            return Make(request, 200, "OK", "", "application/json", value.ToJson());
        }

        return MetadataStore.AsText(value) is { } text
            ? Make(request, 200, "OK", "", "text/plain", text)
            : Text(request, 501, "Not Implemented", "Cannot retrieve value. The value has an unsupported type.");
    }

    private MetadataAnswer PutToken(in MetadataRequest request)
    {
        // A proxy that carries requests of others must not get a token for them.
        if (!request.ForwardedName.IsEmpty)
        {
            return BadRequest(request, $"Invalid header. Reason: Unsupported header name. Key: {Encoding.ASCII.GetString(request.ForwardedName)}");
        }

        if (MetadataStore.Clean(request.Path) != TokenPath)
        {
            return Text(request, 404, "Not Found", $"Resource not found: {request.Path}.");
        }

        if (request.LifeName.IsEmpty)
        {
            return BadRequest(
                request,
                "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or `X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's lifetime.");
        }

        if (!MetadataRequest.TryNumber(request.Life, out var seconds))
        {
            return BadRequest(request, MetadataRequest.Invalid(request.LifeName, request.Life).Message);
        }

        if (seconds is < MetadataTokens.ShortestLife or > MetadataTokens.LongestLife)
        {
            return BadRequest(
                request,
                $"Invalid time to live value provided for token: {seconds}. Please provide a value between {MetadataTokens.ShortestLife} and {MetadataTokens.LongestLife}.");
        }

        var token = Encoding.ASCII.GetBytes(_tokens.Issue(seconds));
        return Make(request, 200, "OK", $"{Encoding.ASCII.GetString(request.LifeName)}: {seconds}\r\n", "text/plain", token);
    }

    private static MetadataAnswer BadRequest(in MetadataRequest request, string message) => Text(request, 400, "Bad Request", message);

    private static MetadataAnswer Text(in MetadataRequest request, int status, string reason, string text) =>
        Make(request, status, reason, "", "text/plain", Encoding.UTF8.GetBytes(text));

    private static MetadataAnswer Make(in MetadataRequest request, int status, string reason, string headers, string type, byte[] body) =>
        new(Build(request.MinorVersion, status, reason, request.KeepAlive, headers, type, body), request.Length, !request.KeepAlive);

    private static byte[] Build(int minorVersion, int status, string reason, bool keepsAlive, string headers, string type, byte[] body)
    {
        var head = $"HTTP/1.{minorVersion} {status} {reason}\r\nServer: fleet-vmm\r\nConnection: {(keepsAlive ? "keep-alive" : "close")}\r\n{headers}Content-Type: {type}\r\nContent-Length: {body.Length}\r\n\r\n";
        var bytes = new byte[head.Length + body.Length];
        Encoding.ASCII.GetBytes(head, bytes);
        body.CopyTo(bytes, head.Length);
        return bytes;
    }
}
