using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Linux;
using Fleet.Vmm.RateLimiting;
using Xunit;

namespace Fleet.Vmm.Tests.Devices.Virtio;

/// <summary>A real tap of a network of the test's own, a raw socket at its other end, and the event loop between.</summary>
public class TapTests
{
    private const ushort Writes = 2;
    private const ulong Merges = VirtioDevice.Version1 | (1 << 15);
    private static readonly LimiterSettings Unlimited = new(null, null);

    [SkippableFact]
    public void Should_carry_frames_both_ways_and_wait_for_buffers()
    {
        Skip.IfNot(OwnNetwork.IsPossible, "needs root and /dev/net/tun");
        OwnNetwork.Run(Exchange, "fleet0");
    }

    [SkippableFact]
    public void Should_say_that_a_tap_is_cut_off_and_not_look_at_it_any_more()
    {
        Skip.IfNot(OwnNetwork.IsPossible, "needs root and /dev/net/tun");
        OwnNetwork.Run(
            () =>
            {
                var warnings = new List<string>();
                using var loop = new EventLoop();
                using var driver = Driver(warnings.Add, out var slot);
                using var owned = slot;
                driver.Begin(Merges, queues: 2);
                slot.Attend(loop);
                LoopScript.Follow(
                    loop,
                    (() => true, () => OwnNetwork.Remove("fleet0")),
                    (() => warnings.Count > 0, () => { }));
                Assert.Contains("fleet0 is gone", Assert.Single(warnings), StringComparison.Ordinal);
            },
            "fleet0");
    }

    private static void Exchange()
    {
        using var loop = new EventLoop();
        using var driver = Driver(_ => { }, out var slot);
        using var owned = slot;
        var host = OwnNetwork.OpenRaw("fleet0");
        var toHost = Frame(1, 200);
        var got = new byte[2000];
        var length = 0;
        driver.Begin(Merges, queues: 2);
        slot.Attend(loop);
        toHost.CopyTo(driver.Memory.Slice(VirtioDriver.Data + 12, toHost.Length));
        driver.Descriptor(0, VirtioDriver.Data, (uint)toHost.Length + 12);
        driver.Offer(0, queue: 1);
        slot.Wake();
        LoopScript.Follow(
            loop,
            (() => driver.UsedIndexOf(1) == 1, () => { }),
            (() => (length = Ours(host, got)) > 0, () =>
            {
                Assert.Equal(toHost, got[..length]);

                // Two frames come while there is room for one only.
                driver.Descriptor(1, VirtioDriver.Data + 0x1000, 2000, Writes);
                driver.Offer(1);
                slot.Wake();
                Assert.Equal(300, Sockets.Send(host, Frame(2, 300)));
                Assert.Equal(400, Sockets.Send(host, Frame(3, 400)));
            }),
            (() => driver.UsedIndex == 1, () =>
            {
                Assert.Equal(Frame(2, 300), driver.Memory.Slice(VirtioDriver.Data + 0x100c, 300).ToArray());
                driver.Offer(1);
                slot.Wake();
            }),
            (() => driver.UsedIndex == 2, () =>
            {
                Assert.Equal(Frame(3, 400), driver.Memory.Slice(VirtioDriver.Data + 0x100c, 400).ToArray());

                // The driver lets go; a new one gets what came meanwhile.
                driver.Write(0x70, 0);
                Assert.Equal(300, Sockets.Send(host, Frame(4, 300)));
                driver.Begin(Merges, queues: 2);
                driver.Offer(1);
                slot.Wake();
            }),
            (() => driver.UsedIndex == 1, () => Assert.Equal(Frame(4, 300), driver.Memory.Slice(VirtioDriver.Data + 0x100c, 300).ToArray())));
        _ = Descriptors.close(host);
    }

    private static VirtioDriver Driver(Action<string> onWarning, out VirtioSlot slot)
    {
        VirtioSlot? made = null;
        var driver = new VirtioDriver(memory =>
        {
            var device = new NetDevice(
                memory, new NetworkSettings("eth0", "fleet0", null, null, Unlimited, Unlimited), new TapInterface("fleet0", memory), TimeProvider.System);
            made = new VirtioSlot(device, memory, onWarning);
            return made.Transport;
        });
        slot = made!;
        return driver;
    }

    // Of a kind that the kernel itself never sends, so that its own chatter on a new interface is told apart.
    private static byte[] Frame(byte kind, int length)
    {
        var frame = new byte[length];
        new Random(kind).NextBytes(frame);
        new byte[] { 2, 0, 0, 0, 0, kind, 2, 0, 0, 0, 0, 9, 0x88, 0xb5 }.CopyTo(frame, 0);
        return frame;
    }

    private static int Ours(int host, byte[] frame)
    {
        while (Sockets.Receive(host, frame) is var length and > 0)
        {
            if (frame[12] == 0x88 && frame[13] == 0xb5)
            {
                return length;
            }
        }

        return 0;
    }
}
