using System.Net;
using Akka.Actor;
using Fleet.Scheduler.Admission;
using Fleet.Scheduler.Api;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Logging;
using Fleet.Scheduler.Projection;

namespace Fleet.Scheduler.Admin;

/// <summary>What the operator's commands work with: one node.</summary>
internal sealed record AdminContext
{
    public required ActorSystem Actors { get; init; }

    /// <summary>The node's <see cref="Fleet.Scheduler.Placement.PlacementActor"/>.</summary>
    public required IActorRef Placement { get; init; }

    /// <summary>The way to the sharded actors.</summary>
    public required CellGate Gate { get; init; }

    /// <summary>What the journal has.</summary>
    public required IEventFeed Events { get; init; }

    public required ClaimStore Claims { get; init; }

    /// <summary>What lists read.</summary>
    public required ViewProjection Projection { get; init; }

    /// <summary>How the cell runs.</summary>
    public required CellOptions Options { get; init; }

    public required NodeLog Log { get; init; }

    public required TimeProvider Clock { get; init; }

    /// <summary>When the node began to start.</summary>
    public required DateTimeOffset StartedAt { get; init; }

    /// <summary>Where agents dial in.</summary>
    public required IPEndPoint LinkEndpoint { get; init; }

    /// <summary>Waits until lists show what this node told its clients before.</summary>
    /// <exception cref="RequestRefused"><c>unavailable</c></exception>
    public Task FreshViewAsync(CancellationToken cancellation)
    {
        if (!Projection.CaughtUp.IsCompleted)
            throw RequestRefused.Unavailable($"The view is still being read from the journal: {Projection.Index} of {Projection.Target}.");
        return Projection.Freshness.WaitAsync(cancellation);
    }

    /// <summary>What a host has promised, and its lease.</summary>
    /// <exception cref="RequestRefused">There is no such host, or its actor gave no answer.</exception>
    public async Task<LedgerRead> LedgerAsync(string hostId, int most, CancellationToken cancellation)
    {
        var answer = await Gate.CallAsync(c => Gate.Cell.GetLedgerAsync(hostId, most, c), CellGate.Patience, cancellation);
        return answer.Problem is { } problem ? throw RequestRefused.From(problem) : answer.Ledger!;
    }

    /// <summary>Asks an actor of this node, or a region, within what the cell allows an answer.</summary>
    /// <exception cref="RequestRefused"><c>unavailable</c></exception>
    public async Task<T> AskAsync<T>(IActorRef actor, object question, CancellationToken cancellation)
    {
        try
        {
            return await actor.Ask<T>(question, Options.AskTimeout, cancellation);
        }
        catch (AskTimeoutException)
        {
            throw RequestRefused.Unavailable($"{actor.Path.Name} gave no answer within {Options.AskTimeout.TotalSeconds:0} s; try again.");
        }
    }
}
