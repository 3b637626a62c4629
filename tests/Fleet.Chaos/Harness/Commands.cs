using System.Globalization;

namespace Fleet.Chaos.Harness;

/// <summary>The one place that knows the command line of the program under test.</summary>
internal static class Commands
{
    public const int ApiPort = 7070;
    public const int LinkPort = 7071;

    public const int ClusterPort = 7072;

    /// <param name="database">That several nodes share; null: this one stands alone.</param>
    public static string[] Scheduler(string data, string address, TimeSpan lease, string? database) =>
    [
        "scheduler", "--data", data, "--api", $"https://{address}:{ApiPort}", "--link", $"{address}:{LinkPort}", "--lease", Whole(lease.TotalSeconds),
        .. database is null ? Array.Empty<string>() : ["--database", database, "--cluster", $"{address}:{ClusterPort}"],
    ];

    /// <summary>Where a node keeps what it knows, below its data directory.</summary>
    public static string SchedulerState(string data) => Path.Combine(data, "scheduler");

    /// <summary>Below that: the cell's certificate authority, which every node has.</summary>
    public static string Authority(string data) => Path.Combine(SchedulerState(data), "ca");

    public static string SqliteJournal(string data) => Path.Combine(SchedulerState(data), "journal.db");

    public static string[] Host(string data, string id, IEnumerable<string> schedulers, int cpus, int memoryMib, string runLogs) =>
    [
        "host", "--data", data, "--join", .. schedulers.Select(address => $"https://{address}:{LinkPort}"), "--id", id, "--cpus", Whole(cpus), "--memory", Whole(memoryMib), "--run-log", runLogs,
    ];

    private static string Whole(double number) => number.ToString("0", CultureInfo.InvariantCulture);
}
