using Fleet.Scheduler.Cell;
using Fleet.Shared.Access;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Scheduler.Access;

/// <summary>The cell's tokens as one node works with them: made and revoked through their actor, checked in the node's own book.</summary>
/// <param name="book">Follows the actor.</param>
/// <param name="ask">Asks the actor; null: no answer in time.</param>
/// <param name="pin">Of the cell's root; in every token.</param>
/// <param name="clock">What time it is.</param>
internal sealed class Tokens(TokenBook book, Func<IMessage, CancellationToken, Task<TokenReply?>> ask, string pin, TimeProvider clock)
{
    public IReadOnlyList<TokenRecord> All => book.All;

    public TokenVerdict Check(ReadOnlySpan<char> shown) => book.Check(shown, clock.GetUtcNow());

    /// <summary>Makes a token; it counts on this node when this returns, and on the others within a second.</summary>
    /// <param name="wanted">Within <see cref="TokenRules"/>.</param>
    /// <param name="by">Id of the token that asks; empty: the node itself.</param>
    /// <param name="cancellation">Ends the wait.</param>
    /// <exception cref="CellException"><c>unavailable</c> or <c>too_many_tokens</c>.</exception>
    public async Task<(AccessToken Token, TokenRecord Record)> CreateAsync(TokenRequest wanted, string by, CancellationToken cancellation)
    {
        if (TokenRules.FirstProblem(wanted) is { } problem)
            throw new ArgumentException(problem.Message, nameof(wanted));
        var token = AccessToken.New(pin);
        return (token, await PutAsync(token, wanted, by, cancellation).ConfigureAwait(false));
    }

    /// <summary>Makes this very token known, which its holder has already.</summary>
    /// <exception cref="CellException"><c>unavailable</c>, <c>too_many_tokens</c>, or <c>token_exists</c>: with another secret.</exception>
    public async Task<TokenRecord> PutAsync(AccessToken token, TokenRequest wanted, string by, CancellationToken cancellation)
    {
        var now = clock.GetUtcNow();
        var life = wanted.Life ?? (TokenRules.IsForJoining(wanted.Role) ? TokenRules.JoinLife : null);
        return await AskAsync(new CreateToken
        {
            Token = new TokenRecord
            {
                Id = token.Id,
                Role = wanted.Role,
                SecretHash = ByteString.CopyFrom(token.Hash()),
                Tenant = wanted.Tenant ?? "",
                Host = wanted.Host ?? "",
                Note = wanted.Note,
                CreatedAt = Timestamp.FromDateTimeOffset(now),
                ExpiresAt = life is null ? null : Timestamp.FromDateTimeOffset(now + life.Value),
                CreatedBy = by,
            },
        }, cancellation).ConfigureAwait(false);
    }

    /// <summary>Ends a token: on this node at once, on the others within a second. Streams and waits under it are cut.</summary>
    /// <exception cref="CellException"><c>unavailable</c> or <c>not_found</c>.</exception>
    public Task<TokenRecord> RevokeAsync(string id, string by, CancellationToken cancellation) =>
        AskAsync(new RevokeToken { Id = id, By = by }, cancellation);

    private async Task<TokenRecord> AskAsync(IMessage question, CancellationToken cancellation)
    {
        var reply = await ask(question, cancellation).ConfigureAwait(false)
            ?? throw new CellException("unavailable", "The actor of the tokens gave no answer in time; try again.");
        if (reply.Problem is { } problem)
            throw new CellException(problem.Code, problem.Message);
        book.Put(reply.Token);
        return reply.Token;
    }
}
