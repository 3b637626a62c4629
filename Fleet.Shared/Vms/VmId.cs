using System.Buffers;
using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;
using System.Security.Cryptography;

namespace Fleet.Shared.Vms;

/// <summary>
/// Ids of microVMs: <c>vm-</c> and a ULID in lower case, 29 characters. Ids sort by the millisecond they were made in,
/// which is what lets lists be paged by id in order of creation.
/// </summary>
public static class VmId
{
    private const string Prefix = "vm-";
    private const int UlidLength = 26;

    // Crockford's base 32: no i, l, o, u.
    private const string Alphabet = "0123456789abcdefghjkmnpqrstvwxyz";
    private static readonly SearchValues<char> Digits = SearchValues.Create(Alphabet);

    /// <summary>A new id: 48 bits of the clock's Unix milliseconds, then 80 random bits.</summary>
    public static string New(TimeProvider clock)
    {
        ArgumentNullException.ThrowIfNull(clock);
        Span<byte> bits = stackalloc byte[16];
        RandomNumberGenerator.Fill(bits);
        var random = BinaryPrimitives.ReadUInt128BigEndian(bits) >> 48;
        var time = (UInt128)(ulong)clock.GetUtcNow().ToUnixTimeMilliseconds() & 0xffff_ffff_ffff;
        return string.Create(Prefix.Length + UlidLength, (time << 80) | random, static (text, value) =>
        {
            Prefix.CopyTo(text);
            for (var at = text.Length - 1; at >= Prefix.Length; at--, value >>= 5)
                text[at] = Alphabet[(int)(value & 31)];
        });
    }

    /// <summary>Whether the text has the form of an id. Names of that form are refused, so that an id never means two things.</summary>
    public static bool IsValid([NotNullWhen(true)] string? text)
    {
        if (text is null || text.Length != Prefix.Length + UlidLength || !text.StartsWith(Prefix, StringComparison.Ordinal))
            return false;
        // 26 digits hold 130 bits: the first stands for three of the 128.
        return text[Prefix.Length] <= '7' && text.AsSpan(Prefix.Length).IndexOfAnyExcept(Digits) < 0;
    }

    /// <summary>The name of a microVM that was given none: always the same for the same id, so that a repeated create agrees with the first.</summary>
    public static string NameFor(string vmId)
    {
        ArgumentNullException.ThrowIfNull(vmId);
        return Prefix + vmId[^6..];
    }
}
