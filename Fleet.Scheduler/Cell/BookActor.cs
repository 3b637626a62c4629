using Akka.Actor;
using Akka.Event;
using Akka.Persistence;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Scheduler.Cell;

/// <summary>
/// A persistent actor around a book that is what its events come to. Now and then it stores that in one event, <typeparamref name="TKept"/>, and deletes those before:
/// else the journal would grow for ever.
/// </summary>
/// <param name="options">Of the node.</param>
/// <param name="subject">What the book is of, as the log says it.</param>
internal abstract class BookActor<TKept>(CellOptions options, string subject) : UntypedPersistentActor
    where TKept : IMessage
{
    /// <summary>Events since the last <typeparamref name="TKept"/>.</summary>
    private int _stored;

    protected CellOptions Options => options;

    protected Timestamp At => Timestamp.FromDateTimeOffset(options.Clock.GetUtcNow());

    /// <summary>Entries of the book.</summary>
    protected abstract int Count { get; }

    /// <summary>Puts an event into the book.</summary>
    protected abstract void Apply(IMessage stored);

    /// <summary>All events so far in one.</summary>
    protected abstract TKept Keep();

    /// <summary>False: it is nothing for this actor.</summary>
    protected abstract bool OnMessage(object message);

    protected override void OnRecover(object message)
    {
        if (message is not IMessage stored)
            return;
        Apply(stored);
        _stored = stored is TKept ? 0 : _stored + 1;
    }

    protected sealed override void OnCommand(object message)
    {
        switch (message)
        {
            case HandOff:
                Context.Stop(Self);
                break;
            case DeleteMessagesSuccess:
                break;
            case DeleteMessagesFailure failed:
                Log.Warning(failed.Cause, "Events of the {Subject} that are not needed any more could not be deleted; the next time these are too", subject);
                break;
            default:
                if (!OnMessage(message))
                    Unhandled(message);
                break;
        }
    }

    /// <summary>Stores an event, puts it into the book and goes on.</summary>
    protected void Store(IMessage stored, Action then) => Persist(stored, _ =>
    {
        Apply(stored);
        _stored++;
        then();
        if (_stored >= options.BookEventsKept && _stored > 2 * Count)
            Shorten();
    });

    private void Shorten() => Persist(Keep(), _ =>
    {
        _stored = 0;
        DeleteMessages(LastSequenceNr - 1);
    });
}
