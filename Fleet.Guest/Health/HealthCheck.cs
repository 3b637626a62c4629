namespace Fleet.Guest.Health;

/// <summary>How it is found out whether the microVM's command still does its work (docs/guest-protocol.md).</summary>
/// <param name="Argv">A program that ends with 0; empty: a port is asked.</param>
/// <param name="Port">Of this machine, TCP; 0: none.</param>
/// <param name="HttpPath">Asked of the port by HTTP, and answered with 200 to 399; empty: that it takes a connection is enough.</param>
/// <param name="Interval">Between one check's end and the next.</param>
/// <param name="Timeout">A check that takes longer has failed.</param>
/// <param name="Failures">So many in a row make the microVM unhealthy.</param>
/// <param name="StartPeriod">From the command's start; failures in it do not count.</param>
internal sealed record HealthCheck(
    IReadOnlyList<string> Argv, ushort Port, string HttpPath, TimeSpan Interval, TimeSpan Timeout, int Failures, TimeSpan StartPeriod);

/// <summary>Counts: what a row of results makes of the microVM. Pure.</summary>
internal sealed class HealthRecord(HealthCheck check)
{
    private int _failures;

    /// <summary>In a row, that count.</summary>
    public int Failures => _failures;

    /// <summary>Takes a result.</summary>
    /// <param name="problem">Null: the check passed.</param>
    /// <param name="sinceStart">When it ended, since the command began.</param>
    /// <returns>True: the microVM is unhealthy.</returns>
    public bool Take(string? problem, TimeSpan sinceStart)
    {
        if (problem is null) _failures = 0;
        else if (sinceStart >= check.StartPeriod) _failures++;
        return _failures >= check.Failures;
    }
}
