using System.Text;
using Fleet.Vmm.Metadata;
using Xunit;
using static Fleet.Vmm.Tests.Metadata.SeenSegment;

namespace Fleet.Vmm.Tests.Metadata;

/// <summary>Segment by segment.</summary>
public class TcpTests
{
    private const ushort Port = 40000;
    // Numbers wrap around soon.
    private static readonly uint First = 0xfffffff0;

    private readonly Service _service = new();

    private MetadataNetwork Network => _service.Network;

    [Fact]
    public void Should_tell_its_address()
    {
        byte[] request =
        [
            .. Enumerable.Repeat((byte)255, 6), .. GuestStack.Mac, 8, 6,
            0, 1, 8, 0, 6, 4, 0, 1, .. GuestStack.Mac, 169, 254, 0, 1, 0, 0, 0, 0, 0, 0, 169, 254, 169, 254,
        ];
        Assert.True(Network.TryTake(request, false));
        var frame = new byte[MetadataNetwork.LargestFrame];
        Assert.Equal(42, Network.NextFrame(frame));
        Assert.Equal(
            [.. GuestStack.Mac, .. GuestStack.ServiceMac, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, .. GuestStack.ServiceMac, 169, 254, 169, 254, .. GuestStack.Mac, 169, 254, 0, 1],
            frame[..42]);
        Assert.False(Network.HasFrames);
        request[41] = 253;
        Assert.False(Network.TryTake(request, false));
        request[41] = 254;
        request[20] = 9;
        Assert.True(Network.TryTake(request, false));
        Assert.False(Network.HasFrames);
        Assert.Equal(1ul, _service.Count(MetadataCount.BadEthernet));
    }

    [Fact]
    public void Should_answer_a_request_and_close_when_the_guest_does()
    {
        var base_ = Open();
        Send(0, base_, Ack, "GET /latest/meta-data/ami-id HTTP/1.1\r\n\r\n");
        var answer = Next();
        Assert.Equal(Ack | Psh, answer.Flags);
        Assert.EndsWith("\r\n\r\nami-1", Encoding.ASCII.GetString(answer.Payload), StringComparison.Ordinal);
        Assert.Equal(First + 1 + 41, answer.Acknowledged);
        None();
        Send(41, base_ + (uint)answer.Payload.Length, Ack | Fin);
        var fin = Next();
        Assert.True(fin.Is(Ack | Fin));
        Assert.Equal(First + 43, fin.Acknowledged);
        Send(42, fin.Sequence + 1, Ack);
        None();
        Assert.Equal((1ul, 1ul), (_service.Count(MetadataCount.ConnectionsCreated), _service.Count(MetadataCount.ConnectionsDestroyed)));
        Assert.Null(Network.NextDeadline);
    }

    [Fact]
    public void Should_close_by_itself_when_the_guest_wants_one_answer_only()
    {
        var base_ = Open();
        Send(0, base_, Ack, "GET /latest/meta-data/ami-id HTTP/1.0\r\n\r\n");
        var answer = Next();
        Assert.True(answer.Is(Ack | Fin));
        Send(41, answer.Sequence + (uint)answer.Payload.Length + 1, Ack);
        None();
        Send(41, answer.Sequence + (uint)answer.Payload.Length + 1, Ack | Fin);
        Assert.True(Next().Is(Ack));
        None();
        Assert.Equal(1ul, _service.Count(MetadataCount.ConnectionsDestroyed));
    }

    [Fact]
    public void Should_give_up_a_guest_that_never_closes_its_end()
    {
        var base_ = Open();
        Send(0, base_, Ack, "GET / HTTP/1.0\r\n\r\n");
        var answer = Next();
        Send(18, answer.Sequence + (uint)answer.Payload.Length + 1, Ack);
        _service.Clock.Now += Network.NextDeadline!.Value;
        Network.Tick();
        Assert.True(Next().Is(Rst | Ack));
        Assert.Equal(1ul, _service.Count(MetadataCount.ConnectionsDestroyed));
    }

    [Fact]
    public void Should_put_a_request_together_and_answer_several_in_order()
    {
        var base_ = Open();
        var text = "GET /latest/meta-data/ami-id HTTP/1.1\r\n\r\nGET /no HTTP/1.1\r\n\r\n";
        for (var i = 0; i < text.Length; i++)
        {
            Send((uint)i, base_, Ack, text[i..(i + 1)]);
        }

        var one = Next();
        Assert.Contains("200 OK", Encoding.ASCII.GetString(one.Payload), StringComparison.Ordinal);
        None();
        Send((uint)text.Length, base_ + (uint)one.Payload.Length, Ack);
        Assert.Contains("404 Not Found", Encoding.ASCII.GetString(Next().Payload), StringComparison.Ordinal);
    }

    [Fact]
    public void Should_ask_for_what_is_missing()
    {
        var base_ = Open();
        Send(10, base_, Ack, "later");
        Assert.Equal(First + 1, Next().Acknowledged);
        Send(0, base_, Ack, "GET / HTTP/");
        Assert.Equal(First + 12, Next().Acknowledged);

        // Partly known already.
        Send(5, base_, Ack, " HTTP/1.1\r\n\r\n");
        Assert.Contains("200 OK", Encoding.ASCII.GetString(Next().Payload), StringComparison.Ordinal);
    }

    [Fact]
    public void Should_send_again_what_was_not_acknowledged_and_give_up_at_last()
    {
        var base_ = Open();
        Send(0, base_, Ack, "GET / HTTP/1.1\r\n\r\n");
        var answer = Next();
        List<double> waits = [];
        while (true)
        {
            var wait = Network.NextDeadline!.Value;
            waits.Add(wait.TotalMilliseconds);
            _service.Clock.Now += wait - TimeSpan.FromTicks(1);
            Network.Tick();
            None();
            _service.Clock.Now += TimeSpan.FromTicks(1);
            Network.Tick();
            var again = Next();
            if (again.Is(Rst | Ack))
            {
                break;
            }

            Assert.Equal(answer.Payload, again.Payload);
            Assert.Equal(answer.Sequence, again.Sequence);
        }

        Assert.Equal([400, 800, 1600, 3200, 5000, 5000, 5000, 5000, 5000, 5000], waits);
        Assert.Equal(1ul, _service.Count(MetadataCount.ConnectionsDestroyed));
        None();
    }

    [Fact]
    public void Should_keep_to_the_guests_window_and_ask_for_its_opening()
    {
        var service = new Service(document: $"\"{new string('x', 3000)}\"");
        var network = service.Network;
        var base_ = Open(network, window: 1000);
        network.TryTake(GuestStack.Tcp(Port, First + 1, base_, Ack, "GET / HTTP/1.1\r\n\r\n"u8, window: 1000), false);
        var one = GuestStack.Next(network)!.Value;
        Assert.Equal(1000, one.Payload.Length);
        Assert.Null(GuestStack.Next(network));
        network.TryTake(GuestStack.Tcp(Port, First + 19, base_ + 1000, Ack, window: 0), false);
        Assert.Null(GuestStack.Next(network));
        for (var i = 0; i < 20; i++)
        {
            // The window stays closed, but the guest lives: as long as it answers it is asked.
            service.Clock.Now += network.NextDeadline!.Value;
            network.Tick();
            var probe = GuestStack.Next(network)!.Value;
            Assert.Equal((base_ + 1000, 1), (probe.Sequence, probe.Payload.Length));
            network.TryTake(GuestStack.Tcp(Port, First + 19, base_ + 1000, Ack, window: 0), false);
            Assert.Null(GuestStack.Next(network));
        }

        network.TryTake(GuestStack.Tcp(Port, First + 19, base_ + 1000, Ack, window: 65535), false);
        var two = GuestStack.Next(network)!.Value;
        Assert.Equal((base_ + 1000, 1460), (two.Sequence, two.Payload.Length));
        Assert.NotNull(GuestStack.Next(network));
        Assert.Null(GuestStack.Next(network));
    }

    [Fact]
    public void Should_ask_for_the_opening_of_a_window_that_came_closed_with_the_request()
    {
        var base_ = Open();
        Take(GuestStack.Tcp(Port, First + 1, base_, Ack, "GET / HTTP/1.1\r\n\r\n"u8, window: 0));
        Assert.Empty(Next().Payload);
        None();
        _service.Clock.Now += Network.NextDeadline!.Value;
        Network.Tick();
        Assert.Equal((base_, 1), (Next() is var probe ? probe.Sequence : 0, probe.Payload.Length));
    }

    [Fact]
    public void Should_keep_to_the_guests_segment_size()
    {
        var service = new Service(document: $"\"{new string('x', 3000)}\"");
        foreach (var (told, size) in new[] { (0, 536), (200, 200), (9000, 1460) })
        {
            var port = (ushort)(Port + told);
            var base_ = Open(service.Network, port, maximum: (ushort)told);
            service.Network.TryTake(GuestStack.Tcp(port, First + 1, base_, Ack, "GET / HTTP/1.1\r\n\r\n"u8), false);
            Assert.Equal(size, GuestStack.Next(service.Network)!.Value.Payload.Length);
            while (GuestStack.Next(service.Network) is not null)
            {
            }
        }
    }

    [Fact]
    public void Should_reset_what_it_does_not_know()
    {
        Take(GuestStack.Tcp(Port, 7, 9, Ack, "data"u8));
        var reset = Next();
        Assert.True(reset.Is(Rst));
        Assert.Equal(9u, reset.Sequence);
        Take(GuestStack.Tcp(Port, 7, 0, Syn, to: 81));
        Assert.Equal((true, 8u), (Next() is var closed && closed.Is(Rst | Ack), closed.Acknowledged));
        Take(GuestStack.Tcp(Port, 7, 9, Syn | Ack));
        Assert.True(Next().Is(Rst));
        Take(GuestStack.Tcp(Port, 7, 0, Syn, maximum: 99));
        Assert.True(Next().Is(Rst | Ack));
        Take(GuestStack.Tcp(Port, 7, 9, Rst));
        None();
        for (ushort i = 0; i < 100; i++)
        {
            Take(GuestStack.Tcp(i, 7, 9, Ack));
        }

        for (var i = 0; i < 32; i++)
        {
            Assert.True(Next().Is(Rst));
        }

        None();
        Assert.Equal(68ul, _service.Count(MetadataCount.SendFailures));
    }

    [Fact]
    public void Should_believe_only_a_reset_that_is_exact()
    {
        var base_ = Open();
        Take(GuestStack.Tcp(Port, First + 100, base_, Rst));
        Assert.True(Next().Is(Ack));
        Take(GuestStack.Tcp(Port, First - 100000, base_, Rst));
        None();
        Take(GuestStack.Tcp(Port, First + 5, 0, Syn));
        Assert.True(Next().Is(Ack));
        Assert.Equal(0ul, _service.Count(MetadataCount.ConnectionsDestroyed));
        Take(GuestStack.Tcp(Port, First + 1, base_, Rst));
        None();
        Assert.Equal(1ul, _service.Count(MetadataCount.ConnectionsDestroyed));
    }

    [Fact]
    public void Should_ignore_acknowledgements_of_what_was_never_sent()
    {
        var base_ = Open();
        Send(0, base_ + 1, Ack, "GET / HTTP/1.1\r\n\r\n");
        var seen = Next();
        Assert.True(seen.Is(Ack));
        Assert.Equal((0, First + 1), (seen.Payload.Length, seen.Acknowledged));
    }

    [Fact]
    public void Should_end_the_longest_silent_connection_when_a_new_one_needs_its_place()
    {
        for (var i = 0; i < MetadataNetwork.MostConnections; i++)
        {
            Open(Network, (ushort)(Port + i));
        }

        Take(GuestStack.Tcp(1, 7, 0, Syn));
        None();
        _service.Clock.Now += TimeSpan.FromMilliseconds(300);
        for (var i = 1; i < MetadataNetwork.MostConnections; i++)
        {
            Take(GuestStack.Tcp((ushort)(Port + i), First, 0, Ack));
            Assert.True(Next().Is(Ack));
        }

        _service.Clock.Now += TimeSpan.FromMilliseconds(200);
        Take(GuestStack.Tcp(1, 7, 0, Syn));
        var reset = Next();
        Assert.Equal((Port, true), (reset.Port, reset.Is(Rst | Ack)));
        Assert.Equal((1, true), (Next() is var opened ? opened.Port : 0, opened.Is(Syn | Ack)));
        Take(GuestStack.Tcp(2, 7, 0, Syn));
        None();
    }

    [Fact]
    public void Should_check_sums_but_where_the_guest_left_them_out()
    {
        var syn = GuestStack.Tcp(Port, First, 0, Syn);
        syn[^1] ^= 1;
        Take(syn);
        None();
        Take(syn, checksumIsPartial: true);
        Assert.True(Next().Is(Syn | Ack));
        syn[24] ^= 1;
        Take(syn, checksumIsPartial: true);
        None();
        Assert.Equal(2ul, _service.Count(MetadataCount.AcceptedWithError));
    }

    [Fact]
    public void Should_swallow_everything_for_its_address_and_nothing_else()
    {
        var frame = GuestStack.Tcp(Port, First, 0, Syn);
        frame[23] = 17;
        GuestStack.Seal(frame);
        Take(frame);
        frame = GuestStack.Tcp(Port, First, 0, Syn);
        frame[20] = 0x20;
        GuestStack.Seal(frame);
        Take(frame);
        Assert.Equal(2ul, _service.Count(MetadataCount.AcceptedUnusual));
        Take([.. frame.AsSpan(0, 34)]);
        None();
        frame[33] ^= 1;
        Assert.False(Network.TryTake(frame, false));
        Assert.False(Network.TryTake(new byte[13], false));
        Assert.False(Network.TryTake([], false));
        frame[33] ^= 1;
        frame[12] = 0x86;
        Assert.False(Network.TryTake(frame, false));
    }

    [Fact]
    public void Should_allocate_nothing_for_a_segment()
    {
        var service = new Service(document: $"\"{new string('x', 40000)}\"");
        var network = service.Network;
        var base_ = Open(network);
        network.TryTake(GuestStack.Tcp(Port, First + 1, base_, Ack, "GET / HTTP/1.1\r\n\r\n"u8), false);
        var frame = new byte[MetadataNetwork.LargestFrame];
        var stale = GuestStack.Tcp(Port, First + 1, base_, Ack, "G"u8);
        var acknowledgements = Enumerable.Range(0, 20).Select(i => GuestStack.Tcp(Port, First + 19, base_ + 1460u * (uint)i, Ack)).ToArray();
        Exchange(acknowledgements[0]);
        var before = GC.GetAllocatedBytesForCurrentThread();
        foreach (var acknowledgement in acknowledgements)
        {
            Exchange(acknowledgement);
        }

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);

        void Exchange(byte[] acknowledgement)
        {
            network.TryTake(acknowledgement, false);
            network.TryTake(stale, false);
            while (network.HasFrames)
            {
                _ = network.NextFrame(frame);
            }

            _ = network.NextDeadline;
            network.Tick();
        }
    }

    private uint Open() => Open(Network);

    // Sequence number of the first byte that the service will send.
    private static uint Open(MetadataNetwork network, ushort port = Port, ushort window = 65535, ushort maximum = 1460)
    {
        Assert.True(network.TryTake(GuestStack.Tcp(port, First, 0, Syn, window: window, maximum: maximum), false));
        var frame = new byte[MetadataNetwork.LargestFrame];
        var length = network.NextFrame(frame);
        var answer = GuestStack.Read(frame.AsSpan(0, length));
        Assert.True(answer.Is(Syn | Ack));
        Assert.Equal(First + 1, answer.Acknowledged);
        Assert.Equal([2, 4, 1460 >> 8, 1460 & 255], frame[54..58]);
        network.TryTake(GuestStack.Tcp(port, First + 1, answer.Sequence + 1, Ack, window: window), false);
        Assert.Null(GuestStack.Next(network));
        return answer.Sequence + 1;
    }

    private void Send(uint offset, uint acknowledged, byte flags, string text = "") =>
        Take(GuestStack.Tcp(Port, First + 1 + offset, acknowledged, flags, Encoding.ASCII.GetBytes(text)));

    private void Take(byte[] frame, bool checksumIsPartial = false) => Assert.True(Network.TryTake(frame, checksumIsPartial));

    private SeenSegment Next() => GuestStack.Next(Network) ?? throw new Xunit.Sdk.XunitException("no segment");

    private void None() => Assert.Null(GuestStack.Next(Network));
}
