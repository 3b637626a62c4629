using Fleet.Scheduler.Admin;
using Fleet.Scheduler.Admission;
using Fleet.Scheduler.Projection;
using Fleet.Scheduler.Sessions;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace Fleet.Scheduler.Api;

/// <summary>What the requests of the API work with.</summary>
/// <param name="Gate">The way to the actors.</param>
/// <param name="Admission">Creates microVMs.</param>
/// <param name="Claims">Who holds which name.</param>
/// <param name="Projection">The view that lists and watches read.</param>
/// <param name="Ready">Why the node is not ready, or null when it is.</param>
/// <param name="Clock">Bounds waits.</param>
/// <param name="Log">One line for each request.</param>
internal sealed record ApiContext(
    CellGate Gate, VmAdmission Admission, ClaimStore Claims, ViewProjection Projection,
    Func<CancellationToken, Task<string?>> Ready, TimeProvider Clock, ILogger Log)
{
    /// <summary>Of the hosts whose agents have dialled this node.</summary>
    public HostFigures Figures { get; init; } = new();

    /// <summary>The operator's commands; null: the node has none.</summary>
    public AdminConsole? Admin { get; init; }

    /// <summary>Ends the long requests when the node stops.</summary>
    public CancellationToken Stopping { get; init; }

    /// <summary>Bounds the long requests.</summary>
    public LongRequests Long { get; init; } = new(1024);

    /// <summary>Waits until the view shows what this node told its clients before; refuses while it is still behind from before the start.</summary>
    /// <exception cref="RequestRefused"><c>unavailable</c></exception>
    public Task FreshViewAsync(CancellationToken cancellation)
    {
        RequireCaughtUp();
        return Projection.Freshness.WaitAsync(cancellation);
    }

    /// <exception cref="RequestRefused"><c>unavailable</c>: an answer now would leave out what was acknowledged earlier.</exception>
    public void RequireCaughtUp()
    {
        if (!Projection.CaughtUp.IsCompleted)
            throw RequestRefused.Unavailable($"The view is still being read from the journal: {Projection.Index} of {Projection.Target}. Single microVMs can be asked for already.");
    }

    /// <summary>Ends when the client is gone or the node stops. Dispose it.</summary>
    public CancellationTokenSource Lifetime(HttpContext http) =>
        CancellationTokenSource.CreateLinkedTokenSource(http.RequestAborted, Stopping);
}

/// <summary>
/// Waits, watches and consoles hold a connection for minutes. Above the bound new ones are refused, so that the short
/// requests always have room.
/// </summary>
internal sealed class LongRequests(int most)
{
    private int _running;

    public int Running => Volatile.Read(ref _running);

    /// <summary>A place for one long request; dispose it at its end.</summary>
    /// <exception cref="RequestRefused"><c>unavailable</c></exception>
    public IDisposable Enter()
    {
        if (Interlocked.Increment(ref _running) <= most)
            return new Place(this);
        Interlocked.Decrement(ref _running);
        throw RequestRefused.Unavailable($"{most} waits, watches and consoles are open at once, which is the most. End some, or try again later.");
    }

    private sealed class Place(LongRequests owner) : IDisposable
    {
        private LongRequests? _owner = owner;

        public void Dispose()
        {
            if (Interlocked.Exchange(ref _owner, null) is { } left)
                Interlocked.Decrement(ref left._running);
        }
    }
}
