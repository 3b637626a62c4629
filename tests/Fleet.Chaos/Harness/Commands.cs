using System.Globalization;

namespace Fleet.Chaos.Harness;

/// <summary>The one place that knows the command line of the program under test.</summary>
internal static class Commands
{
    public const int ApiPort = 7070;
    public const int LinkPort = 7071;

    public static string[] Scheduler(string data, string address, TimeSpan lease) =>
    [
        "scheduler", "--data", data, "--api", $"https://{address}:{ApiPort}", "--link", $"{address}:{LinkPort}", "--lease", Whole(lease.TotalSeconds),
    ];

    public static string[] Host(string data, string id, string scheduler, int cpus, int memoryMib, string runLogs) =>
    [
        "host", "--data", data, "--join", $"https://{scheduler}:{LinkPort}", "--id", id, "--cpus", Whole(cpus), "--memory", Whole(memoryMib), "--run-log", runLogs,
    ];

    private static string Whole(double number) => number.ToString("0", CultureInfo.InvariantCulture);
}
