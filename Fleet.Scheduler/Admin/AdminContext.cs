using System.Net;
using Akka.Actor;
using Fleet.Scheduler.Api;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Logging;

namespace Fleet.Scheduler.Admin;

/// <summary>What the operator's commands work with: one node.</summary>
internal sealed record AdminContext
{
    public required ActorSystem Actors { get; init; }

    /// <summary>The node's <see cref="Fleet.Scheduler.Placement.PlacementActor"/>.</summary>
    public required IActorRef Placement { get; init; }

    /// <summary>What the HTTP API works with: the way to the sharded actors, names, and what lists read.</summary>
    public required ApiContext Api { get; init; }

    /// <summary>What the journal has.</summary>
    public required IEventFeed Events { get; init; }

    /// <summary>How the cell runs.</summary>
    public required CellOptions Options { get; init; }

    public required NodeLog Log { get; init; }

    /// <summary>When the node began to start.</summary>
    public required DateTimeOffset StartedAt { get; init; }

    /// <summary>Where agents dial in.</summary>
    public required IPEndPoint LinkEndpoint { get; init; }

    /// <summary>What a host has promised, and its lease.</summary>
    /// <exception cref="RequestRefused">There is no such host, or its actor gave no answer.</exception>
    public async Task<LedgerRead> LedgerAsync(string hostId, int most, CancellationToken cancellation)
    {
        var answer = await Api.Gate.CallAsync(c => Api.Gate.Cell.GetLedgerAsync(hostId, most, c), CellGate.Patience, cancellation);
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
