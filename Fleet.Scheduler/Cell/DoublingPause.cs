namespace Fleet.Scheduler.Cell;

/// <summary>Pauses that double with each try that was in vain.</summary>
internal static class DoublingPause
{
    // More would overflow, and is beyond any bound.
    private const int MostDoublings = 20;

    /// <param name="first">After none in vain.</param>
    /// <param name="tries">That were in vain.</param>
    /// <param name="most">No pause is longer.</param>
    public static TimeSpan After(TimeSpan first, long tries, TimeSpan most) =>
        first * Math.Pow(2, Math.Min(tries, MostDoublings)) is var pause && pause < most ? pause : most;
}
