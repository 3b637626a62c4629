using CsCheck;
using Fleet.Vmm.Devices.Virtio.Vsock;

namespace Fleet.Vmm.Tests.Devices.Virtio.Vsock;

public class VsockFlowTests
{
    [Fact]
    public void Should_send_no_more_than_the_guest_has_room_for()
    {
        var flow = VsockFlow.FromGuest(Packet(VsockOperation.Request, bufferSize: 100));
        Assert.Equal(0u, flow.Credit);
        Assert.Equal((VsockOperation.Response, 0u), flow.TakeDue());
        Assert.Equal(100u, flow.Credit);
        flow.Send(70);
        Assert.Equal(30u, flow.Credit);
        Assert.Equal(VsockVerdict.Noted, flow.Take(Packet(VsockOperation.CreditUpdate, bufferSize: 100, forwarded: 50)));
        Assert.Equal(80u, flow.Credit);

        // One that says it took what it was never sent gets nothing.
        flow.Take(Packet(VsockOperation.CreditUpdate, bufferSize: 100, forwarded: 71));
        Assert.Equal(0u, flow.Credit);
    }

    [Fact]
    public void Should_tell_the_guest_of_room_before_it_has_to_stop()
    {
        var flow = VsockFlow.FromGuest(Packet(VsockOperation.Request));
        _ = flow.TakeDue();
        Assert.Equal(VsockVerdict.Data, flow.Take(Packet(VsockOperation.Data, length: 30_000)));
        flow.Forward(30_000);
        Assert.False(flow.HasDue);
        Assert.Equal(VsockVerdict.Data, flow.Take(Packet(VsockOperation.Data, length: 30_000)));
        flow.Forward(100);
        Assert.Equal((VsockOperation.CreditUpdate, 0u), flow.TakeDue());
        Assert.Equal(30_100u, flow.TellForwarded());
        Assert.False(flow.HasDue);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(99)]
    public void Should_end_a_connection_that_is_told_what_makes_no_sense(int operation)
    {
        var flow = VsockFlow.FromGuest(Packet(VsockOperation.Request));
        _ = flow.TakeDue();
        Assert.Equal(VsockVerdict.Refused, flow.Take(Packet((VsockOperation)operation)));
        Assert.Equal((VsockOperation.Reset, 0u), flow.TakeDue());
        Assert.True(flow.HasEnded);
    }

    [Fact]
    public void Should_refuse_more_than_it_promised_and_what_comes_behind_the_end()
    {
        var flow = VsockFlow.FromGuest(Packet(VsockOperation.Request));
        _ = flow.TakeDue();
        Assert.Equal(VsockVerdict.Data, flow.Take(Packet(VsockOperation.Data, length: VsockFlow.SmallBuffer)));
        Assert.Equal(VsockVerdict.Refused, flow.Take(Packet(VsockOperation.Data, length: 1)));
        flow = VsockFlow.FromGuest(Packet(VsockOperation.Request));
        _ = flow.TakeDue();
        Assert.Equal(VsockVerdict.GuestShut, flow.Take(Packet(VsockOperation.Shutdown, flags: 2)));
        Assert.Equal(VsockVerdict.Refused, flow.Take(Packet(VsockOperation.Data, length: 1)));
    }

    /// <summary>Whatever the guest sends in whatever order: never more is held than promised, never more sent than there is room for.</summary>
    [Fact]
    public void Should_keep_its_bounds_whatever_comes()
    {
        var packet = Gen.Select(
            Gen.OneOf(Gen.UShort[0, 8], Gen.UShort), Gen.OneOf(Gen.UInt[0, 70_000], Gen.UInt), Gen.UInt[0, 4], Gen.OneOf(Gen.UInt[0, 100_000], Gen.UInt), Gen.OneOf(Gen.UInt[0, 100_000], Gen.UInt));
        Gen.Select(packet, Gen.Int[0, 5], Gen.UInt[0, 70_000]).Array[1, 60].Select(Gen.Bool).Sample(
            (steps, fromHost) =>
            {
                var flow = fromHost ? VsockFlow.FromHost() : VsockFlow.FromGuest(Packet(VsockOperation.Request));
                foreach (var ((operation, length, flags, buffer, forwarded), what, amount) in steps)
                {
                    switch (what)
                    {
                        case 0 when flow.HasDue: _ = flow.TakeDue(); break;
                        case 1: flow.Forward(Math.Min(amount, flow.Held)); break;
                        case 2:
                            var room = flow.Credit;
                            Assert.True(room == 0 || flow.IsConnected);
                            flow.Send(Math.Min(amount, room));
                            Assert.Equal(room - Math.Min(amount, room), flow.Credit);
                            break;
                        case 3: flow.ShutHost((VsockShutdown)flags & VsockShutdown.Both); break;
                        default: _ = flow.Take(Packet((VsockOperation)operation, buffer, forwarded, length, flags)); break;
                    }

                    Assert.True(flow.Held <= VsockFlow.SmallBuffer);
                    if (flow.HasEnded)
                    {
                        Assert.Equal(0u, flow.Credit);
                        return;
                    }
                }
            },
            iter: 5_000);
    }

    private static VsockHeader Packet(VsockOperation operation, uint bufferSize = 1000, uint forwarded = 0, uint length = 0, uint flags = 0) =>
        new(3, 2, 5, 6, length, VsockHeader.Stream, operation, flags, bufferSize, forwarded);
}
