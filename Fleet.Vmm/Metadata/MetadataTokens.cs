using System.Buffers.Binary;
using System.Text;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Metadata;

/// <summary>
/// Session tokens of version 2. A token tells when it expires and is signed with a key that only this process has, so none
/// has to be remembered, however many a guest asks for, and none is good for another VMM.
/// </summary>
/// <remarks>16 bytes signed (time of expiry, random number) and 16 of signature, as 64 hexadecimal digits.</remarks>
internal sealed class MetadataTokens(TimeProvider clock)
{
    public const uint ShortestLife = 1;

    /// <summary>Six hours.</summary>
    public const uint LongestLife = 21600;

    private const int Signed = 16;
    private const int Size = Signed + SipHash.TagSize;

    private readonly long _start = clock.GetTimestamp();
    private byte[]? _key;

    /// <summary>A token that is good for so many seconds.</summary>
    public string Issue(uint seconds)
    {
        if (_key is null)
        {
            _key = new byte[SipHash.KeySize];
            RandomBytes.Fill(_key);
        }

        Span<byte> token = stackalloc byte[Size];
        BinaryPrimitives.WriteInt64LittleEndian(token, clock.GetElapsedTime(_start).Ticks + seconds * TimeSpan.TicksPerSecond);
        RandomBytes.Fill(token[8..Signed]);
        SipHash.Compute(_key, token[..Signed], token[Signed..]);
        return Convert.ToHexStringLower(token);
    }

    /// <summary>Whether the text is a token of ours that has not expired.</summary>
    public bool IsValid(ReadOnlySpan<byte> text)
    {
        if (_key is null || text.Length != Size * 2)
        {
            return false;
        }

        Span<byte> token = stackalloc byte[Size + SipHash.TagSize];
        if (!TryDecode(text, token))
        {
            return false;
        }

        SipHash.Compute(_key, token[..Signed], token[Size..]);

        // All of it, wherever the first difference is: the time it takes tells nothing.
        var difference = 0;
        for (var i = Signed; i < Size; i++)
        {
            difference |= token[i] ^ token[i + SipHash.TagSize];
        }

        return difference == 0 && clock.GetElapsedTime(_start).Ticks < BinaryPrimitives.ReadInt64LittleEndian(token);
    }

    private static bool TryDecode(ReadOnlySpan<byte> text, Span<byte> bytes)
    {
        for (var i = 0; i < text.Length; i++)
        {
            var digit = text[i] switch
            {
                >= (byte)'0' and <= (byte)'9' => text[i] - '0',
                >= (byte)'a' and <= (byte)'f' => text[i] - 'a' + 10,
                _ => -1,
            };
            if (digit < 0)
            {
                return false;
            }

            bytes[i / 2] = (byte)(bytes[i / 2] << 4 | digit);
        }

        return true;
    }
}
