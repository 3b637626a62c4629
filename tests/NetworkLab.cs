using System.Diagnostics;
using System.Globalization;
using Xunit;

namespace Fleet.Tests;

/// <summary>
/// Some network namespaces of a test: one is the host's, one the world outside of it, each other a guest. Nothing leads from them to
/// the machine's own network. Disposed of, they are gone with every process in them.
/// </summary>
internal sealed class NetworkLab : IDisposable
{
    private readonly List<string> _names = [];
    private readonly List<Process> _started = [];
    private readonly string _prefix = string.Create(CultureInfo.InvariantCulture, $"fleet-net-{Environment.ProcessId}-{Guid.NewGuid().ToString("n")[..6]}-");

    public static bool IsPossible => Environment.IsPrivilegedProcess && File.Exists("/dev/net/tun") && File.Exists("/usr/sbin/nft");

    public string Add(string name)
    {
        var full = _prefix + name;
        Run("ip", "netns", "add", full);
        _names.Add(full);
        Run("ip", "-n", full, "link", "set", "lo", "up");
        return full;
    }

    /// <summary>What to put before a command so that it runs in there; the process id stays.</summary>
    public static string[] Enter(string space) => ["nsenter", $"--net=/run/netns/{space}", "--"];

    public string In(string space, params string[] command) => Run([.. Enter(space), .. command]);

    /// <summary>Whether the command ends with status 0.</summary>
    public static bool Works(string space, params string[] command)
    {
        using var process = Begin([.. Enter(space), .. command]);
        process.StandardInput.Close();
        var output = process.StandardOutput.ReadToEndAsync();
        var errors = process.StandardError.ReadToEndAsync();
        process.WaitForExit();
        Task.WaitAll(output, errors);
        return process.ExitCode == 0;
    }

    /// <summary>Something that goes on until the end of the test.</summary>
    public void Start(string space, params string[] command) => _started.Add(Begin([.. Enter(space), .. command]));

    /// <summary>Gives the text as a command's standard input.</summary>
    public static string Feed(string space, string input, params string[] command)
    {
        using var process = Begin([.. Enter(space), .. command]);
        process.StandardInput.Write(input);
        process.StandardInput.Close();
        return Finish(process, command);
    }

    public static string Run(params string[] command)
    {
        using var process = Begin(command);
        process.StandardInput.Close();
        return Finish(process, command);
    }

    public void Dispose()
    {
        foreach (var process in _started)
        {
            if (!process.HasExited)
                process.Kill(entireProcessTree: true);
            process.WaitForExit();
            process.Dispose();
        }

        foreach (var name in _names)
            Run("ip", "netns", "delete", name);
    }

    private static Process Begin(string[] command) => Process.Start(new ProcessStartInfo(command[0], command[1..])
    {
        RedirectStandardInput = true,
        RedirectStandardOutput = true,
        RedirectStandardError = true,
    })!;

    private static string Finish(Process process, string[] command)
    {
        var errors = process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, $"{string.Join(' ', command)}: {process.ExitCode}: {errors.Result}");
        return output;
    }
}
