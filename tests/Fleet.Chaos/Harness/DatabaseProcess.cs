using System.Globalization;
using Fleet.Chaos.Network;
using Fleet.Tests;

namespace Fleet.Chaos.Harness;

/// <summary>The cell's PostgreSQL server: its processes as one target.</summary>
internal sealed class DatabaseProcess(PostgresServer server) : ITarget
{
    private static readonly TimeSpan StartBound = TimeSpan.FromMinutes(1);

    private bool _wanted = true;

    public string Name => "database";

    /// <summary>The server and those that it has for its connections.</summary>
    public IReadOnlyList<int> Pids => server.ProcessId is var first and > 0
        ? [first, .. File.ReadAllText($"/proc/{first}/task/{first}/children").Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(pid => int.Parse(pid, CultureInfo.InvariantCulture))]
        : [];

    public bool HasFailed => _wanted && server.ProcessId == 0;

    public async Task StartAsync()
    {
        if (server.ProcessId != 0)
            return;
        // Killed, it leaves children that hold the memory for a moment; and on a full disk it can't start at all.
        for (var from = Kernel.BootMs; ;)
        {
            try
            {
                await server.StartAsync();
                // Only now: one that could not start yet has not ended by itself.
                _wanted = true;
                return;
            }
            catch (InvalidOperationException) when (Kernel.BootMs - from < StartBound.TotalMilliseconds)
            {
                await Task.Delay(200);
            }
        }
    }

    public async Task KillAsync()
    {
        _wanted = false;
        await server.KillAsync();
    }

    public async Task<bool> EndAsync()
    {
        _wanted = false;
        try
        {
            await server.StopAsync();
            return true;
        }
        catch (InvalidOperationException)
        {
            await server.KillAsync();
            return false;
        }
    }

    public string LogTail(int lines = 20) => "";
}
