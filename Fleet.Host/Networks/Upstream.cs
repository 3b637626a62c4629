using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;

namespace Fleet.Host.Networks;

/// <summary>Passes queries on to the resolvers of this host.</summary>
internal sealed class Upstream
{
    private const int MostServers = 2;
    private const int LargestFile = 64 * 1024;

    /// <summary>More than EDNS lets anybody send without being cut into pieces.</summary>
    public const int LargestDatagram = 4096;

    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);

    private readonly string _file;
    private readonly IPEndPoint? _only;

    /// <param name="file">In the form of /etc/resolv.conf; read anew for each query, for it changes while the agent runs.</param>
    public Upstream(string file = "/etc/resolv.conf") => _file = file;

    /// <param name="only">The one resolver there is.</param>
    internal Upstream(IPEndPoint only) => (_file, _only) = ("", only);

    /// <summary>The answer of the first resolver that gives one; null: none does.</summary>
    /// <param name="query">Complete.</param>
    /// <param name="question">Of it.</param>
    /// <param name="byStream">By TCP, as it was asked.</param>
    /// <param name="cancellation">Gives up.</param>
    public async Task<byte[]?> AskAsync(ReadOnlyMemory<byte> query, DnsQuestion question, bool byStream, CancellationToken cancellation)
    {
        // Under a number of our own, that whoever asked us can't know in advance.
        var own = query.ToArray();
        RandomNumberGenerator.Fill(own.AsSpan(0, 2));
        foreach (var server in Servers())
        {
            using var time = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
            time.CancelAfter(Patience);
            try
            {
                var answer = byStream ? await ByStreamAsync(server, own, time.Token).ConfigureAwait(false) : await ByDatagramAsync(server, own, question, time.Token).ConfigureAwait(false);
                if (!DnsMessage.Answers(answer, own, question))
                    continue;
                query.Span[..2].CopyTo(answer);
                return answer;
            }
            catch (Exception failed) when (failed is SocketException or IOException || (failed is OperationCanceledException && !cancellation.IsCancellationRequested))
            {
                // The next one may do better.
            }
        }

        return null;
    }

    internal IReadOnlyList<IPEndPoint> Servers()
    {
        if (_only is not null)
            return [_only];
        try
        {
            if (new FileInfo(_file) is not { Exists: true, Length: <= LargestFile })
                return [];
            return [.. File.ReadLines(_file)
                .Select(line => line.Split([' ', '\t'], StringSplitOptions.RemoveEmptyEntries))
                .Where(words => words is ["nameserver", _, ..])
                .Select(words => IPAddress.TryParse(words[1], out var address) ? new IPEndPoint(address, DnsMessage.Port) : null)
                .OfType<IPEndPoint>().Take(MostServers)];
        }
        catch (Exception unreadable) when (unreadable is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }

    private static async Task<byte[]> ByDatagramAsync(IPEndPoint server, byte[] query, DnsQuestion question, CancellationToken cancellation)
    {
        // A socket and so a port of its own for each query: who would forge the answer has to guess both.
        using var socket = new Socket(server.AddressFamily, SocketType.Dgram, ProtocolType.Udp);
        await socket.ConnectAsync(server, cancellation).ConfigureAwait(false);
        await socket.SendAsync(query, cancellation).ConfigureAwait(false);
        var buffer = new byte[LargestDatagram];
        while (true)
        {
            var length = await socket.ReceiveAsync(buffer, cancellation).ConfigureAwait(false);
            if (DnsMessage.Answers(buffer.AsSpan(0, length), query, question))
                return buffer[..length];
        }
    }

    private static async Task<byte[]> ByStreamAsync(IPEndPoint server, byte[] query, CancellationToken cancellation)
    {
        using var socket = new Socket(server.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        await socket.ConnectAsync(server, cancellation).ConfigureAwait(false);
        await using var stream = new NetworkStream(socket);
        await WriteAsync(stream, query, cancellation).ConfigureAwait(false);
        return await ReadAsync(stream, cancellation).ConfigureAwait(false) ?? throw new IOException("the resolver closed the connection");
    }

    /// <summary>A message behind its length (RFC 1035, 4.2.2); null: the stream ended before one began.</summary>
    public static async Task<byte[]?> ReadAsync(Stream stream, CancellationToken cancellation)
    {
        var head = new byte[2];
        var got = await stream.ReadAtLeastAsync(head, 2, throwOnEndOfStream: false, cancellation).ConfigureAwait(false);
        if (got < 2)
            return null;
        var message = new byte[BinaryPrimitives.ReadUInt16BigEndian(head)];
        await stream.ReadExactlyAsync(message, cancellation).ConfigureAwait(false);
        return message;
    }

    /// <inheritdoc cref="ReadAsync"/>
    public static async Task WriteAsync(Stream stream, byte[] message, CancellationToken cancellation)
    {
        var framed = new byte[message.Length + 2];
        BinaryPrimitives.WriteUInt16BigEndian(framed, (ushort)message.Length);
        message.CopyTo(framed, 2);
        await stream.WriteAsync(framed, cancellation).ConfigureAwait(false);
    }
}
