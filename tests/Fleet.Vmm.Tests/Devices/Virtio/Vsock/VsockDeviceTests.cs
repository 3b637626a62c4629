using System.Net.Sockets;
using System.Text;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Devices.Virtio.Vsock;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Tests.Api;
using Xunit;

namespace Fleet.Vmm.Tests.Devices.Virtio.Vsock;

/// <summary>Real Unix sockets at one end, a guest's driver at the other, the event loop between.</summary>
public sealed class VsockDeviceTests : IDisposable
{
    private const ushort Next = 1;
    private const ushort Writes = 2;
    private const uint Cid = 42;
    private const int Buffers = 8;

    private readonly ScratchDirectory _files = new();
    private readonly EventLoop _loop = new();
    private readonly VirtioDriver _driver;
    private readonly VirtioSlot _slot;
    private readonly VsockDevice _device;
    private readonly string _path;
    private int _seen;
    private readonly List<(VsockHeader Header, byte[] Data)> _packets = [];

    public VsockDeviceTests()
    {
        _path = _files.File("v.sock");
        VsockDevice? device = null;
        VirtioSlot? slot = null;
        _driver = new VirtioDriver(memory =>
        {
            device = new VsockDevice(memory, new VsockSettings(Cid, _path), TimeProvider.System, TimeSpan.FromMilliseconds(300));
            slot = new VirtioSlot(device, memory, _ => { });
            return slot.Transport;
        });
        (_device, _slot) = (device!, slot!);
        Begin();
        _slot.Attend(_loop);
    }

    public void Dispose()
    {
        _slot.Dispose();
        _driver.Dispose();
        _loop.Dispose();
        Assert.False(File.Exists(_path));
        _files.Dispose();
    }

    [Fact]
    public void Should_carry_a_connection_from_the_host()
    {
        using var client = Client();
        client.Send("connect 52\nearly"u8);
        var got = "";
        LoopScript.Follow(
            _loop,
            (() => Received(VsockOperation.Request), () =>
            {
                Assert.Equal((2ul, (ulong)Cid, 1u << 30, 52u), (Last.SourceCid, Last.TargetCid, Last.SourcePort, Last.TargetPort));
                Send(VsockOperation.Response, 52, 1u << 30);
            }),
            (() => Received(VsockOperation.Data), () =>
            {
                Assert.Equal("early", Encoding.ASCII.GetString(_packets[^1].Data));
                Send(VsockOperation.Data, 52, 1u << 30, data: "answer"u8);
                Send(VsockOperation.Shutdown, 52, 1u << 30, flags: 3);
            }),
            (() => Received(VsockOperation.Reset), () => got = ReadAll(client)));
        Assert.Equal("OK 1073741824\nanswer", got);
    }

    [Fact]
    public void Should_carry_a_connection_from_the_guest_and_each_half_of_its_end()
    {
        using var listener = Listen(77);
        Socket? host = null;
        var got = "";
        Send(VsockOperation.Request, 1000, 77);
        LoopScript.Follow(
            _loop,
            (() => Received(VsockOperation.Response), () =>
            {
                host = listener.Accept();
                Send(VsockOperation.Data, 1000, 77, data: "question"u8);
                Send(VsockOperation.Shutdown, 1000, 77, flags: 2);
            }),
            (() => true, () =>
            {
                // The guest sends no more, and still hears the answer.
                got = ReadAll(host!);
                host!.Send("the answer"u8);
                host.Shutdown(SocketShutdown.Send);
            }),
            (() => Received(VsockOperation.Reset), () => { }));
        Assert.Equal("question", got);
        Assert.Equal("the answer", Encoding.ASCII.GetString(_packets[^2].Data));
        host!.Dispose();
    }

    [Fact]
    public void Should_reset_what_nobody_listens_to_and_what_it_does_not_know()
    {
        Send(VsockOperation.Request, 1000, 78);
        Send(VsockOperation.Data, 1001, 79, data: "x"u8);
        Send(VsockOperation.Request, 1002, 80, type: 2);
        Send(VsockOperation.Reset, 1003, 81);
        LoopScript.Follow(_loop, (() => Collect() == 3, () => { }));
        Assert.All(_packets, packet => Assert.Equal(VsockOperation.Reset, packet.Header.Operation));
        Assert.Equal([1000u, 1001u, 1002u], _packets.Select(packet => packet.Header.TargetPort));
    }

    [Fact]
    public void Should_wait_for_a_guest_that_has_no_room()
    {
        using var client = Client();
        client.Send(Encoding.ASCII.GetBytes("CONNECT 52\n" + new string('a', 1000)));
        LoopScript.Follow(
            _loop,
            (() => Received(VsockOperation.Request), () => Send(VsockOperation.Response, 52, 1u << 30, bufferSize: 300)),
            (() => Received(VsockOperation.Data), () =>
            {
                Assert.Equal(300, _packets[^1].Data.Length);
                Send(VsockOperation.CreditUpdate, 52, 1u << 30, bufferSize: 300, forwarded: 200);
            }),
            (() => Received(VsockOperation.Data), () =>
            {
                Assert.Equal(200, _packets[^1].Data.Length);
                Send(VsockOperation.CreditUpdate, 52, 1u << 30, bufferSize: 5000, forwarded: 500);
            }),
            (() => Received(VsockOperation.Data), () => Assert.Equal(500, _packets[^1].Data.Length)));
    }

    [Fact]
    public void Should_hold_what_the_host_does_not_read_and_end_a_guest_that_sends_more_than_it_may()
    {
        using var listener = Listen(77);
        listener.ReceiveBufferSize = 4096;
        Socket? host = null;
        var sent = 0;
        Send(VsockOperation.Request, 1000, 77);
        LoopScript.Follow(
            _loop,
            (() => Received(VsockOperation.Response), () => host = listener.Accept()),
            (() =>
            {
                // Never reads: the socket's buffer fills, then ours, then it is too much.
                Send(VsockOperation.Data, 1000, 77, data: new byte[4000]);
                sent += 4000;
                return Received(VsockOperation.Reset);
            }, () => { }));
        Assert.InRange(sent, (int)VsockDevice.LargeBuffer, 2_000_000);
        host!.Dispose();
    }

    [Fact]
    public void Should_promise_much_room_to_the_first_connections_alone()
    {
        using var listener = Listen(77);
        for (uint i = 0; i < 18; i++)
        {
            Send(VsockOperation.Request, 1000 + i, 77);
            Collect();
        }

        Assert.Equal([.. Enumerable.Repeat(VsockDevice.LargeBuffer, 16), VsockFlow.SmallBuffer, VsockFlow.SmallBuffer], _packets.Select(packet => packet.Header.BufferSize));
    }

    [Fact]
    public void Should_send_clients_away_that_ask_for_nothing()
    {
        using var silent = Client();
        using var odd = Client();
        using var hopeless = Client();
        odd.Send("GET / HTTP/1.1\n"u8);
        hopeless.Send("CONNECT 52\n"u8);
        var resets = 0;
        LoopScript.Follow(
            _loop,
            (() => Ended(odd), () => Assert.Empty(ReadAll(odd))),
            (() => Ended(silent), () => { }),
            (() => Ended(hopeless) && Received(VsockOperation.Reset), () => resets++));
        Assert.Equal(1, resets);
    }

    [Fact]
    public void Should_let_go_of_everything_with_its_driver_and_after_a_restore()
    {
        using var client = Client();
        client.Send("CONNECT 52\n"u8);
        Socket? second = null;
        LoopScript.Follow(
            _loop,
            (() => Received(VsockOperation.Request), () => Send(VsockOperation.Response, 52, 1u << 30)),
            (() => client.Available > 0, () => _driver.Write(0x70, 0)),
            (() => Ended(client), () =>
            {
                Begin();
                second = Client();
                second.Send("CONNECT 53\n"u8);
            }),
            (() => Received(VsockOperation.Request), () =>
            {
                _driver.Descriptor(15, VirtioDriver.Data + 0x9000, 4, Writes);
                _driver.Memory.Slice(VirtioDriver.Data + 0x9000, 4).Fill(0xff);
                _device.ResetConnections();
                _driver.Offer(15, queue: 2);
                _slot.Wake();
            }),
            (() => Ended(second!) && _driver.UsedIndexOf(2) == 1, () => { }));
        Assert.Equal(new byte[4], _driver.Memory.Slice(VirtioDriver.Data + 0x9000, 4).ToArray());
        second!.Dispose();
    }

    private VsockHeader Last => _packets[^1].Header;

    private void Begin()
    {
        _driver.Begin(queues: 3);
        _seen = 0;
        for (ushort i = 0; i < Buffers; i++)
        {
            _driver.Descriptor(i, VirtioDriver.Data + (0x1000ul * i), 0x1000, Writes);
            _driver.Offer(i);
        }

        _slot.Wake();
    }

    private void Send(
        VsockOperation operation, uint from, uint to, uint flags = 0, ReadOnlySpan<byte> data = default, uint bufferSize = 65536, uint forwarded = 0, ushort type = 1)
    {
        // Served at once, so the place can be used again.
        var at = VirtioDriver.Data + 0x8000;
        new VsockHeader(Cid, 2, from, to, (uint)data.Length, type, operation, flags, bufferSize, forwarded).Write(_driver.Memory.Slice(at, VsockHeader.Size));
        data.CopyTo(_driver.Memory.Slice(at + VsockHeader.Size, data.Length));
        _driver.Descriptor(14, at, VsockHeader.Size, data.IsEmpty ? (ushort)0 : Next, 13);
        _driver.Descriptor(13, at + VsockHeader.Size, (uint)data.Length);
        _driver.Offer(14, queue: 1);
        _ = _slot.Process(1);
    }

    // Takes what came for the guest and offers the buffers again; how many packets came so far.
    private int Collect()
    {
        while (_seen != _driver.UsedIndex)
        {
            var (head, written) = _driver.UsedEntry(_seen++);
            var bytes = _driver.Memory.Slice(VirtioDriver.Data + (0x1000ul * head), (int)written);
            _packets.Add((VsockHeader.Read(bytes), bytes[VsockHeader.Size..].ToArray()));
            Assert.Equal((uint)_packets[^1].Data.Length, Last.Length);
            _driver.Offer((ushort)head);
            _slot.Wake();
        }

        return _packets.Count;
    }

    private bool Received(VsockOperation operation)
    {
        var before = _packets.Count;
        return Collect() > before && Last.Operation == operation;
    }

    private Socket Client()
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveTimeout = 10_000 };
        socket.Connect(new UnixDomainSocketEndPoint(_path));
        return socket;
    }

    private Socket Listen(uint port)
    {
        var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint($"{_path}_{port}"));
        listener.Listen();
        return listener;
    }

    private static bool Ended(Socket socket) => socket.Poll(0, SelectMode.SelectRead);

    private static string ReadAll(Socket socket)
    {
        var text = new StringBuilder();
        var buffer = new byte[4096];
        for (int got; (got = socket.Receive(buffer)) > 0;)
        {
            text.Append(Encoding.ASCII.GetString(buffer, 0, got));
        }

        return text.ToString();
    }
}
