using System.Buffers.Binary;
using System.Net.Sockets;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Devices.Virtio.Vsock;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Tests.Api;

namespace Fleet.Vmm.Tests.Devices.Virtio.Vsock;

/// <summary>What waits for buffers of the guest.</summary>
public sealed class VsockLineTests : IDisposable
{
    private const uint Cid = 42;
    private const uint Port = 77;
    private const ushort Writes = 2;

    private readonly ScratchDirectory _files = new();
    private readonly EventLoop _loop = new();
    private readonly VirtioDriver _driver;
    private readonly VirtioSlot _slot;
    private readonly VsockDevice _device;
    private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);

    public VsockLineTests()
    {
        VsockDevice? device = null;
        VirtioSlot? slot = null;
        _driver = new VirtioDriver(memory =>
        {
            device = new VsockDevice(memory, new VsockSettings(Cid, _files.File("v")), TimeProvider.System);
            slot = new VirtioSlot(device, memory, _ => { });
            return slot.Transport;
        });
        (_device, _slot) = (device!, slot!);
        _listener.Bind(new UnixDomainSocketEndPoint($"{_files.File("v")}_{Port}"));
        _listener.Listen(10);
        _slot.Attend(_loop);
    }

    public void Dispose()
    {
        _slot.Dispose();
        _driver.Dispose();
        _loop.Dispose();
        _listener.Dispose();
        _files.Dispose();
    }

    [Fact]
    public void Should_forget_connections_that_end_while_they_wait()
    {
        _driver.Begin(queues: 3);
        for (var i = 0; i < 200; i++)
        {
            Send(VsockOperation.Request);
            _listener.Accept().Dispose();
            Assert.Equal(1, _device.Waiting);
            Send(VsockOperation.Reset);
            Assert.Equal(0, _device.Waiting);
        }
    }

    /// <summary>
    /// Answers to what the guest sent may use up a turn's buffers. The driver, which notifies only of what it was asked for,
    /// is then not the one to go on.
    /// </summary>
    [Fact]
    public void Should_go_on_when_answers_used_up_a_turn()
    {
        _driver.Begin(VirtioDevice.Version1 | VirtioDevice.EventIndex, 3);
        _driver.Descriptor(1, VirtioDriver.Data + 4096, 64, Writes);
        Offer(VirtioDriver.QueueSize);
        Send(VsockOperation.Request, room: 20);
        using var host = _listener.Accept();
        Assert.Equal(1, _driver.UsedIndex);

        // 20 bytes fit into a buffer: as soon as the guest has room for more than one, more packets than there are buffers.
        host.Send(new byte[20 * 40]);
        LoopScript.Follow(
            _loop,
            (() => _driver.UsedIndex == 2, () =>
            {
                Offer(2);
                Send(VsockOperation.CreditUpdate);
                Assert.Equal(2 + VirtioDriver.QueueSize, _driver.UsedIndex);
                Offer(VirtioDriver.QueueSize);
            }),
            (() => _driver.UsedIndex == 2 + (2 * VirtioDriver.QueueSize), () => { }));
    }

    private ushort _offered;

    // Notifies as the device asked for it.
    private void Offer(int count)
    {
        var before = _offered;
        for (var i = 0; i < count; i++)
        {
            _driver.Offer(1);
        }

        _offered += (ushort)count;
        var wanted = BinaryPrimitives.ReadUInt16LittleEndian(_driver.Memory.View(VirtioDriver.Used + 4 + (8 * VirtioDriver.QueueSize), 2));
        if ((ushort)(_offered - wanted - 1) < (ushort)(_offered - before))
        {
            _slot.Process(0);
        }
    }

    private void Send(VsockOperation operation, uint room = 65536)
    {
        new VsockHeader(Cid, 2, 1000, Port, 0, VsockHeader.Stream, operation, 0, room, 0).Write(_driver.Memory.Slice(VirtioDriver.Data, VsockHeader.Size));
        _driver.Descriptor(0, VirtioDriver.Data, VsockHeader.Size);
        _driver.Offer(0, queue: 1);
        _slot.Process(1);
    }
}
