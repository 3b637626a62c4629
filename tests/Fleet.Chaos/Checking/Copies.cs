namespace Fleet.Chaos.Checking;

/// <summary>
/// No two launches of a strict microVM run at the same time. An overlap counts only as far as both are known to have run; one that hangs
/// on when exactly a killed VMM died is told apart.
/// </summary>
internal static class Copies
{
    public const string Rule = "two_copies";

    public static IEnumerable<Violation> Check(History history, List<Violation> possible)
    {
        foreach (var runs in history.Runs.GroupBy(run => run.Vm, StringComparer.Ordinal))
        {
            // By its beginning each run is held against the one before it that lasts longest, of another launch.
            var ordered = runs.OrderBy(run => run.FromMs).ToList();
            for (var i = 1; i < ordered.Count; i++)
            {
                var run = ordered[i];
                var earlier = ordered.Take(i).Where(other => other.Launch != run.Launch && (other.Strict || run.Strict)).ToList();
                if (earlier.Count == 0)
                    continue;
                if (earlier.MaxBy(other => other.SureToMs) is { } sure && sure.SureToMs > run.FromMs)
                    yield return Told(sure, run, sure.SureToMs);
                else if (earlier.MaxBy(other => other.PossibleToMs) is { } maybe && maybe.PossibleToMs > run.FromMs)
                    possible.Add(Told(maybe, run, maybe.PossibleToMs));
            }
        }
    }

    private static Violation Told(RunInterval first, RunInterval second, long until) => new(
        Rule,
        second.Vm,
        $"epoch {second.Epoch} ran on {second.Host} from {second.FromMs} ms while epoch {first.Epoch} ran on {first.Host} until {until} ms: {Math.Min(until, second.PossibleToMs) - second.FromMs} ms together");
}
