using System.Data.Common;
using System.Threading.Channels;

namespace Fleet.Scheduler.Journal;

/// <summary>
/// All that actors want to store, and all that they want to know before they start, in the order in which they asked. One connection carries
/// at a time what has gathered meanwhile: hundreds of events are one commit, hundreds of questions one read.
/// </summary>
/// <remarks>
/// A question is answered after every write that came before it, so an actor that starts anew finds what the one before it still had under way.
/// </remarks>
internal sealed class JournalQueue
{
    private const int MostRows = 500;
    private const long MostBytes = 4 << 20;
    private const int MostQuestions = 500;

    /// <summary>A start of thousands of actors has thousands of writes under way.</summary>
    private const int MostWaiting = 50_000;

    private readonly CellJournal _journal;
    private readonly string _writer = Guid.NewGuid().ToString("n");
    private readonly Channel<Work> _waiting = Channel.CreateBounded<Work>(new BoundedChannelOptions(MostWaiting) { SingleReader = true });
    private readonly List<Write> _writes = [];
    private readonly List<Question> _questions = [];
    private volatile bool _closed;

    public JournalQueue(CellJournal journal)
    {
        _journal = journal;
        _ = Task.Run(RunAsync);
    }

    /// <summary>Completes when all of them are on the disk.</summary>
    /// <param name="rows">Of one id, stored together or not at all.</param>
    /// <exception cref="DbException">They are not stored, or nobody knows.</exception>
    /// <exception cref="JournalBusyException">They are not stored.</exception>
    public Task WriteAsync(IReadOnlyList<JournalRow> rows) => Submit(new Write(rows)).Done;

    /// <summary>The highest number that an id has ever had; 0: none.</summary>
    /// <exception cref="DbException">The journal can't be read.</exception>
    /// <exception cref="JournalBusyException">Too much waits.</exception>
    public Task<long> ReadHighestAsync(string persistenceId) => Submit(new Question(persistenceId)).Done;

    /// <summary>Takes nothing more, and stores nothing that is not under way: its actors are gone, and others may have been started in their place.</summary>
    public void Close()
    {
        _waiting.Writer.TryComplete();
        _closed = true;
    }

    private T Submit<T>(T work)
        where T : Work => _waiting.Writer.TryWrite(work) ? work : throw new JournalBusyException();

    private async Task RunAsync()
    {
        while (await _waiting.Reader.WaitToReadAsync().ConfigureAwait(false))
        {
            try
            {
                await using var connection = await _journal.ConnectWriterAsync().ConfigureAwait(false);
                if (_closed)
                    throw new JournalBusyException();
                // Only now: much gathers while one waits for its turn.
                Gather();
                await StoreAsync(connection).ConfigureAwait(false);
                await AnswerAsync(connection).ConfigureAwait(false);
            }
            catch (Exception fault)
            {
                // Nothing was gathered yet; who waits is told now and not after another time-out.
                if (_writes.Count + _questions.Count == 0)
                    Gather();
                foreach (var write in _writes)
                    write.Fail(fault);
                foreach (var question in _questions)
                    question.Fail(fault);
            }
            _writes.Clear();
            _questions.Clear();
        }
    }

    private void Gather()
    {
        var (rows, bytes) = (0, 0L);
        while (rows < MostRows && bytes < MostBytes && _questions.Count < MostQuestions && _waiting.Reader.TryRead(out var work))
        {
            if (work is Question question)
            {
                _questions.Add(question);
                continue;
            }
            var write = (Write)work;
            _writes.Add(write);
            rows += write.Rows.Count;
            bytes += write.Rows.Sum(row => (long)row.Message.Length);
        }
    }

    private async Task StoreAsync(DbConnection connection)
    {
        if (_writes.Count == 0)
            return;
        try
        {
            await _journal.WriteAsync(connection, [.. _writes.SelectMany(write => write.Rows)], _writer).ConfigureAwait(false);
        }
        catch (DbException fault) when (_journal.IsTaken(fault))
        {
            // An actor that lives on another node too: it fails alone, and what others asked is answered.
            foreach (var write in _writes)
                await StoreAloneAsync(connection, write).ConfigureAwait(false);
            return;
        }
        foreach (var write in _writes)
            write.Succeed();
    }

    private async Task StoreAloneAsync(DbConnection connection, Write write)
    {
        try
        {
            await _journal.WriteAsync(connection, write.Rows, _writer).ConfigureAwait(false);
            write.Succeed();
        }
        catch (DbException fault)
        {
            write.Fail(fault);
        }
    }

    private async Task AnswerAsync(DbConnection connection)
    {
        if (_questions.Count == 0)
            return;
        var highest = await _journal.ReadHighestAsync(connection, [.. _questions.Select(question => question.PersistenceId)]).ConfigureAwait(false);
        foreach (var (at, question) in _questions.Index())
            question.Succeed(highest[at]);
    }

    private abstract class Work
    {
        public abstract void Fail(Exception fault);
    }

    private sealed class Write(IReadOnlyList<JournalRow> rows) : Work
    {
        private readonly TaskCompletionSource _done = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public IReadOnlyList<JournalRow> Rows => rows;

        public Task Done => _done.Task;

        public void Succeed() => _done.TrySetResult();

        public override void Fail(Exception fault) => _done.TrySetException(fault);
    }

    private sealed class Question(string persistenceId) : Work
    {
        private readonly TaskCompletionSource<long> _done = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public string PersistenceId => persistenceId;

        public Task<long> Done => _done.Task;

        public void Succeed(long highest) => _done.TrySetResult(highest);

        public override void Fail(Exception fault) => _done.TrySetException(fault);
    }
}

/// <summary>More waits than the disk can take, or the node ends.</summary>
internal sealed class JournalBusyException() : Exception("The journal takes nothing more: too much waits for the disk, or the node ends.");
