using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Tests.Devices.Virtio;
using Xunit;
using static Fleet.Vmm.Tests.Metadata.SeenSegment;

namespace Fleet.Vmm.Tests.Metadata;

/// <summary>The service behind a network device, spoken to through its queues.</summary>
public sealed class NetDeviceTests : IDisposable
{
    private const int Rx = 0;
    private const int Tx = 1;
    private const ushort Next = 1;
    private const ushort Writes = 2;
    private const ulong Merges = VirtioDevice.Version1 | (1 << 15);
    private const int Header = NetDevice.HeaderSize;
    // Both queues have one table of descriptors.
    private const ushort Sending = 8;
    private const ulong Buffers = VirtioDriver.Data + 0x8000;

    private readonly Service _service = new();
    private readonly SilentPort _port = new();
    private readonly VirtioDriver _driver;
    private int _received;

    public NetDeviceTests()
    {
        var unlimited = new LimiterSettings(null, null);
        _driver = new VirtioDriver(memory => new NetDevice(
            memory, new NetworkSettings("e", "tap0", null, null, unlimited, unlimited), _port, _service.Clock, _service.Network));
        _driver.Begin(Merges, queues: 2);
    }

    public void Dispose() => _driver.Dispose();

    [Fact]
    public void Should_answer_a_request_through_the_queues_and_keep_it_from_the_host()
    {
        OfferBuffer(0);
        Send(GuestStack.Tcp(9, 100, 0, Syn), partial: false);
        var opened = Received();
        Assert.True(opened.Is(Syn | Ack));

        // The sum is left to the device, and the frame comes in pieces.
        var request = GuestStack.Tcp(9, 101, opened.Sequence + 1, Ack | Psh, "GET /latest/meta-data/ami-id HTTP/1.1\r\n\r\n"u8);
        request[50] = request[51] = 0x55;
        OfferBuffer(1);
        Send(request, partial: true);
        Assert.EndsWith("ami-1", System.Text.Encoding.ASCII.GetString(Received().Payload), StringComparison.Ordinal);
        Assert.Equal(0, _port.Sent);
        Assert.Equal(2, _driver.UsedIndexOf(Tx));
    }

    [Fact]
    public void Should_keep_an_answer_until_there_is_a_buffer_and_send_it_again_in_time()
    {
        Send(GuestStack.Tcp(9, 100, 0, Syn), partial: false);
        Assert.Equal(0, _driver.UsedIndexOf(Rx));
        OfferBuffer(0);
        _driver.Transport.Process(Rx);
        var opened = Received();
        Assert.True(opened.Is(Syn | Ack));
        Assert.Equal(TimeSpan.FromMilliseconds(400), _driver.Again[^1]);
        OfferBuffer(1);
        _service.Clock.Now += _driver.Again[^1];
        _driver.Transport.Process(Rx);
        Assert.Equal(opened, Received() with { Payload = opened.Payload });
    }

    [Fact]
    public void Should_let_all_else_pass()
    {
        var frame = GuestStack.Tcp(9, 100, 0, Syn);
        frame[33]++;
        Send(frame, partial: false);
        Send(frame[..20], partial: false);
        Assert.Equal(2, _port.Sent);
        Assert.Equal(0, _driver.UsedIndexOf(Rx));
    }

    [Fact]
    public void Should_allocate_nothing_for_a_frame()
    {
        OfferBuffer(0);
        Send(GuestStack.Tcp(9, 100, 0, Syn), partial: false);
        var opened = Received();
        Send(GuestStack.Tcp(9, 101, opened.Sequence + 1, Ack), partial: false);
        Place(GuestStack.Tcp(9, 50, opened.Sequence + 1, Ack, "G"u8), partial: false);
        for (ushort i = 1; i < 5; i++)
        {
            OfferBuffer(i);
        }

        _driver.Transport.Process(Tx);
        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < 3; i++)
        {
            _driver.Offer(Sending, Tx);
            _driver.Transport.Process(Tx);
        }

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
        Assert.Equal(4, _driver.UsedIndexOf(Rx));
    }

    private void OfferBuffer(ushort index)
    {
        _driver.Descriptor(index, Buffers + (0x800ul * index), 0x800, Writes);
        _driver.Offer(index, Rx);
    }

    private void Send(byte[] frame, bool partial)
    {
        Place(frame, partial);
        _driver.Notify(Sending, Tx);
    }

    private void Place(byte[] frame, bool partial)
    {
        var stride = (int)VirtioDriver.QueueStride;
        Assert.True(Header + frame.Length < stride);
        var memory = _driver.Memory.Slice(VirtioDriver.Data, stride);
        memory.Clear();
        memory[0] = partial ? (byte)1 : (byte)0;
        frame.CopyTo(memory[Header..]);
        _driver.Descriptor(Sending, VirtioDriver.Data, Header, Next, Sending + 1);
        _driver.Descriptor(Sending + 1, VirtioDriver.Data + Header, 14, Next, Sending + 2);
        _driver.Descriptor(Sending + 2, VirtioDriver.Data + Header + 14, (uint)frame.Length - 14);
    }

    private SeenSegment Received()
    {
        Assert.True(_driver.UsedIndexOf(Rx) > _received, "nothing was received");
        var (head, written) = _driver.UsedEntry(_received++, Rx);
        var frame = _driver.Memory.Slice(Buffers + (0x800ul * head), (int)written);
        Assert.Equal([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], frame[..Header].ToArray());
        return GuestStack.Read(frame[Header..]);
    }

    /// <summary>A host from which nothing comes.</summary>
    private sealed class SilentPort : INetworkPort
    {
        public int Sent { get; private set; }

        public int Descriptor => -1;

        public void SetOffloads(NetworkOffloads offloads)
        {
        }

        public int Receive(Span<byte> frame) => 0;

        public bool Send(ReadOnlySpan<GuestBuffer> buffers)
        {
            Sent++;
            return true;
        }

        public void Dispose()
        {
        }
    }
}
