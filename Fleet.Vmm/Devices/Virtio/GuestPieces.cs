using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>A request's buffers as the kernel takes them: it reads and fills guest memory by itself, and nothing is copied.</summary>
internal static unsafe class GuestPieces
{
    /// <summary>As many as a queue of ours can hand over at once; the kernel takes up to 1024.</summary>
    public const int Most = 256;

    /// <summary>Writes down where so many bytes behind the first <paramref name="skip"/> of the buffers lie; how many pieces that makes.</summary>
    /// <param name="memory">The guest's.</param>
    /// <param name="buffers">Of one request.</param>
    /// <param name="skip">Bytes to step over.</param>
    /// <param name="length">Bytes that count.</param>
    /// <param name="writes">The kernel will write there.</param>
    /// <param name="pieces">Takes them.</param>
    /// <remarks>The caller has room for <see cref="Most"/>, and the buffers come from one request of a queue.</remarks>
    public static int Locate(GuestMemory memory, ReadOnlySpan<GuestBuffer> buffers, long skip, long length, bool writes, IoPiece* pieces)
    {
        var count = 0;
        foreach (var buffer in buffers)
        {
            var start = Math.Min(skip, buffer.Length);
            skip -= start;
            var part = (ulong)Math.Min(length, buffer.Length - start);
            if (part == 0)
            {
                continue;
            }

            ArgumentOutOfRangeException.ThrowIfEqual(count, Most);

            // SAFETY: Locate checked the range, and guest memory outlives the device. The bound was checked right above.
            pieces[count].Start = memory.Locate(buffer.Address + (ulong)start, part, writes);
            pieces[count].Length = (nuint)part;
            count++;
            length -= (long)part;
        }

        return count;
    }
}
