using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>Randomness from the host's kernel (virtio 1.2, §5.4).</summary>
internal sealed class EntropyDevice(GuestMemory memory) : VirtioDevice
{
    /// <summary>Bytes that one request is given at most; the rest of its buffers stays as it is.</summary>
    private const int MostPerRequest = 64 * 1024;

    private static readonly ushort[] Sizes = [256];

    public override uint Id => 4;

    public override ulong Features => Version1 | EventIndex;

    public override IReadOnlyList<ushort> QueueSizes => Sizes;

    protected override uint Serve(int queue, VirtQueue request)
    {
        var left = MostPerRequest;
        foreach (var buffer in request.Writable)
        {
            var part = Math.Min(left, buffer.Length);
            RandomBytes.Fill(memory.Slice(buffer.Address, part));
            left -= part;
        }

        return (uint)(MostPerRequest - left);
    }
}
