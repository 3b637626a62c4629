using System.Buffers;
using System.Buffers.Text;
using System.Security.Cryptography;
using System.Text;

namespace Fleet.Shared.Access;

/// <summary>
/// A token: <c>fleet.ID.SECRET.PIN</c>. The id names it in lists and logs; the secret is 256 random bits; the pin is the SHA-256 of the
/// cell's root certificate, by which its holder knows the right control plane at the first word.
/// </summary>
/// <param name="Id">12 characters, not secret.</param>
/// <param name="Secret">43 characters.</param>
/// <param name="Pin">43 characters.</param>
public sealed record AccessToken(string Id, string Secret, string Pin)
{
    private const string Prefix = "fleet.";
    private const int IdLength = 12, HashLength = 43;
    private const int TextLength = 6 + IdLength + 1 + HashLength + 1 + HashLength;

    // Crockford's base 32, as in ids of microVMs.
    private const string IdAlphabet = "0123456789abcdefghjkmnpqrstvwxyz";
    private static readonly SearchValues<char> IdLetters = SearchValues.Create(IdAlphabet);
    private static readonly SearchValues<char> HashLetters = SearchValues.Create("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");

    /// <summary>What its holder shows. A secret.</summary>
    public string Text => $"{Prefix}{Id}.{Secret}.{Pin}";

    /// <summary>A new one for the cell of that pin.</summary>
    public static AccessToken New(string pin) =>
        new(RandomNumberGenerator.GetString(IdAlphabet, IdLength), Base64Url.EncodeToString(RandomNumberGenerator.GetBytes(32)), pin);

    /// <summary>Null: the text is no token.</summary>
    public static AccessToken? Parse(ReadOnlySpan<char> text)
    {
        if (text.Length != TextLength || !text.StartsWith(Prefix))
            return null;
        var rest = text[Prefix.Length..];
        var id = rest[..IdLength];
        var secret = rest.Slice(IdLength + 1, HashLength);
        var pin = rest[^HashLength..];
        return rest[IdLength] == '.' && rest[IdLength + 1 + HashLength] == '.'
            && !id.ContainsAnyExcept(IdLetters) && !secret.ContainsAnyExcept(HashLetters) && !pin.ContainsAnyExcept(HashLetters)
            ? new AccessToken(id.ToString(), secret.ToString(), pin.ToString())
            : null;
    }

    /// <summary>What is stored of the secret: its SHA-256. 256 random bits need no slower hash.</summary>
    public byte[] Hash() => SHA256.HashData(Encoding.ASCII.GetBytes(Secret));

    /// <summary>Without the secret, so that none gets into a log by accident.</summary>
    public override string ToString() => $"token {Id}";
}
