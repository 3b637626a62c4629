using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;

namespace Fleet.Chaos.Checking;

/// <summary>
/// What the API acknowledged holds: each create runs, waits with a reason, or was deleted or stopped by who made it; a stop and a delete are
/// not forgotten; one idempotency key made one microVM.
/// </summary>
internal static class Promises
{
    public const string Lost = "create_lost";
    public const string MadeTwice = "made_twice";
    public const string NotRunning = "not_running";
    public const string NoReason = "no_reason";
    public const string Stuck = "stuck";
    public const string EndedUnasked = "ended_unasked";
    public const string StopForgotten = "stop_forgotten";
    public const string DeleteForgotten = "delete_forgotten";

    /// <summary>Of a suspended one whose host was given up, and with it what it was saved in.</summary>
    private const string HostLostCode = "host_lost";

    /// <summary>A VMM says every 500 ms that it lives; a busy machine may make it late.</summary>
    private const long LastSignMs = 5_000;

    public static IEnumerable<Violation> Check(History history, JournalIndex journal)
    {
        var final = history.Final.ToDictionary(vm => vm.Id, StringComparer.Ordinal);
        var asked = history.Requests.Where(request => request.Vm is not null).ToLookup(request => request.Vm!, StringComparer.Ordinal);
        var lastRuns = history.Runs.GroupBy(run => (run.Vm, run.Epoch)).ToDictionary(group => group.Key, group => group.Max(run => run.SureToMs));

        foreach (var violation in Twice(history, journal))
            yield return violation;
        foreach (var (vm, events) in journal.Vms)
        {
            foreach (var violation in Unasked(history, journal, vm, events, asked[vm].Select(request => request.Verb).ToHashSet()))
                yield return violation;
        }

        foreach (var create in history.Requests.Where(request => request is { Verb: Verb.Create, Acknowledged: true, Vm: not null }).DistinctBy(request => request.Vm))
        {
            var id = create.Vm!;
            var mayEnd = asked[id].Any(request => request.Verb is Verb.Stop or Verb.Delete);
            if (!journal.Records.TryGetValue(id, out var record))
                yield return new(Lost, id, $"its create was acknowledged at {create.AnsweredMs} ms, and the journal does not know it");
            else if (record.State == VmState.Deleted)
            {
                if (final.ContainsKey(id))
                    yield return new(DeleteForgotten, id, "the journal says that it was deleted, and the API still shows it");
            }
            else if (!final.TryGetValue(id, out var now))
                yield return new(Lost, id, $"its create was acknowledged at {create.AnsweredMs} ms, it is {record.State} in the journal, and the API does not know it");
            else
            {
                if (asked[id].Any(request => request is { Verb: Verb.Delete, Acknowledged: true }))
                    yield return new(DeleteForgotten, id, $"its delete was acknowledged, and it is {now.State}, {now.ReasonCode}");
                else if (asked[id].Any(request => request is { Verb: Verb.Stop, Acknowledged: true }) && now.State is not (VmState.Stopped or VmState.Failed))
                    yield return new(StopForgotten, id, $"its stop was acknowledged, and it is {now.State}, {now.ReasonCode}");
                else if (AtRest(history, now, mayEnd, asked[id].Any(request => request.Verb == Verb.Suspend), lastRuns) is { } violation)
                    yield return violation;
            }
        }
    }

    private static Violation? AtRest(History history, FinalVm vm, bool mayEnd, bool maySuspend, Dictionary<(string, ulong), long> lastRuns)
    {
        switch (vm.State)
        {
            case VmState.Running when history.HasRunLogs:
                if (!lastRuns.TryGetValue((vm.Id, vm.Epoch), out var last))
                    return new(NotRunning, vm.Id, $"it is said to run on {vm.Host} under epoch {vm.Epoch}, and no VMM wrote that it does");
                return last >= history.EndMs - LastSignMs
                    ? null
                    : new(NotRunning, vm.Id, $"it is said to run on {vm.Host} under epoch {vm.Epoch}, and its VMM's last sign is {history.EndMs - last} ms old");
            case VmState.Running:
                return null;
            case VmState.Unplaced:
                return vm.ReasonCode is null ? new(NoReason, vm.Id, "it waits, and nobody says why") : null;
            case VmState.Stopped or VmState.Failed:
                if (vm.ReasonCode is null)
                    return new(NoReason, vm.Id, $"it is {vm.State}, and nobody says why");
                return mayEnd || (vm.State == VmState.Failed && (history.Broken.Contains((vm.Id, vm.Epoch)) || (vm.ReasonCode == HostLostCode && maySuspend)))
                    ? null
                    : new(EndedUnasked, vm.Id, $"it is {vm.State} ({vm.ReasonCode}) under epoch {vm.Epoch} on {vm.Host}, and nobody asked for that");
            case VmState.Suspended:
                return maySuspend ? null : new(EndedUnasked, vm.Id, $"it is suspended under epoch {vm.Epoch} on {vm.Host}, and nobody asked for that");
            default:
                return new(Stuck, vm.Id, $"it is still {vm.State} ({vm.ReasonCode}) under epoch {vm.Epoch} on {vm.Host}, long after the last fault");
        }
    }

    /// <summary>Every end that the journal tells of, not only the last: each was asked for since the microVM was placed, or its VMM was struck under that epoch.</summary>
    private static IEnumerable<Violation> Unasked(History history, JournalIndex journal, string vm, List<StoredEvent> events, HashSet<Verb> asked)
    {
        bool placed = false, stopping = false, deleting = false, suspended = false;
        foreach (var stored in events)
        {
            switch (stored.Event)
            {
                case var place when JournalIndex.PlaceOf(place) is not null:
                    (placed, stopping, suspended) = (true, false, false);
                    break;
                case VmSuspendRequested when !asked.Contains(Verb.Suspend):
                    yield return new(EndedUnasked, vm, "it was suspended, and nobody asked for that");
                    break;
                case VmResumeRequested when !asked.Contains(Verb.Resume):
                    yield return new(EndedUnasked, vm, "it was resumed, and nobody asked for that");
                    break;
                case VmSuspended or VmResumeFailed:
                    (placed, suspended) = (false, true);
                    break;
                case VmLost or VmLaunchFailed or VmMoved or VmRestarted or VmStartRequested:
                    placed = false;
                    break;
                case VmStopRequested:
                    stopping = true;
                    if (!asked.Contains(Verb.Stop))
                        yield return new(EndedUnasked, vm, "it was told to stop, and nobody asked for that");
                    break;
                case VmDeleteRequested:
                    deleting = true;
                    if (!asked.Contains(Verb.Delete))
                        yield return new(EndedUnasked, vm, "it was told to go, and nobody asked for that");
                    break;
                // What is nowhere is stopped at once.
                case VmEnded { Reason.Code: "stop_requested" } when !placed && asked.Contains(Verb.Stop):
                    break;
                case VmEnded ended when !stopping && !deleting && !history.Broken.Contains((vm, ended.Epoch)):
                    yield return new(EndedUnasked, vm, $"it ended ({ended.Reason?.Code}) under epoch {ended.Epoch}, and nobody had asked for that");
                    break;
                case VmFailed { Reason.Code: HostLostCode } failed when suspended && journal.Placements.GetValueOrDefault((vm, failed.Epoch)) is { } host && journal.Hosts.GetValueOrDefault(host, []).Any(of => of.Event is HostLost && of.Order < stored.Order):
                    suspended = false;
                    break;
                case VmFailed failed when !stopping && !deleting && !history.Broken.Contains((vm, failed.Epoch)):
                    yield return new(EndedUnasked, vm, $"it failed ({failed.Reason?.Code}) under epoch {failed.Epoch}, and nobody had asked for its end or struck it");
                    break;
                case VmEnded or VmFailed:
                    placed = false;
                    break;
                case VmDeleted when !deleting:
                    yield return new(EndedUnasked, vm, "it was deleted, and nobody asked for that");
                    break;
            }
        }
    }

    private static IEnumerable<Violation> Twice(History history, JournalIndex journal)
    {
        foreach (var answers in history.Requests.Where(request => request is { Verb: Verb.Create, Acknowledged: true }).GroupBy(request => request.Key, StringComparer.Ordinal))
        {
            var ids = answers.Select(answer => answer.Vm).Distinct().ToList();
            if (ids.Count > 1)
                yield return new(MadeTwice, answers.Key, $"one idempotency key was answered with {string.Join(" and ", ids)}");
        }

        var keys = history.Requests.Where(request => request.Verb == Verb.Create).Select(request => request.Key).ToHashSet(StringComparer.Ordinal);
        foreach (var same in journal.Records.Values.Where(record => keys.Contains(record.Spec.Name)).GroupBy(record => record.Spec.Name, StringComparer.Ordinal).Where(same => same.Count() > 1))
            yield return new(MadeTwice, same.Key, $"one idempotency key made {string.Join(" and ", same.Select(record => record.Id))}");
    }
}
