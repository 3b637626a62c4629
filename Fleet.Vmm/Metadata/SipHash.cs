using System.Buffers.Binary;
using System.Numerics;

namespace Fleet.Vmm.Metadata;

/// <summary>
/// SipHash-2-4 with a tag of 128 bits (Aumasson and Bernstein, 2012): a keyed function that nobody can compute without the
/// key. Here because the runtime's own are in OpenSSL, which a VMM without files around it does not have.
/// </summary>
internal static class SipHash
{
    public const int KeySize = 16;
    public const int TagSize = 16;

    /// <summary>Writes the tag of a message.</summary>
    public static void Compute(ReadOnlySpan<byte> key, ReadOnlySpan<byte> message, Span<byte> tag)
    {
        var k0 = BinaryPrimitives.ReadUInt64LittleEndian(key);
        var k1 = BinaryPrimitives.ReadUInt64LittleEndian(key[8..]);
        var state = new State(k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d ^ 0xee, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573);
        var last = (ulong)message.Length << 56;
        while (message.Length >= 8)
        {
            state.Absorb(BinaryPrimitives.ReadUInt64LittleEndian(message));
            message = message[8..];
        }

        for (var i = 0; i < message.Length; i++)
        {
            last |= (ulong)message[i] << (8 * i);
        }

        state.Absorb(last);
        BinaryPrimitives.WriteUInt64LittleEndian(tag, state.Finish(0xee, 0));
        BinaryPrimitives.WriteUInt64LittleEndian(tag[8..], state.Finish(0, 0xdd));
    }

    private struct State(ulong v0, ulong v1, ulong v2, ulong v3)
    {
        public void Absorb(ulong word)
        {
            v3 ^= word;
            Round();
            Round();
            v0 ^= word;
        }

        public ulong Finish(ulong intoSecond, ulong intoFirst)
        {
            v2 ^= intoSecond;
            v1 ^= intoFirst;
            for (var i = 0; i < 4; i++)
            {
                Round();
            }

            return v0 ^ v1 ^ v2 ^ v3;
        }

        private void Round()
        {
            v0 += v1;
            v1 = BitOperations.RotateLeft(v1, 13) ^ v0;
            v0 = BitOperations.RotateLeft(v0, 32);
            v2 += v3;
            v3 = BitOperations.RotateLeft(v3, 16) ^ v2;
            v0 += v3;
            v3 = BitOperations.RotateLeft(v3, 21) ^ v0;
            v2 += v1;
            v1 = BitOperations.RotateLeft(v1, 17) ^ v2;
            v2 = BitOperations.RotateLeft(v2, 32);
        }
    }
}
