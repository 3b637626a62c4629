using System.Buffers.Binary;
using Fleet.Vmm.Metadata;
using Fleet.Vmm.Tests.Metadata;

namespace Fleet.Vmm.Tests.Fuzz;

/// <summary>
/// Frames for the metadata service: opening, asking, acknowledging and closing on a few ports, in any order, with broken
/// fields; mostly with right sums behind, so that they get further than the first check.
/// </summary>
internal sealed class MetadataTarget : FuzzTarget
{
    private static readonly byte[][] Requests =
    [
        "GET /latest/meta-data/ami-id HTTP/1.1\r\n\r\n"u8.ToArray(),
        "GET /latest/ HTTP/1.0\r\nAccept: application/json\r\nX-metadata-token: 0123\r\n\r\n"u8.ToArray(),
        "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\nContent-Length: 3\r\n\r\nabc"u8.ToArray(),
        "GET //latest//user-data/ HTTP/1.1\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n"u8.ToArray(),
        new byte[3000],
    ];

    private readonly Service _service = new();
    private readonly byte[] _answer = new byte[MetadataNetwork.LargestFrame];
    private readonly Dictionary<ushort, (uint Sequence, uint Acknowledged)> _known = [];
    private long _cases;

    public override string Name => "metadata";

    public override void Run(FuzzRandom random)
    {
        _cases++;
        var port = (ushort)random.Below(random.OneIn(20) ? 65536 : 40);
        var (sequence, acknowledged) = _known.GetValueOrDefault(port, ((uint)random.Next(), 0u));
        var flags = random.OneIn(6) ? (byte)random.Next() : random.Pick<byte>([2, 16, 16, 24, 24, 17, 20]);
        var payload = random.OneIn(3) ? [] : random.Pick<byte[]>(Requests).AsSpan();
        payload = payload[..(random.OneIn(3) ? random.Below(payload.Length + 1) : Math.Min(payload.Length, 1400))];
        var frame = GuestStack.Tcp(
            port,
            random.OneIn(10) ? sequence + (uint)random.Wild() : sequence,
            random.OneIn(10) ? acknowledged + (uint)random.Wild() : acknowledged,
            flags,
            payload,
            (ushort)(random.OneIn(4) ? random.Wild() : 65535),
            (ushort)(random.OneIn(4) ? random.Wild() : 1460));
        if (random.OneIn(3))
        {
            for (var i = random.Below(4); i >= 0; i--)
            {
                frame[14 + random.Below(Math.Min(60, frame.Length - 14))] = (byte)random.Wild();
            }

            if (!random.OneIn(5))
            {
                GuestStack.Seal(frame);
            }
        }

        var length = random.OneIn(10) ? random.Below(frame.Length + 1) : frame.Length;
        _ = _service.Network.TryTake(frame.AsSpan(0, length), random.OneIn(4));
        if ((flags & 2) != 0)
        {
            _known[port] = (sequence + 1, 0);
        }
        else if (_known.ContainsKey(port))
        {
            _known[port] = (sequence + (uint)payload.Length, acknowledged);
        }

        for (var i = random.Below(4); i > 0 && _service.Network.NextFrame(_answer) is var made && made > 0; i--)
        {
            Learn(_answer.AsSpan(0, made));
        }

        _service.Clock.Now += TimeSpan.FromMilliseconds(random.OneIn(50) ? random.Below(60000) : random.Below(20));
        _service.Network.Tick();
        var open = _service.Count(MetadataCount.ConnectionsCreated) - _service.Count(MetadataCount.ConnectionsDestroyed);
        if (open > MetadataNetwork.MostConnections)
        {
            throw new InvalidOperationException($"{open} connections");
        }

        if (_known.Count > 1000)
        {
            _known.Clear();
        }
    }

    public override string? Check()
    {
        if (_cases > 1000 && (_service.Count(MetadataCount.ConnectionsCreated) == 0 || _service.Count(MetadataCount.NoToken) == 0))
        {
            return "no connection got as far as a request: the cases try nothing";
        }

        // All goes when nobody speaks any more, and with it every answer that was held.
        for (var i = 0; i < 100; i++)
        {
            _service.Clock.Now += TimeSpan.FromSeconds(60);
            _service.Network.Tick();
            while (_service.Network.NextFrame(_answer) > 0)
            {
            }
        }

        if (_service.Network.NextDeadline is not null)
        {
            return "something waits for the time for ever";
        }

        var room = 0;
        while (_service.Metadata.TryAnswer(Requests[0], out var answer) && answer.Bytes[9] == '2')
        {
            room += answer.Bytes.Length;
        }

        return room >= 200 * 1024 ? null : $"answers of connections that are gone are still held: there is room for {room} bytes of more";
    }

    // As a guest would: what to say next on that port.
    private void Learn(ReadOnlySpan<byte> frame)
    {
        if (BinaryPrimitives.ReadUInt16BigEndian(frame[12..]) != 0x0800)
        {
            return;
        }

        var seen = GuestStack.Read(frame);
        _known[seen.Port] = (seen.Acknowledged, seen.Sequence + (uint)seen.Payload.Length + ((seen.Flags & 3) != 0 ? 1u : 0));
    }
}
