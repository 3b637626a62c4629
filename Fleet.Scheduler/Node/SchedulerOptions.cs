using System.Net;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Logging;

namespace Fleet.Scheduler.Node;

/// <summary>How a control-plane node runs.</summary>
public sealed record SchedulerOptions
{
    /// <summary>Default port of the HTTP API.</summary>
    public const int ApiPort = 7070;

    /// <summary>Default port that agents dial.</summary>
    public const int LinkPort = 7071;

    /// <summary>
    /// Folder of what the node keeps; made when it is not there. <c>journal.db</c> and <c>claims.db</c> hold what was promised, <c>ca/</c> who may speak for the cell,
    /// <c>view.db</c> can be deleted while the node is down and is then built anew.
    /// </summary>
    public required string DataDirectory { get; init; }

    /// <summary>Where the HTTP API listens; port 0 takes any free one.</summary>
    public IPEndPoint ApiEndpoint { get; init; } = new(IPAddress.Loopback, ApiPort);

    /// <summary>Whether the API is HTTPS, with the node's certificate. On any address but loopback it must be.</summary>
    public bool ApiEncrypted { get; init; }

    /// <summary>Where agents dial in, and hosts and nodes join: HTTP/2 over TLS; port 0 takes any free one.</summary>
    public IPEndPoint LinkEndpoint { get; init; } = new(IPAddress.Loopback, LinkPort);

    /// <summary>Where the cell's certificate authority is, below <see cref="DataDirectory"/>.</summary>
    public string AuthorityDirectory => Path.Combine(DataDirectory, "ca");

    /// <summary>Where the node leaves an admin's token and the root certificate for its own machine; null: nowhere.</summary>
    public string? CredentialsDirectory { get; init; }

    /// <summary>More names and addresses for the node's certificate, beside those of the machine.</summary>
    public IReadOnlyList<string> Names { get; init; } = [];

    /// <summary>The time by which everything is measured.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;

    /// <summary>Where the node logs to.</summary>
    public Serilog.ILogger Log { get; init; } = Serilog.Core.Logger.None;

    /// <summary>What the operator sees of the log, if <see cref="Log"/> feeds it and goes by its level.</summary>
    public NodeLog NodeLog { get; init; } = new();

    /// <summary>Entries of the change log that are kept; who asks for older ones gets <c>compacted</c>.</summary>
    public int ChangesKept { get; init; } = 100_000;

    /// <summary>Waits, watches and consoles that are open at once at most.</summary>
    public int LongRequests { get; init; } = 1024;

    /// <summary>Of these, of one tenant at most.</summary>
    public int LongRequestsOfTenant { get; init; } = 128;

    /// <summary>
    /// Ends the process at once, without a word to anybody; given the reason. For a node of several that stood still too long. Null: nobody looks.
    /// </summary>
    public Action<string>? EndNow { get; init; }

    /// <summary>Whether tenants' guests may run under QEMU, where no jail holds them. The same on every node of a cell.</summary>
    public bool TenantQemu { get; init; }

    /// <summary>Changes the settings of the actors, after data directory, clock and log are set.</summary>
    public Func<CellOptions, CellOptions>? Cell { get; init; }
}

/// <summary>The node can't start; the message says why and what to do.</summary>
public sealed class SchedulerStartException(string message, Exception? inner = null) : Exception(message, inner)
{
    /// <summary>Stable; null: there is none but that it can't start.</summary>
    public string? Code { get; init; }
}
