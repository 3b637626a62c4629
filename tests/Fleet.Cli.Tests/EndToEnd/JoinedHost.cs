using System.Diagnostics;
using System.Globalization;
using System.Text.Json;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary><c>fleet host --join</c> as a process of its own, on a folder of the fleet's.</summary>
internal sealed class JoinedHost : IDisposable
{
    private readonly RunningFleet _fleet;
    private readonly string _id;
    private readonly Process _process;

    /// <param name="fleet">Whom it joins.</param>
    /// <param name="id">Its id, and the name of its folder.</param>
    /// <param name="program">Another build of the program; null: this one.</param>
    /// <param name="more">More options of it.</param>
    public JoinedHost(RunningFleet fleet, string id, string? program = null, params string[] more)
    {
        (_fleet, _id) = (fleet, id);
        string[] words = ["host", "--data", Folder, "--join", fleet.Link.ToString(), "--id", id, "--memory", "1024", "--cpus", "2", "--run-log", Runs(fleet), .. more];
        // It joins once; after that it has its certificate.
        string[] token = Directory.Exists(Path.Combine(Folder, "host", "link")) ? [] : ["--token", fleet.TokenAsync("host").Result];
        _process = fleet.StartProgram(id, program ?? RunningFleet.Program, [.. words, .. token]);
    }

    public string Folder => Path.Combine(_fleet.Files, _id);

    /// <summary>Where every host of the fleet leaves when guests ran.</summary>
    public static string Runs(RunningFleet fleet) => Path.Combine(fleet.Files, "runs");

    /// <summary>Processor time of all threads, in ticks of 10 ms; 0 when it is gone.</summary>
    public static long CpuTicks(int pid)
    {
        try
        {
            var words = File.ReadAllText($"/proc/{pid}/stat").Split(") ")[^1].Split(' ');
            return long.Parse(words[11], CultureInfo.InvariantCulture) + long.Parse(words[12], CultureInfo.InvariantCulture);
        }
        catch (IOException)
        {
            return 0;
        }
    }

    public async Task<JsonElement> ShowAsync() => (await _fleet.SendAsync(HttpMethod.Get, $"/v1/hosts/{_id}")).Body;

    public Task ConnectedAsync() => RunningFleet.WaitAsync($"host {_id} to be connected", async () =>
        await ShowAsync() is { ValueKind: JsonValueKind.Object } host && host.TryGetProperty("state", out var state) && state.GetString() == "connected");

    public void Signal(string name)
    {
        using var kill = Process.Start("kill", [$"-{name}", $"{_process.Id}"]);
        kill.WaitForExit();
    }

    /// <summary>Ends it in order.</summary>
    /// <returns>Its exit code.</returns>
    public async Task<int> EndAsync()
    {
        Signal("TERM");
        await _process.WaitForExitAsync().WaitAsync(TimeSpan.FromSeconds(30));
        return _process.ExitCode;
    }

    public void Dispose()
    {
        if (!_process.HasExited)
        {
            Signal("CONT");
            Signal("TERM");
            if (!_process.WaitForExit(TimeSpan.FromSeconds(20)))
                _process.Kill();
        }

        _process.Dispose();
    }
}
