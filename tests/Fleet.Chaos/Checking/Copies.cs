namespace Fleet.Chaos.Checking;

/// <summary>
/// No two launches of a strict microVM run at the same time. A silence counts as run unless somebody was seen to strike; the one thing told
/// apart is the moment in which a machine that had been stopped goes on.
/// </summary>
internal static class Copies
{
    public const string Rule = "two_copies";

    public static IEnumerable<Violation> Check(History history, List<Violation> possible)
    {
        var executions = new Executions(history, JournalIndex.Of(history.Journal));
        foreach (var runs in history.Runs.GroupBy(run => run.Vm, StringComparer.Ordinal))
        {
            // By its beginning each is held against the one before it that lasts longest, of another launch.
            var ordered = runs.SelectMany(executions.Of).OrderBy(execution => execution.FromMs).ToList();
            for (var i = 1; i < ordered.Count; i++)
            {
                var later = ordered[i];
                var earlier = ordered.Take(i)
                    .Where(other => other.Run.Launch != later.Run.Launch && (other.Run.Strict || later.Run.Strict) && other.ToMs > later.FromMs)
                    .OrderByDescending(other => other.Sure).ThenByDescending(other => other.ToMs).ToList();
                if (earlier.Count == 0)
                    continue;
                if (later.Sure && earlier[0].Sure)
                    yield return Told(earlier[0], later);
                else
                    possible.Add(Told(earlier[0], later));
            }
        }
    }

    private static Violation Told(Execution first, Execution second) => new(
        Rule,
        second.Run.Vm,
        $"epoch {second.Run.Epoch} ran on {second.Run.Host} from {second.FromMs} ms while epoch {first.Run.Epoch} ran on {first.Run.Host} until {first.ToMs} ms{(first.ToMs > first.Run.SureToMs ? $", its last sign at {first.Run.SureToMs} ms" : "")}: {Math.Min(first.ToMs, second.ToMs) - second.FromMs} ms together");
}
