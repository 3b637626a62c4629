using System.Collections.Concurrent;
using System.Security.Cryptography;
using Fleet.Shared.Access;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Scheduler.Access;

/// <summary>
/// Every token of the cell by its id, and whether one that is shown counts. Fed by events, any of which may come again. Reading is
/// thread-safe and takes about a microsecond; one writer at a time.
/// </summary>
internal sealed class TokenBook
{
    /// <summary>Of tokens that can still be used; one more is refused.</summary>
    public const int MostTokens = 10_000;

    /// <summary>Ended ones are listed for this long, so that whoever is refused can be told why.</summary>
    public static readonly TimeSpan EndedKept = TimeSpan.FromDays(7);

    private readonly ConcurrentDictionary<string, Entry> _entries = new(StringComparer.Ordinal);

    /// <summary>In the order of their making.</summary>
    public IReadOnlyList<TokenRecord> All =>
        [.. _entries.Values.Select(entry => entry.Token).OrderBy(token => token.CreatedAt?.ToDateTimeOffset()).ThenBy(token => token.Id, StringComparer.Ordinal)];

    public int Count => _entries.Count;

    public TokenRecord? Find(string id) => _entries.TryGetValue(id, out var entry) ? entry.Token : null;

    /// <summary>How many can still be used.</summary>
    public int Live(DateTimeOffset now) => _entries.Values.Count(entry => EndOf(entry.Token) is not { } end || end > now);

    /// <summary>Takes in an event of the tokens' actor.</summary>
    public void Apply(IMessage stored)
    {
        switch (stored)
        {
            case TokenCreated created:
                Put(created.Token);
                Forget(created.At.ToDateTimeOffset() - EndedKept);
                break;
            case TokenRevoked revoked when Find(revoked.Id) is { } token:
                var next = token.Clone();
                next.RevokedAt ??= revoked.At;
                Put(next);
                break;
            case TokensKept kept:
                // Nothing is taken out for not being there: this node may know of a newer one already.
                foreach (var one in kept.Tokens)
                    Put(one);
                Forget(kept.At.ToDateTimeOffset() - EndedKept);
                break;
        }
    }

    /// <summary>All but those that ended so long ago that they are forgotten.</summary>
    public IReadOnlyList<TokenRecord> Kept(DateTimeOffset now)
    {
        Forget(now - EndedKept);
        return All;
    }

    /// <summary>A token as its actor has it now.</summary>
    public void Put(TokenRecord token)
    {
        var entry = _entries.AddOrUpdate(token.Id,
            _ => new Entry(token, new CancellationTokenSource()),
            // What is revoked stays so, whichever word comes last.
            (_, known) => known.Token.RevokedAt is null || token.RevokedAt is not null ? known with { Token = token } : known);
        if (entry.Token.RevokedAt is not null)
            entry.Ended.Cancel();
    }

    /// <summary>Whether the text that somebody shows is a token that counts now.</summary>
    public TokenVerdict Check(ReadOnlySpan<char> shown, DateTimeOffset now)
    {
        // An unknown id and a wrong secret get the same answer: ids are not secret, but nobody's business either.
        if (AccessToken.Parse(shown) is not { } parsed || !_entries.TryGetValue(parsed.Id, out var entry)
            || !CryptographicOperations.FixedTimeEquals(parsed.Hash(), entry.Token.SecretHash.Span))
            return Refused("token_unknown", "The token is not one of this cell.");
        var token = entry.Token;
        if (token.RevokedAt is not null)
            return Refused("token_revoked", $"The token {token.Id} was revoked at {token.RevokedAt.ToDateTimeOffset():u}.");
        if (token.ExpiresAt is not null && token.ExpiresAt.ToDateTimeOffset() <= now)
            return Refused("token_expired", $"The token {token.Id} expired at {token.ExpiresAt.ToDateTimeOffset():u}.");
        return new TokenVerdict(token, "", "", entry.Ended.Token);
    }

    private void Forget(DateTimeOffset endedBefore)
    {
        foreach (var (id, entry) in _entries)
        {
            if (EndOf(entry.Token) is { } end && end < endedBefore)
                _entries.TryRemove(id, out _);
        }
    }

    private static DateTimeOffset? EndOf(TokenRecord token) => Earlier(token.RevokedAt, token.ExpiresAt);

    private static DateTimeOffset? Earlier(Timestamp? a, Timestamp? b) =>
        a is null ? b?.ToDateTimeOffset() : b is null || a < b ? a.ToDateTimeOffset() : b.ToDateTimeOffset();

    private static TokenVerdict Refused(string code, string message) => new(null, code, message, CancellationToken.None);

    private sealed record Entry(TokenRecord Token, CancellationTokenSource Ended);
}

/// <summary>The token that was shown, or why it does not count.</summary>
/// <param name="Token">Null: refused.</param>
/// <param name="Code">Stable: <c>token_unknown</c>, <c>token_revoked</c> or <c>token_expired</c>.</param>
/// <param name="Message">For people; without the secret.</param>
/// <param name="Revoked">Cancelled when it is revoked: ends what still goes on under it.</param>
internal sealed record TokenVerdict(TokenRecord? Token, string Code, string Message, CancellationToken Revoked);
