using Fleet.Scheduler.Cell;
using Microsoft.Extensions.Logging;

namespace Fleet.Scheduler.Access;

/// <summary>
/// Keeps a node's book of tokens: reads what their actor has stored, again and again. Reads the journal and not the actor, so that a
/// node which is cut off from the others, but not from the journal, hears of revocations too.
/// </summary>
internal sealed class TokenFollower : IAsyncDisposable
{
    /// <summary>A revocation must count everywhere within a second.</summary>
    private static readonly TimeSpan Pause = TimeSpan.FromMilliseconds(400);

    private static readonly TimeSpan FirstPatience = TimeSpan.FromSeconds(30);

    private readonly TokenBook _book;
    private readonly Func<long, CancellationToken, IAsyncEnumerable<JournalEvent>> _read;
    private readonly TimeProvider _clock;
    private readonly ILogger _log;
    private readonly CancellationTokenSource _stop = new();
    private Task _running = Task.CompletedTask;
    private long _last;

    private TokenFollower(TokenBook book, Func<long, CancellationToken, IAsyncEnumerable<JournalEvent>> read, TimeProvider clock, ILogger log)
    {
        _book = book;
        _read = read;
        _clock = clock;
        _log = log;
    }

    /// <summary>Answers when the book has every token that is stored.</summary>
    /// <param name="book">Filled from now on.</param>
    /// <param name="read">Events of the tokens' actor after a sequence number, to the end of what is stored.</param>
    /// <param name="clock">Paces it.</param>
    /// <param name="log">Hears of trouble.</param>
    /// <param name="cancellation">Ends the start.</param>
    /// <exception cref="CellStartException">The journal can't be read.</exception>
    public static async Task<TokenFollower> StartAsync(
        TokenBook book, Func<long, CancellationToken, IAsyncEnumerable<JournalEvent>> read, TimeProvider clock, ILogger log, CancellationToken cancellation)
    {
        var follower = new TokenFollower(book, read, clock, log);
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        patience.CancelAfter(FirstPatience);
        while (true)
        {
            try
            {
                await follower.ReadAsync(patience.Token);
                break;
            }
            catch (Exception fault) when (!cancellation.IsCancellationRequested)
            {
                // On the very first start the journal may still be making its tables.
                if (patience.IsCancellationRequested)
                    throw new CellStartException($"The tokens can't be read from the journal: {fault.Message}", fault);
                await Task.Delay(100, cancellation);
            }
        }
        follower._running = Task.Run(follower.RunAsync, CancellationToken.None);
        return follower;
    }

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _running.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        _stop.Dispose();
    }

    private async Task RunAsync()
    {
        var troubled = false;
        while (true)
        {
            await Task.Delay(Pause, _clock, _stop.Token);
            try
            {
                await ReadAsync(_stop.Token);
                troubled = false;
            }
            catch (Exception fault) when (!_stop.IsCancellationRequested)
            {
                // What is known goes on counting: a journal that stands still must not lock everybody out.
                if (!troubled)
                    _log.LogWarning(fault, "Tokens can't be read from the journal; until they can, this node does not hear of new and revoked ones");
                troubled = true;
            }
        }
    }

    private async Task ReadAsync(CancellationToken cancellation)
    {
        await foreach (var stored in _read(_last, cancellation))
        {
            _book.Apply(stored.Event);
            _last = stored.SequenceNr;
        }
    }
}
