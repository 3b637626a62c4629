namespace Fleet.Chaos.Checking;

/// <summary>A time in which a guest ran.</summary>
/// <param name="Run">The launch.</param>
/// <param name="FromMs">From here.</param>
/// <param name="ToMs">To here.</param>
/// <param name="Sure">False: only if it went on for a moment when its stopped machine did, before its VMM said that it stands.</param>
internal readonly record struct Execution(RunInterval Run, long FromMs, long ToMs, bool Sure);

/// <summary>
/// When guests ran, out of their VMMs' lines and of what was done to their hosts. A silence proves nothing in the guest's favour: it ran on in it,
/// but for the time in which its machine was stopped, and until it was killed or its agent saw that its process is gone. Of a launch
/// that just says no more, neither struck nor ended, nobody knows that it does not run to this day.
/// </summary>
internal sealed class Executions(History history, JournalIndex journal)
{
    private readonly ILookup<string, Strike> _strikes = history.Strikes.OrderBy(strike => strike.FromMs).ToLookup(strike => strike.Host, StringComparer.Ordinal);

    public IEnumerable<Execution> Of(RunInterval run)
    {
        var end = run.PossibleToMs;
        if (run.Open)
        {
            if (Killed(run) is { } killed)
                end = Math.Max(killed.FromMs, run.SureToMs);
            else if (!journal.Ended.Contains((run.Vm, run.Epoch)))
                end = Math.Max(history.EndMs, run.PossibleToMs);
            else
            {
                yield return new(run, run.FromMs, run.SureToMs, Sure: true);
                yield break;
            }
        }

        var from = run.FromMs;
        var hung = false;
        foreach (var strike in _strikes[run.Host].Where(strike => IsStopped(run, strike) && strike.FromMs < end && strike.ToMs > run.SureToMs))
        {
            yield return new(run, from, Math.Max(strike.FromMs, run.SureToMs), Sure: true);
            from = Math.Min(strike.ToMs, end);
            hung = true;
        }

        yield return new(run, from, end, Sure: !hung || !run.Stood || end - from > RunLog.OnTimeMs);
    }

    private static bool IsStopped(RunInterval run, Strike strike) =>
        strike.Kind == StrikeKind.Hang || (strike.Kind == StrikeKind.HangVmm && (strike.Vm, strike.Epoch) == (run.Vm, run.Epoch));

    /// <summary>What ended a launch of which no line comes any more.</summary>
    private Strike? Killed(RunInterval run) => _strikes[run.Host].FirstOrDefault(strike => strike.FromMs >= run.SureToMs - RunLog.AliveEveryMs && strike.Kind switch
    {
        StrikeKind.PowerOff => true,
        StrikeKind.KillVmm => (strike.Vm, strike.Epoch) == (run.Vm, run.Epoch),
        // A simulated guest is only what its agent makes of it.
        StrikeKind.AgentEnd => journal.SpecOf(run.Vm)?.Driver == "simulated",
        _ => false,
    });
}
