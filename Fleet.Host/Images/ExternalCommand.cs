using System.ComponentModel;
using System.Diagnostics;
using System.Text;

namespace Fleet.Host.Images;

/// <summary>
/// A program of the host's distribution (<c>apt-get</c>, <c>dpkg-deb</c>, <c>depmod</c>) run to its end: without a shell,
/// without standard input, in the C locale, with bounded output and a time limit. It never outlives the call.
/// </summary>
internal static class ExternalCommand
{
    /// <summary>Enough for any listing that is parsed here; what a broken program prints beyond it is dropped.</summary>
    private const int OutputLimit = 1 << 20;

    /// <summary>Of a program's last words, in characters: with what failed before them and what to do behind them they fill a reason.</summary>
    private const int MostWords = 240;

    /// <summary>
    /// A program that was written a moment ago may be held open for writing by a child that another thread is just
    /// forking; it lets go when it executes its own program.
    /// </summary>
    private const int TextFileBusy = 26, BusyAttempts = 50;

    private static readonly TimeSpan BusyDelay = TimeSpan.FromMilliseconds(20);

    /// <summary>
    /// Runs <paramref name="program"/> and gives its standard output. Throws
    /// <see cref="Drivers.LaunchFailedException"/> when it is missing, fails, or takes longer than <paramref name="limit"/>.
    /// </summary>
    public static async Task<string> RunAsync(
        string program, IReadOnlyList<string> arguments, string? workingDirectory, TimeSpan limit, CancellationToken cancellation)
    {
        using var bounded = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        bounded.CancelAfter(limit);
        using var process = await StartAsync(program, arguments, workingDirectory, bounded.Token);
        try
        {
            var output = ReadBoundedAsync(process.StandardOutput, bounded.Token);
            var errors = ReadBoundedAsync(process.StandardError, bounded.Token);
            await Task.WhenAll(output, errors);
            await process.WaitForExitAsync(bounded.Token);
            if (process.ExitCode != 0)
                throw ImageUnavailable.Because($"{Describe(program, arguments)} failed with status {process.ExitCode}: {LastWords(await errors, await output)}");
            return await output;
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw ImageUnavailable.Because($"{Describe(program, arguments)} did not end within {limit.TotalSeconds:0} s.");
        }
        finally
        {
            await EndAsync(process);
        }
    }

    /// <summary>Whether this host has it.</summary>
    public static bool IsThere(string program) => Find(program) is not null;

    /// <summary>Starts a program whose output the caller reads; end it with <see cref="EndAsync"/> on every path.</summary>
    public static async Task<Process> StartAsync(
        string program, IReadOnlyList<string> arguments, string? workingDirectory, CancellationToken cancellation)
    {
        var start = new ProcessStartInfo(Locate(program), arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
            StandardOutputEncoding = Encoding.UTF8,
            StandardErrorEncoding = Encoding.UTF8,
            WorkingDirectory = workingDirectory ?? "/",
        };
        start.Environment["LC_ALL"] = "C";
        start.Environment["DEBIAN_FRONTEND"] = "noninteractive";
        for (var attempt = 1; ; attempt++)
        {
            try
            {
                var process = Process.Start(start)!;
                process.StandardInput.Close();
                return process;
            }
            catch (Win32Exception error) when (error.NativeErrorCode == TextFileBusy && attempt < BusyAttempts)
            {
                await Task.Delay(BusyDelay, cancellation);
            }
            catch (Win32Exception error)
            {
                throw ImageUnavailable.Because($"{program} can't be started on this host ({error.Message}). Install the Debian package that has it.", error);
            }
        }
    }

    /// <summary>Kills the program if it still runs, and waits until it is gone.</summary>
    public static async Task EndAsync(Process process)
    {
        if (process.HasExited) return;
        process.Kill(entireProcessTree: true);
        await process.WaitForExitAsync(CancellationToken.None);
    }

    /// <summary>Reads to the end so that the writer never blocks; keeps the first <see cref="OutputLimit"/> characters.</summary>
    public static async Task<string> ReadBoundedAsync(StreamReader reader, CancellationToken cancellation)
    {
        var kept = new StringBuilder();
        var buffer = new char[4096];
        int read;
        while ((read = await reader.ReadAsync(buffer, cancellation)) > 0)
            kept.Append(buffer, 0, Math.Min(read, OutputLimit - kept.Length));
        return kept.ToString();
    }

    /// <summary>The last lines a failed program wrote, on one line, for an error message; apt's warnings and notes only if it said nothing else.</summary>
    public static string LastWords(string errors, string output = "")
    {
        var lines = (string.IsNullOrWhiteSpace(errors) ? output : errors)
            .Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        var faults = lines.Where(line => !line.StartsWith("W: ", StringComparison.Ordinal) && !line.StartsWith("N: ", StringComparison.Ordinal)).ToArray();
        var words = string.Join(" | ", (faults.Length > 0 ? faults : lines).TakeLast(3));
        // The cause stands last, behind the addresses and paths that it befell.
        return words.Length == 0 ? "it said nothing" : words.Length > MostWords ? "…" + words[^MostWords..] : words;
    }

    /// <summary>An agent that is not root often lacks the sbin folders in PATH, where depmod is.</summary>
    private static string Locate(string program) => Find(program) ?? program;

    private static string? Find(string program)
    {
        var folders = (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':', StringSplitOptions.RemoveEmptyEntries);
        return folders.Concat(["/usr/sbin", "/usr/bin", "/sbin", "/bin"])
            .Select(folder => Path.Combine(folder, program))
            .FirstOrDefault(File.Exists);
    }

    private static string Describe(string program, IReadOnlyList<string> arguments) => $"`{program} {string.Join(' ', arguments)}`";
}
