using System.Text;
using CsCheck;
using Fleet.Vmm.Metadata;
using Xunit;
using static Fleet.Vmm.Tests.Metadata.SeenSegment;

namespace Fleet.Vmm.Tests.Metadata;

/// <summary>Whatever the network does to frames: what arrives is right, and either all of it does or the connection ends.</summary>
public class LossyNetworkTests
{
    private static readonly TimeSpan Step = TimeSpan.FromMilliseconds(20);

    [Fact]
    public void Should_deliver_intact_or_end()
    {
        var delivered = 0;
        var runs = 0;
        Gen.Select(Gen.Int, Gen.Int[0, 60], Gen.Int[0, 40], Gen.Int[0, 60], Gen.Int[1, 30000], Gen.Int[100, 1460], Gen.Int[1, 3]).Sample(
            (seed, loss, duplication, delay, size, segment, requests) =>
            {
                runs++;
                delivered += Transfer(seed, loss, duplication, delay, size, (ushort)segment, requests) ? 1 : 0;
            },
            iter: 300,
            threads: 1);
        Assert.True(delivered > runs / 2, $"{delivered} of {runs}");
    }

    [Theory]
    [InlineData(20, 10, 20)]
    [InlineData(0, 40, 60)]
    public void Should_deliver_over_a_bad_network(int loss, int duplication, int delay)
    {
        for (var seed = 0; seed < 20; seed++)
        {
            Assert.True(Transfer(seed, loss, duplication, delay, 20000, 1000, 3), $"seed {seed}");
        }
    }

    // True when all answers came; throws when a byte is wrong or nothing comes to an end.
    private static bool Transfer(int seed, int loss, int duplication, int delay, int size, ushort segment, int requests)
    {
        var random = new Random(seed);
        var service = new Service(document: $$"""{"a":"{{new string('x', size / 2)}}{{new string('y', size / 2)}}","b":"short"}""");
        var text = string.Concat(Enumerable.Range(1, requests).Select(i =>
            $"GET /{(i % 2 == 0 ? "b" : "a")} HTTP/1.1\r\n{(i == requests ? "Connection: close\r\n" : "")}X-Padding: {new string('z', 40 * i)}\r\n\r\n"));
        var expected = new StringBuilder();
        foreach (var one in text.Split("\r\n\r\n", StringSplitOptions.RemoveEmptyEntries))
        {
            var (_, head, body) = service.Ask(one + "\r\n\r\n");
            expected.Append(head).Append("\r\n\r\n").Append(body);
        }

        var guest = new GuestClient(random, Encoding.ASCII.GetBytes(text), segment);
        var toService = new List<(TimeSpan At, byte[] Frame)>();
        var toGuest = new List<(TimeSpan At, byte[] Frame)>();
        var frame = new byte[MetadataNetwork.LargestFrame];
        var end = service.Clock.Now + TimeSpan.FromMinutes(20);
        while (!guest.IsDone)
        {
            Assert.True(service.Clock.Now < end, "neither done nor ended");
            foreach (var sent in guest.Send(service.Clock.Now))
            {
                Carry(toService, sent);
            }

            foreach (var came in Arrived(toService))
            {
                Assert.True(service.Network.TryTake(came, false));
            }

            service.Network.Tick();
            for (int length; (length = service.Network.NextFrame(frame)) > 0;)
            {
                Carry(toGuest, frame[..length]);
            }

            foreach (var came in Arrived(toGuest))
            {
                guest.Receive(GuestStack.Read(came), service.Clock.Now);
            }

            service.Clock.Now += Step;
        }

        var received = Encoding.ASCII.GetString([.. guest.Received]);
        Assert.StartsWith(received, expected.ToString(), StringComparison.Ordinal);
        Assert.True(guest.WasReset || guest.GaveUp || received.Length == expected.Length, "an orderly end in the middle of an answer");

        // Nothing stays behind for ever, wherever the guest went.
        for (var i = 0; i < 30 && service.Network.NextDeadline is { } next; i++)
        {
            service.Clock.Now += next;
            service.Network.Tick();
            while (service.Network.NextFrame(frame) > 0)
            {
            }
        }

        Assert.Null(service.Network.NextDeadline);
        return received.Length == expected.Length;

        void Carry(List<(TimeSpan, byte[])> way, byte[] sent)
        {
            for (var copies = random.Next(100) < duplication ? 2 : 1; copies > 0; copies--)
            {
                if (random.Next(100) >= loss)
                {
                    way.Add((service.Clock.Now + (random.Next(100) < delay ? Step * random.Next(1, 40) : TimeSpan.Zero), sent));
                }
            }
        }

        List<byte[]> Arrived(List<(TimeSpan At, byte[] Frame)> way)
        {
            List<byte[]> arrived = [.. way.Where(carried => carried.At <= service.Clock.Now).Select(carried => carried.Frame)];
            way.RemoveAll(carried => carried.At <= service.Clock.Now);
            return arrived;
        }
    }

    /// <summary>A guest's end: opens, sends its text in pieces, takes answers in order, closes when the service does.</summary>
    private sealed class GuestClient(Random random, byte[] text, ushort segment)
    {
        private const ushort Port = 5000;
        private readonly uint _first = (uint)random.NextInt64(1L << 32);
        private uint _expected;
        private int _acknowledged;
        private bool _open;
        private bool _finished;
        private bool _owesAcknowledgement;
        private TimeSpan _next;
        private TimeSpan _wait = TimeSpan.FromMilliseconds(300);
        private int _attempts;

        public List<byte> Received { get; } = [];

        public bool WasReset { get; private set; }

        public bool GaveUp => _attempts > 14;

        public bool IsDone => WasReset || GaveUp || (_finished && !_owesAcknowledgement);

        public List<byte[]> Send(TimeSpan now)
        {
            List<byte[]> sent = [];
            if (now >= _next)
            {
                _attempts++;
                _next = now + _wait;
                _wait = _wait * 2 < TimeSpan.FromSeconds(3) ? _wait * 2 : TimeSpan.FromSeconds(3);
                if (!_open)
                {
                    sent.Add(GuestStack.Tcp(Port, _first, 0, Syn, maximum: segment));
                }

                for (var at = _acknowledged; _open && at < text.Length;)
                {
                    var length = Math.Min(random.Next(1, 200), text.Length - at);
                    sent.Add(GuestStack.Tcp(Port, _first + 1 + (uint)at, _expected, Ack | Psh, text.AsSpan(at, length)));
                    at += length;
                }
            }

            if (_owesAcknowledgement)
            {
                _owesAcknowledgement = false;
                sent.Add(GuestStack.Tcp(Port, _first + 1 + (uint)_acknowledged, _expected, (byte)(_finished ? Ack | Fin : Ack), window: (ushort)random.Next(1, 65536)));
            }

            return sent;
        }

        public void Receive(SeenSegment seen, TimeSpan now)
        {
            if ((seen.Flags & Rst) != 0)
            {
                WasReset |= !_open || seen.Sequence == _expected;
                _owesAcknowledgement |= !WasReset;
                return;
            }

            _attempts = 0;
            if ((seen.Flags & Syn) != 0)
            {
                if (!_open)
                {
                    _open = true;
                    _expected = seen.Sequence + 1;
                    _next = now;
                    _wait = TimeSpan.FromMilliseconds(300);
                }

                _owesAcknowledgement = true;
                return;
            }

            if (!_open)
            {
                return;
            }

            var acknowledged = (int)(seen.Acknowledged - _first - 1);
            Assert.True(acknowledged <= text.Length + (_finished ? 1 : 0), "acknowledged what was not sent");
            if (acknowledged > _acknowledged)
            {
                _acknowledged = Math.Min(acknowledged, text.Length);
                _wait = TimeSpan.FromMilliseconds(300);
            }

            Assert.True(seen.Payload.Length <= segment, "a segment larger than asked for");
            if (seen.Payload.Length > 0 || (seen.Flags & Fin) != 0)
            {
                _owesAcknowledgement = true;
                var known = (int)(_expected - seen.Sequence);
                if (known >= 0 && known <= seen.Payload.Length && !_finished)
                {
                    Received.AddRange(seen.Payload.AsSpan(known));
                    _expected += (uint)(seen.Payload.Length - known);
                    if ((seen.Flags & Fin) != 0)
                    {
                        _expected++;
                        _finished = true;
                    }
                }
            }
        }
    }
}
