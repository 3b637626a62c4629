namespace Fleet.Chaos.Checking;

/// <summary>What the checker found.</summary>
internal sealed record Verdict
{
    /// <summary>Broken promises; must be none.</summary>
    public required IReadOnlyList<Violation> Violations { get; init; }

    /// <summary>Pairs of runs that overlap only if a guest ran on with its machine that had been stopped, in the moment before its VMM said that it stands: no proof of anything.</summary>
    public required IReadOnlyList<Violation> Possible { get; init; }

    /// <summary>For each microVM that was lost and runs again, how long that took from its host's last sign.</summary>
    public required IReadOnlyList<TimeSpan> Recoveries { get; init; }

    /// <summary>Lost microVMs that had to wait since no host had room.</summary>
    public required int WaitedForRoom { get; init; }

    /// <summary>Recoveries that were held to lease and 5 s.</summary>
    public required int Unexcused { get; init; }

    /// <summary>Recoveries that had more time, for faults of the control plane that bore on them.</summary>
    public required int Excused { get; init; }

    /// <summary>Of these, those that took more than lease and 5 s.</summary>
    public required int LateExcused { get; init; }
}

/// <summary>Holds a history against every promise of the fleet. Pure: the same history gives the same verdict.</summary>
internal static class Checker
{
    public static Verdict Check(History history)
    {
        var journal = JournalIndex.Of(history.Journal);
        var violations = new List<Violation>();
        var possible = new List<Violation>();
        violations.AddRange(Copies.Check(history, possible));
        violations.AddRange(Promises.Check(history, journal));
        violations.AddRange(Answers.Check(history));
        violations.AddRange(Ends.Check(history));
        violations.AddRange(Order.Check(history, journal));
        violations.AddRange(Room.Check(history, journal));
        var recovery = Recovery.Check(history, journal);
        violations.AddRange(recovery.Violations);
        return new Verdict
        {
            Violations = violations,
            Possible = possible,
            Recoveries = recovery.Times,
            WaitedForRoom = recovery.WaitedForRoom,
            Unexcused = recovery.Unexcused,
            Excused = recovery.Excused,
            LateExcused = recovery.Late,
        };
    }
}
