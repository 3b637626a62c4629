using Fleet.Scheduler.Cell;

namespace Fleet.Chaos.Checking;

/// <summary>
/// Each microVM that was lost with its host runs elsewhere within lease lifetime + 5 s of the host's last sign, where there was room. While the
/// control plane itself is away nobody counts: the time begins anew when it answers again, since a host's actor that was just recovered
/// waits a whole lease.
/// </summary>
internal static class Recovery
{
    public const string Late = "recovered_late";
    public const string Never = "never_recovered";

    /// <summary>What a fail-over may take beyond the lease.</summary>
    public static readonly TimeSpan Allowance = TimeSpan.FromSeconds(5);

    /// <summary>How far from the host's being struck, or coming back, a VMM's last line may be.</summary>
    private const long SameMomentMs = 2_000;

    public sealed record Finding(IReadOnlyList<Violation> Violations, IReadOnlyList<TimeSpan> Times, int WaitedForRoom);

    public static Finding Check(History history, JournalIndex journal)
    {
        var violations = new List<Violation>();
        var times = new List<TimeSpan>();
        var waited = 0;
        var runs = history.Runs.GroupBy(run => (run.Vm, run.Epoch)).ToDictionary(group => group.Key, group => group.OrderBy(run => run.FromMs).ToList());
        var noRoom = new Lazy<HashSet<long>>(() => WithoutRoom(history, journal));
        foreach (var (vm, events) in journal.Vms)
        {
            for (var i = 0; i < events.Count; i++)
            {
                if (events[i].Event is not VmLost lost)
                    continue;
                var next = WhatFollowed(vm, events, i, runs);
                if (next.Over)
                    continue;
                var from = LastSign(history, vm, lost.Epoch, journal.Placements.GetValueOrDefault((vm, lost.Epoch)), events[i].AtMs, runs);
                var deadline = Deadline(history, from);
                if (next.RunsAtMs is { } at)
                    times.Add(TimeSpan.FromMilliseconds(at - from));
                if ((next.RunsAtMs ?? history.EndMs) <= deadline)
                    continue;
                if (next.Unplaced.Count > 0 && next.Unplaced.All(noRoom.Value.Contains))
                    waited++;
                else if (next.RunsAtMs is { } late)
                    violations.Add(new(Late, vm, $"lost under epoch {lost.Epoch}, the last sign of its host at {from} ms; it ran again at {late} ms, {late - deadline} ms too late"));
                else
                    violations.Add(new(Never, vm, $"lost under epoch {lost.Epoch}, the last sign of its host at {from} ms; it did not run again by {history.EndMs} ms"));
            }
        }

        return new(violations, times, waited);
    }

    /// <param name="Over">Somebody stopped or deleted it, it failed by itself, or it was lost again: then that counts.</param>
    /// <param name="RunsAtMs">Null: it does not run again.</param>
    /// <param name="Unplaced">Where in the journal it is said that it waits.</param>
    private readonly record struct Followed(bool Over, long? RunsAtMs, List<long> Unplaced);

    private static Followed WhatFollowed(string vm, List<StoredEvent> events, int lostAt, Dictionary<(string, ulong), List<RunInterval>> runs)
    {
        var unplaced = new List<long>();
        foreach (var stored in events.Skip(lostAt + 1))
        {
            switch (stored.Event)
            {
                case VmUnplaced:
                    unplaced.Add(stored.Order);
                    break;
                case VmPlaced placed when runs.TryGetValue((vm, placed.Epoch), out var ran):
                    return new(false, ran[0].FromMs, unplaced);
                // Placed, and then something happened to it before it could run.
                case VmLost or VmFailed or VmEnded or VmStopRequested or VmDeleteRequested:
                    return new(true, null, unplaced);
                // Nobody kept a run log there.
                case VmRunning:
                    return new(false, stored.AtMs, unplaced);
            }
        }

        return new(false, null, unplaced);
    }

    /// <summary>When the host was struck; where nobody struck it, when the microVM must have stopped getting its lease.</summary>
    private static long LastSign(History history, string vm, ulong epoch, string? host, long lostAtMs, Dictionary<(string, ulong), List<RunInterval>> runs)
    {
        var lease = (long)history.Lease.TotalMilliseconds;
        var last = runs.GetValueOrDefault((vm, epoch))?[^1];
        var ended = last?.PossibleToMs ?? lostAtMs;
        // The one that lasted when the guest stopped, or the nearest; of several the first: what came on top of it changed nothing.
        return history.Silences
            .Where(silence => silence.Host == host)
            .Select(silence => (Distance: Math.Max(0, Math.Max(silence.FromMs - ended, ended - silence.ToMs)), silence.FromMs))
            .Where(silence => silence.Distance <= SameMomentMs)
            .OrderBy(silence => silence.Distance).ThenBy(silence => silence.FromMs)
            .Select(silence => (long?)silence.FromMs).FirstOrDefault()
            ?? (last is null ? lostAtMs - lease : last.Stood ? last.PossibleToMs - lease : last.PossibleToMs);
    }

    private static long Deadline(History history, long from)
    {
        var allowed = (long)(history.Lease + Allowance).TotalMilliseconds;
        var deadline = from + allowed;
        foreach (var outage in history.Outages.OrderBy(outage => outage.FromMs))
        {
            if (outage.FromMs < deadline && outage.ToMs > from)
                deadline = Math.Max(deadline, outage.ToMs + allowed);
        }

        return deadline;
    }

    /// <summary>Places in the journal where a microVM is said to wait and no host that is connected had room for it.</summary>
    private static HashSet<long> WithoutRoom(History history, JournalIndex journal)
    {
        var ledgers = history.Caps.Keys.ToDictionary(host => host, _ => new Ledger(), StringComparer.Ordinal);
        var found = new HashSet<long>();
        foreach (var stored in history.Journal)
        {
            if (!JournalIndex.IsVm(stored))
            {
                if (ledgers.TryGetValue(JournalIndex.IdOf(stored), out var ledger))
                    ledger.Take(stored.Event);
            }
            else if (stored.Event is VmUnplaced && journal.SpecOf(JournalIndex.IdOf(stored)) is { } spec
                && !ledgers.Any(host => host.Value.Takes(spec, history.Caps[host.Key])))
            {
                found.Add(stored.Order);
            }
        }

        return found;
    }
}
