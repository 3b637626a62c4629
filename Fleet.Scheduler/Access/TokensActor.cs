using Akka.Actor;
using Akka.Cluster.Sharding;
using Akka.Event;
using Akka.Persistence;
using Fleet.Scheduler.Cell;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

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
internal sealed class TokensActor(CellOptions options) : UntypedPersistentActor
{
    private readonly TokenBook _book = new();
    private readonly ILoggingAdapter _log = Context.GetLogger();

    /// <summary>Events since the last <see cref="TokensKept"/>.</summary>
    private int _stored;

    public override string PersistenceId => PersistenceIds.Tokens;

    private Timestamp At => Timestamp.FromDateTimeOffset(options.Clock.GetUtcNow());

    protected override void OnRecover(object message)
    {
        if (message is not IMessage stored)
            return;
        _book.Apply(stored);
        _stored = stored is TokensKept ? 0 : _stored + 1;
    }

    protected override void OnCommand(object message)
    {
        switch (message)
        {
            case CreateToken create:
                OnCreate(create.Token);
                break;
            case RevokeToken revoke:
                OnRevoke(revoke);
                break;
            case HandOff:
                Context.Stop(Self);
                break;
            case DeleteMessagesSuccess:
                break;
            case DeleteMessagesFailure failed:
                _log.Warning(failed.Cause, "Events of the tokens that are not needed any more could not be deleted; the next time these are too");
                break;
            default:
                Unhandled(message);
                break;
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
        if (_book.Live(options.Clock.GetUtcNow()) >= TokenBook.MostTokens)
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

    private void Store<TEvent>(TEvent stored, string id, string by) where TEvent : IMessage => Persist(stored, _ =>
    {
        _book.Apply(stored);
        _log.Info("{Event} of token {TokenId} by {By}", stored.Descriptor.Name, id, by.Length > 0 ? by : "the node");
        Answer(_book.Find(id), null);
        _stored++;
        if (_stored >= options.TokenEventsKept && _stored > 2 * _book.Count)
            Shorten();
    });

    /// <summary>Stores what all events so far come to in one, and deletes them: else the journal would grow with each start of a node, for ever.</summary>
    private void Shorten()
    {
        var kept = new TokensKept { At = At };
        kept.Tokens.AddRange(_book.Kept(options.Clock.GetUtcNow()));
        Persist(kept, _ =>
        {
            _stored = 0;
            DeleteMessages(LastSequenceNr - 1);
        });
    }

    private void Answer(TokenRecord? token, CellProblem? problem) => Sender.Tell(new TokenReply
    {
        Token = token,
        Problem = problem is null ? null : new Problem { Code = problem.Code, Message = problem.Message },
    });
}
