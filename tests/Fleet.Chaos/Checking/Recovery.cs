using Fleet.Scheduler.Cell;

namespace Fleet.Chaos.Checking;

/// <summary>
/// Each microVM whose host was given up, or was silent for so long that it had to be, runs elsewhere within lease lifetime + 5 s of the host's last
/// sign, where there was room; only who asks for its end in that time ends that claim. What faults of the control plane put off is <see cref="Excuses"/>' to say.
/// </summary>
internal static class Recovery
{
    public const string Late = "recovered_late";
    public const string Never = "never_recovered";

    /// <summary>What a fail-over may take beyond the lease.</summary>
    public static readonly TimeSpan Allowance = TimeSpan.FromSeconds(5);

    /// <summary>The margin that the control plane waits beyond the lease (2 s), and some more: what was sent before may arrive late.</summary>
    private static readonly TimeSpan GivenUpAfter = TimeSpan.FromSeconds(3.5);

    /// <summary>How far from the host's being struck, or coming back, a VMM's last line may be.</summary>
    private const long SameMomentMs = 2_000;

    /// <param name="Violations">What was late.</param>
    /// <param name="Times">What each took.</param>
    /// <param name="WaitedForRoom">So many had none.</param>
    /// <param name="Unexcused">So many of those that were judged got no more time than lease and 5 s.</param>
    /// <param name="Excused">So many got more, for faults of the control plane.</param>
    /// <param name="Late">And so many of these took it.</param>
    public sealed record Finding(IReadOnlyList<Violation> Violations, IReadOnlyList<TimeSpan> Times, int WaitedForRoom, int Unexcused, int Excused, int Late);

    public static Finding Check(History history, JournalIndex journal)
    {
        var violations = new List<Violation>();
        var times = new List<TimeSpan>();
        int waited = 0, unexcused = 0, excused = 0, late = 0;
        var excuses = new Excuses(history);
        var runs = history.Runs.GroupBy(run => (run.Vm, run.Epoch)).ToDictionary(group => group.Key, group => group.OrderBy(run => run.FromMs).ToList());
        var noRoom = new Lazy<HashSet<long>>(() => WithoutRoom(history, journal));
        foreach (var (vm, events) in journal.Vms)
        {
            foreach (var claim in Claims(history, journal, excuses, vm, events, runs))
            {
                var host = journal.Placements.GetValueOrDefault((vm, claim.Epoch));
                var (deadline, isExcused) = excuses.After(claim.FromMs, history.Lease + Allowance, vm, host, PlacedNext(vm, events, claim, runs));
                // Who asks for its end when it is too late excuses nothing.
                var mayEnd = history.Requests.All(request => request.Vm != vm || request.Verb is not (Verb.Stop or Verb.Delete))
                    || history.Requests.Any(request => request.Vm == vm && request.Verb is Verb.Stop or Verb.Delete && request.SentMs <= deadline);
                var next = WhatFollowed(history, vm, events, claim, deadline, runs, mayEnd);
                if (next.Over)
                    continue;
                if (next.RunsAtMs is { } at)
                    times.Add(TimeSpan.FromMilliseconds(at - claim.FromMs));
                _ = isExcused ? excused++ : unexcused++;
                if ((next.RunsAtMs ?? history.EndMs) <= deadline)
                {
                    if (next.RunsAtMs > claim.FromMs + (long)(history.Lease + Allowance).TotalMilliseconds)
                        late++;
                    continue;
                }

                var told = $"lost under epoch {claim.Epoch}{(claim.Stored ? "" : ", which nobody stored")}, the last sign of its host at {claim.FromMs} ms";
                if (next.Unplaced.Count > 0 && next.Unplaced.All(noRoom.Value.Contains))
                    waited++;
                else if (next.RunsAtMs is { } ran)
                    violations.Add(new(Late, vm, $"{told}; it ran again at {ran} ms, {ran - deadline} ms too late"));
                else
                    violations.Add(new(Never, vm, $"{told}; it did not run again by {history.EndMs} ms"));
            }
        }

        return new(violations, times, waited, unexcused, excused, late);
    }

    /// <summary>A microVM that must run again.</summary>
    /// <param name="Epoch">Under which it was lost.</param>
    /// <param name="FromMs">Its host's last sign.</param>
    /// <param name="At">The place in its events after which it shall.</param>
    /// <param name="Stored">Its host was given up. False: it had to be.</param>
    private readonly record struct Claim(ulong Epoch, long FromMs, int At, bool Stored);

    private static IEnumerable<Claim> Claims(History history, JournalIndex journal, Excuses excuses, string vm, List<StoredEvent> events, Dictionary<(string, ulong), List<RunInterval>> runs)
    {
        var lost = new HashSet<ulong>();
        for (var i = 0; i < events.Count; i++)
        {
            if (events[i].Event is not VmLost given || !lost.Add(given.Epoch))
                continue;
            var on = journal.Placements.GetValueOrDefault((vm, given.Epoch));
            // What was suspended, and was to go on, did not run when its host fell silent: it is wanted from when somebody asked for it.
            yield return events.Take(i).LastOrDefault(stored => stored.Event is VmSuspended or VmRunning or VmPlaced) is { Event: VmSuspended }
                ? new(given.Epoch, Math.Max(SilentMs(history, on, events[i].AtMs), ResumedMs(history, vm, events[i].AtMs)), i, Stored: true)
                : new(given.Epoch, LastSign(history, vm, given.Epoch, on, events[i].AtMs, runs), i, Stored: true);
        }

        for (var i = 0; i < events.Count; i++)
        {
            if (JournalIndex.PlaceOf(events[i].Event) is not var (host, epoch) || lost.Contains(epoch) || !runs.TryGetValue((vm, epoch), out var ran))
                continue;
            // One whose VMM was killed, and whose agent could still say so, has failed and is not lost.
            var failed = journal.Ended.Contains((vm, epoch)) && history.Strikes.Any(strike => strike.Kind == StrikeKind.KillVmm && (strike.Vm, strike.Epoch) == (vm, epoch));
            if (!failed && history.Silences.Where(silence => silence.Host == host && IsGivenUp(history, excuses, vm, silence) && ran.Any(run => Runs(run, silence.FromMs))).MinBy(silence => silence.FromMs) is { } silence)
                yield return new(epoch, silence.FromMs, i, Stored: false);
        }
    }

    /// <summary>Nobody who is silent for so long keeps its microVMs.</summary>
    private static bool IsGivenUp(History history, Excuses excuses, string vm, Silence silence) =>
        excuses.After(silence.FromMs, history.Lease + GivenUpAfter, vm, silence.Host, []).AtMs <= silence.ToMs;

    /// <summary>Where it was to run from then on, until it did.</summary>
    private static List<string> PlacedNext(string vm, List<StoredEvent> events, Claim claim, Dictionary<(string, ulong), List<RunInterval>> runs)
    {
        var hosts = new List<string>();
        foreach (var (host, epoch) in events.Skip(claim.At + 1).Select(stored => JournalIndex.PlaceOf(stored.Event)).OfType<(string, ulong)>())
        {
            hosts.Add(host);
            if (runs.ContainsKey((vm, epoch)))
                break;
        }

        return hosts;
    }

    private static bool Runs(RunInterval run, long atMs) => run.FromMs <= atMs && atMs <= (run.Open ? run.SureToMs + RunLog.OnTimeMs : run.PossibleToMs);

    /// <param name="Over">Somebody stopped or deleted it in time, its VMM was killed on purpose before it ran, or it was lost again: then that counts.</param>
    /// <param name="RunsAtMs">Null: it does not run again.</param>
    /// <param name="Unplaced">Where in the journal it is said that it waits.</param>
    private readonly record struct Followed(bool Over, long? RunsAtMs, List<long> Unplaced);

    private static Followed WhatFollowed(History history, string vm, List<StoredEvent> events, Claim claim, long deadline, Dictionary<(string, ulong), List<RunInterval>> runs, bool mayEnd)
    {
        var unplaced = new List<long>();
        foreach (var stored in events.Skip(claim.At + 1))
        {
            switch (stored.Event)
            {
                case VmUnplaced:
                    unplaced.Add(stored.Order);
                    break;
                case var placed when JournalIndex.PlaceOf(placed) is var (_, epoch) && runs.TryGetValue((vm, epoch), out var ran):
                    return new(false, ran[0].FromMs, unplaced);
                // Its next host was struck as well before it could run there, and nobody knew yet: from then on that one's silence counts.
                case var placed when JournalIndex.PlaceOf(placed) is var (next, _) && history.Silences.Any(silence => silence.Host == next && silence.FromMs < deadline && silence.ToMs > claim.FromMs):
                    return new(true, null, unplaced);
                // It was asked to be suspended, and its host could say that it is.
                case VmSuspended suspended when suspended.Epoch == claim.Epoch:
                    return new(true, null, unplaced);
                case VmStopRequested or VmDeleteRequested or VmEnded { Reason.Code: "stop_requested" } when mayEnd:
                // Placed, and then something happened to it before it could run.
                case VmLost:
                case VmFailed failed when failed.Epoch > claim.Epoch && history.Broken.Contains((vm, failed.Epoch)):
                    return new(true, null, unplaced);
                // Nobody kept a run log there.
                case VmRunning running when running.Epoch > claim.Epoch:
                    return new(false, stored.AtMs, unplaced);
            }
        }

        return new(false, null, unplaced);
    }

    /// <summary>
    /// When the host was struck; where nobody struck it (it was half deaf, or disturbed), one heartbeat after the one whose lease was the last that it
    /// heard: by that it said so.
    /// </summary>
    private static long LastSign(History history, string vm, ulong epoch, string? host, long lostAtMs, Dictionary<(string, ulong), List<RunInterval>> runs)
    {
        var lease = (long)history.Lease.TotalMilliseconds;
        var last = runs.GetValueOrDefault((vm, epoch))?[^1];
        // By a wall clock, which may have been moved: but not before it was asked for, and not after it ran next.
        var ended = last?.PossibleToMs ?? Math.Clamp(lostAtMs, AskedMs(history, vm), Math.Max(AskedMs(history, vm), NextRunMs(history, vm, epoch)));
        // The one that lasted when the guest stopped, or the nearest; of several the first: what came on top of it changed nothing.
        return history.Silences
            .Where(silence => silence.Host == host)
            .Select(silence => (Distance: Math.Max(0, Math.Max(silence.FromMs - ended, ended - silence.ToMs)), silence.FromMs))
            .Where(silence => silence.Distance <= SameMomentMs)
            .OrderBy(silence => silence.Distance).ThenBy(silence => silence.FromMs)
            .Select(silence => (long?)silence.FromMs).FirstOrDefault()
            ?? (last is null ? ended - lease : last.Stood ? last.PossibleToMs - lease + (long)history.Heartbeat.TotalMilliseconds : last.PossibleToMs);
    }

    /// <summary>From when on the host that was given up then said nothing.</summary>
    private static long SilentMs(History history, string? host, long lostAtMs) =>
        history.Silences.Where(silence => silence.Host == host && silence.FromMs <= lostAtMs).OrderBy(silence => silence.FromMs).LastOrDefault()?.FromMs ?? lostAtMs - (long)history.Lease.TotalMilliseconds;

    private static long ResumedMs(History history, string vm, long lostAtMs) =>
        history.Requests.Where(request => request.Verb == Verb.Resume && request.Vm == vm && request.SentMs <= lostAtMs).Select(request => request.SentMs).DefaultIfEmpty(0).Max();

    private static long AskedMs(History history, string vm) => history.Requests.Where(request => request is { Verb: Verb.Create } && request.Vm == vm).Select(request => request.SentMs).DefaultIfEmpty(0).Min();

    private static long NextRunMs(History history, string vm, ulong epoch) => history.Runs.Where(run => run.Vm == vm && run.Epoch > epoch).Select(run => run.FromMs).DefaultIfEmpty(history.EndMs).Min();

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
