namespace Fleet.Chaos.Harness;

/// <summary>What can be killed, stopped and started again.</summary>
internal interface ITarget
{
    string Name { get; }

    /// <summary>Every process of it that runs; none when it is down.</summary>
    IReadOnlyList<int> Pids { get; }

    /// <summary>It should run, and it ended by itself.</summary>
    bool HasFailed { get; }

    /// <summary>Starts it, if it is down.</summary>
    Task StartAsync();

    /// <summary>kill -9; a stopped one too.</summary>
    Task KillAsync();

    /// <summary>Asks it to end in order. One that does not is killed, and that is told by false.</summary>
    Task<bool> EndAsync();

    /// <summary>The last lines of what it printed since it was started last.</summary>
    string LogTail(int lines = 20);
}

internal static class Targets
{
    public static void Signal(this ITarget target, int signal)
    {
        foreach (var pid in target.Pids)
            Network.Kernel.Signal(pid, signal);
    }
}
