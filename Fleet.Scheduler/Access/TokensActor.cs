using Akka.Actor;
using Akka.Cluster.Sharding;
using Akka.Event;
using Fleet.Scheduler.Cell;
using Google.Protobuf;

namespace Fleet.Scheduler.Access;

/// <summary>A message to the one actor of all tokens, wherever it lives.</summary>
public interface IToTokens;

public sealed partial class CreateToken : IToTokens;
public sealed partial class RevokeToken : IToTokens;

/// <summary>Every message goes to the same entity.</summary>
internal sealed class TokensExtractor() : HashCodeMessageExtractor(1)
{
    public override string? EntityId(object message) => message is IToTokens ? "tokens" : null;
}

/// <summary>Makes and revokes the cell's tokens, one after the other. Nodes follow what it stores, each in a <see cref="TokenBook"/> of its own.</summary>
internal sealed class TokensActor(CellOptions options) : BookActor<TokensKept>(options, "tokens")
{
    private readonly TokenBook _book = new();

    public override string PersistenceId => PersistenceIds.Tokens;

    protected override int Count => _book.Count;

    protected override void Apply(IMessage stored) => _book.Apply(stored);

    protected override TokensKept Keep() => new() { At = At, Tokens = { _book.Kept(Options.Clock.GetUtcNow()) } };

    protected override bool OnMessage(object message)
    {
        switch (message)
        {
            case CreateToken create:
                OnCreate(create.Token);
                return true;
            case RevokeToken revoke:
                OnRevoke(revoke);
                return true;
            default:
                return false;
        }
    }

    private void OnCreate(TokenRecord wanted)
    {
        if (_book.Find(wanted.Id) is { } known)
        {
            // The answer to the first try was lost on the way.
            Answer(known, known.SecretHash.Equals(wanted.SecretHash) ? null : new CellProblem("token_exists", $"There is a token {wanted.Id} already."));
            return;
        }
        if (_book.Live(Options.Clock.GetUtcNow()) >= TokenBook.MostTokens)
        {
            Answer(null, new CellProblem("too_many_tokens", $"{TokenBook.MostTokens} tokens can be used at present, which is the most. Revoke some."));
            return;
        }
        Store(new TokenCreated { At = At, Token = wanted }, wanted.Id, wanted.CreatedBy);
    }

    private void OnRevoke(RevokeToken revoke)
    {
        if (_book.Find(revoke.Id) is not { } token)
            Answer(null, new CellProblem("not_found", $"There is no token {revoke.Id}."));
        else if (token.RevokedAt is not null)
            Answer(token, null);
        else
            Store(new TokenRevoked { At = At, Id = revoke.Id, By = revoke.By }, revoke.Id, revoke.By);
    }

    private void Store(IMessage stored, string id, string by) => Store(stored, () =>
    {
        Log.Info("{Event} of token {TokenId} by {By}", stored.Descriptor.Name, id, by.Length > 0 ? by : "the node");
        Answer(_book.Find(id), null);
    });

    private void Answer(TokenRecord? token, CellProblem? problem) => Sender.Tell(new TokenReply
    {
        Token = token,
        Problem = problem is null ? null : new Problem { Code = problem.Code, Message = problem.Message },
    });
}
