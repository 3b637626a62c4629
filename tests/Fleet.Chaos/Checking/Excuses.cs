namespace Fleet.Chaos.Checking;

/// <summary>Until when something must have happened, and what of that is owed to faults of the control plane.</summary>
/// <param name="AtMs">The last moment.</param>
/// <param name="Excused">It is later than without faults.</param>
internal readonly record struct Deadline(long AtMs, bool Excused);

/// <summary>
/// Which faults of the control plane put off a recovery, and by how much. Only those that bear on the microVM: of the node that carried its actor or that
/// of a host of it when the node was struck, and of the database. Each adds its own bound, however many there are. Where it is not known which node carried
/// the actors, all such faults together add no more than one that is known to bear.
/// </summary>
internal sealed class Excuses
{
    /// <summary>In which the actors of a node that died, was stopped or cut are answered for by others (issue 4's figure).</summary>
    public static readonly TimeSpan TakeOver = TimeSpan.FromSeconds(15);

    /// <summary>From when the database, or the only node, is back: a shard asks its store again after 8 s, an actor that could not store starts after 2 s.</summary>
    public static readonly TimeSpan Return = TimeSpan.FromSeconds(10);

    /// <summary>In which a node that alone does not reach the database leaves the cell (docs/operating.md).</summary>
    public static readonly TimeSpan Leave = TimeSpan.FromSeconds(15);

    /// <summary>How old the last sight of a shard may be.</summary>
    private const long KnownForMs = 10_000;

    private readonly History _history;
    private readonly IReadOnlyList<Outage> _outages;
    private readonly ILookup<(string Region, string Shard), Sighting> _sightings;
    private readonly ILookup<string, Recount> _recounts;

    public Excuses(History history)
    {
        _history = history;
        _outages = [.. history.Outages.OrderBy(outage => outage.FromMs)];
        _sightings = history.Sightings.OrderBy(seen => seen.FromMs).ToLookup(seen => (seen.Region, seen.Shard));
        _recounts = history.Recounts.OrderBy(recount => recount.AtMs).ToLookup(recount => recount.Host, StringComparer.Ordinal);
    }

    /// <summary>When something that begins then must be done.</summary>
    /// <param name="fromMs">When it begins.</param>
    /// <param name="after">What it may take.</param>
    /// <param name="vm">Whose actor has part in it.</param>
    /// <param name="host">That is to be given up.</param>
    /// <param name="next">Where the microVM is placed then.</param>
    public Deadline After(long fromMs, TimeSpan after, string vm, string? host, IReadOnlyList<string> next)
    {
        var allowed = (long)after.TotalMilliseconds;
        var deadline = fromMs + allowed;
        var unknown = (long)TakeOver.TotalMilliseconds;
        var bore = new List<(long FromMs, long ToMs)>();
        // In the order of time: what only begins after the deadline has put off nothing, unless what came before did.
        foreach (var outage in _outages.Where(outage => outage.ToMs > fromMs))
        {
            Recounted();
            if (outage.FromMs >= deadline)
                break;
            if (outage.Process == Outage.Database || !_history.OfSeveral)
            {
                var returned = outage.ToMs + (long)Return.TotalMilliseconds;
                deadline += returned - Math.Max(outage.FromMs, fromMs);
                bore.Add((outage.FromMs, returned));
                continue;
            }

            var carried = Carried(outage, vm, host is null ? next : [host, .. next]);
            if (carried is false)
                continue;
            var takenOver = outage.FromMs + (long)TakeOver.TotalMilliseconds;
            // It has its actors as long as it stays, and they can store nothing.
            if (outage.FromDatabase)
                takenOver = Math.Min(takenOver + (long)Leave.TotalMilliseconds, outage.ToMs + (long)Return.TotalMilliseconds);
            var put = takenOver - Math.Max(outage.FromMs, fromMs);
            if (put <= 0)
                continue;
            if (carried is null)
                unknown -= put = Math.Min(put, unknown);
            deadline += put;
            bore.Add((outage.FromMs, takenOver));
        }

        Recounted();
        return new(deadline, deadline > fromMs + allowed);

        // A host's actor that is recovered waits a whole lease, since the one before may have granted until then. By its own word, and only where a fault had it recovered.
        void Recounted()
        {
            foreach (var recount in host is null ? [] : _recounts[host])
            {
                if (recount.AtMs > fromMs && recount.AtMs < deadline && bore.Any(fault => fault.FromMs <= recount.AtMs && recount.AtMs <= fault.ToMs))
                    deadline = Math.Max(deadline, recount.AtMs + allowed);
            }
        }
    }

    /// <summary>Null: nobody knows, or not of all of them.</summary>
    private bool? Carried(Outage outage, string vm, IEnumerable<string> hosts)
    {
        var carriers = hosts.Select(Sighting.ShardOfHost).Prepend(Sighting.ShardOfVm(vm)).Select(shard => CarrierAt(shard, outage.FromMs)).ToList();
        return carriers.Contains(outage.Process) ? true : carriers.Contains(null) ? null : false;
    }

    private string? CarrierAt((string Region, string Shard) shard, long atMs) =>
        _sightings[shard].LastOrDefault(seen => seen.FromMs <= atMs) is { } seen && seen.ToMs >= atMs - KnownForMs ? seen.Process : null;
}
