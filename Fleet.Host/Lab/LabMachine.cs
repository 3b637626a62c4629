using System.Diagnostics;
using System.Globalization;
using System.Text;
using Fleet.Host.Drivers.Processes;
using Serilog;

namespace Fleet.Host.Lab;

/// <summary>
/// One lab node as a machine: boots, carries out commands one after the other or at once, is powered off. Everything it
/// has on the outer machine is one folder and one process.
/// </summary>
public sealed class LabMachine : IAsyncDisposable
{
    /// <summary>Largest file a node's QEMU may write on the outer machine: its serial log, its agent's log, a command's output.</summary>
    internal const long FileSizeLimit = 64L << 20;

    private const int OutputLimit = 16 << 20;
    private static readonly string[] Causes = ["Kernel panic", "soft lockup", "FLEET-LAB failed"];
    private static readonly TimeSpan Poll = TimeSpan.FromMilliseconds(25);

    private readonly NodeProcess _process;
    private readonly bool _ownsFolder;

    private LabMachine(string name, string folder, NodeProcess process, bool ownsFolder)
    {
        Name = name;
        Folder = folder;
        _process = process;
        _ownsFolder = ownsFolder;
    }

    /// <summary>The node's name and host name.</summary>
    public string Name { get; }

    /// <summary>Logs, pipes and exchange.</summary>
    public string Folder { get; }

    /// <summary>QEMU runs.</summary>
    public bool IsOn => _process.IsRunning;

    /// <summary>The kernel's console, of every boot attempt.</summary>
    public string SerialLog => Path.Combine(Folder, QemuCommand.SerialLog);

    /// <summary>For a node to say that a command it was told to end is gone; one that takes longer has hung.</summary>
    internal TimeSpan AnswerLimit { get; set; } = TimeSpan.FromSeconds(20);

    private string Exchange => Path.Combine(Folder, QemuCommand.Exchange);

    /// <summary>
    /// Boots one node of its own, for a test or a benchmark: it ends with this process at the latest, and
    /// <see cref="DisposeAsync"/> leaves nothing of it behind.
    /// </summary>
    public static async Task<LabMachine> StartAsync(LabOptions options, ILogger log, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        var image = await NodeImage.GetAsync(options.CacheDirectory, log, cancellation);
        var name = $"node-{Guid.NewGuid().ToString("N")[..8]}";
        return await BootAsync(options, image, name, Path.Combine(options.StateDirectory, name), NodeLifetime.WithThisProcess, log, cancellation);
    }

    /// <summary>A node that an earlier process booted.</summary>
    internal static LabMachine Attach(string name, string folder, NodeProcess process) => new(name, folder, process, ownsFolder: false);

    /// <summary>
    /// Boots a node in <paramref name="folder"/>, which is made anew, and waits until its init says ready. A node that hangs
    /// is powered off and tried again. Whatever goes wrong, cancellation included: the process and the folder are gone.
    /// </summary>
    internal static async Task<LabMachine> BootAsync(
        LabOptions options, NodeImage image, string name, string folder, NodeLifetime lifetime, ILogger log,
        CancellationToken cancellation)
    {
        NodeProcess? process = null;
        try
        {
            PrepareFolder(options, name, folder);
            for (var attempt = 1; ; attempt++)
            {
                process = await NodeProcess.StartAsync(
                    folder, options.QemuPath(), QemuCommand.Arguments(name, image, options.MemoryMib, options.Cpus), lifetime, FileSizeLimit);
                var machine = new LabMachine(name, folder, process, ownsFolder: lifetime == NodeLifetime.WithThisProcess);
                var trouble = await machine.WaitUntilReadyAsync(options.BootTimeout, cancellation);
                if (trouble is null) return machine;
                await process.KillAsync();
                if (attempt == options.BootAttempts)
                    throw new LabException("boot_failed", $"Lab node {name} did not boot in {attempt} attempts. The last one {trouble} Its console ended with: {machine.LastWords()}");
                log.Warning("Lab node {Node}: boot attempt {Attempt} of {Attempts} {Trouble} Starting it again", name, attempt, options.BootAttempts, trouble);
            }
        }
        catch
        {
            if (process is not null) await process.KillAsync();
            if (Directory.Exists(folder)) Directory.Delete(folder, recursive: true);
            throw;
        }
    }

    /// <summary>
    /// Runs a command to its end. Throws <see cref="LabException"/>: <c>command_timeout</c> when it took longer than
    /// <paramref name="timeout"/> (the command and all it started are killed), <c>node_stuck</c> when even that got no answer,
    /// <c>node_off</c> when the node ended under it.
    /// Cancellation kills the command too. What a command leaves running goes on until the node ends.
    /// </summary>
    public async Task<LabResult> RunAsync(LabCommand command, TimeSpan timeout, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(command);
        var script = command.ToScript();
        var id = Guid.NewGuid().ToString("N")[..12];
        var since = Stopwatch.StartNew();
        RequireRunning(command);
        try
        {
            await File.WriteAllTextAsync(FileOf(id, "sh"), script, cancellation);
            Tell($"run {id}");
            var status = await WaitForExitAsync(id, timeout, cancellation);
            if (status is null)
            {
                var answered = await EndCommandAsync(id);
                if (!answered) RequireRunning(null);
                var said = $"{Tail(ReadOutput(id, "out"))} {Tail(ReadOutput(id, "err"))}";
                throw answered
                    ? new LabException("command_timeout", $"'{Describe(command)}' in lab node {Name} did not end within {timeout.TotalSeconds:0.#} s and was killed. It said: {said}")
                    : new LabException("node_stuck", $"Lab node {Name} hung under '{Describe(command)}', which said: {said}. The node's console ended with: {LastWords()}");
            }
            return new LabResult(status.Value, ReadOutput(id, "out"), ReadOutput(id, "err"), since.Elapsed);
        }
        catch (OperationCanceledException)
        {
            await EndCommandAsync(id);
            throw;
        }
        finally
        {
            RemoveFiles(id);
        }

        async Task<int?> WaitForExitAsync(string command, TimeSpan limit, CancellationToken token)
        {
            while (since.Elapsed < limit)
            {
                if (ExitStatus(command) is { } status) return status;
                RequireRunning(null);
                await Task.Delay(Poll, token);
            }
            return null;
        }
    }

    /// <summary>Power off as with the plug: QEMU is killed.</summary>
    public Task PowerOffAsync() => _process.KillAsync();

    /// <summary>Powers off; a node from <see cref="StartAsync"/> loses its folder too.</summary>
    public async ValueTask DisposeAsync()
    {
        if (!_ownsFolder) return;
        await PowerOffAsync();
        if (Directory.Exists(Folder)) Directory.Delete(Folder, recursive: true);
    }

    private static void PrepareFolder(LabOptions options, string name, string folder)
    {
        if (Directory.Exists(folder)) Directory.Delete(folder, recursive: true);
        var exchange = Path.Combine(folder, QemuCommand.Exchange);
        Directory.CreateDirectory(exchange);
        if (options.Agent is { } agent) File.WriteAllText(Path.Combine(exchange, "agent.sh"), agent.ToScript(name));
        foreach (var end in (ReadOnlySpan<string>)["in", "out"]) Posix.MakeFifo(Path.Combine(folder, $"{QemuCommand.Control}.{end}"));
        new NodeRecord(name, options.MemoryMib, options.Cpus, TimeProvider.System.GetUtcNow()).Write(folder);
    }

    /// <summary>Null when it is ready; otherwise what went wrong, as the end of a sentence about the attempt.</summary>
    private async Task<string?> WaitUntilReadyAsync(TimeSpan limit, CancellationToken cancellation)
    {
        var since = Stopwatch.StartNew();
        while (since.Elapsed < limit)
        {
            if (IsReady) return null;
            if (File.Exists(Path.Combine(Exchange, "failed")))
                throw new LabException("boot_failed", $"Lab node {Name} booted but is of no use: {(await File.ReadAllTextAsync(Path.Combine(Exchange, "failed"), cancellation)).Trim()}. Its console ended with: {LastWords()}");
            if (!_process.IsRunning)
            {
                if (QemuSaid() is { Length: > 0 } said)
                    throw new LabException("boot_failed", $"QEMU did not start lab node {Name}: {said}");
                return $"ended after {since.Elapsed.TotalSeconds:0.0} s without being ready.";
            }
            await Task.Delay(Poll, cancellation);
        }
        return $"hung: not ready after {limit.TotalSeconds:0} s.";
    }

    /// <summary>Its init has said so.</summary>
    internal bool IsReady => File.Exists(Path.Combine(Exchange, "ready"));

    private void Tell(string line)
    {
        using var pipe = Posix.TryOpenFifoWriter(Path.Combine(Folder, $"{QemuCommand.Control}.in"));
        var bytes = Encoding.ASCII.GetBytes(line + "\n");
        // Nobody reads: QEMU is gone, which whoever waits for an answer notices. Full: some 200 lines that the node did not take.
        if (pipe is not null && Posix.WriteNonblocking(pipe, bytes) != bytes.Length && _process.IsRunning)
            throw new LabException("node_stuck", $"Lab node {Name} takes no more commands. Its console ended with: {LastWords()}");
    }

    /// <summary>Whether the node ended it.</summary>
    private async Task<bool> EndCommandAsync(string id)
    {
        if (!_process.IsRunning) return false;
        Tell($"end {id}");
        for (var since = Stopwatch.StartNew(); since.Elapsed < AnswerLimit && _process.IsRunning; await Task.Delay(Poll))
        {
            if (ExitStatus(id) is not null) return true;
        }
        return false;
    }

    private void RequireRunning(LabCommand? command)
    {
        if (_process.IsRunning) return;
        var what = command is null ? "ended while a command ran in it" : $"is off: it can't run '{Describe(command)}'";
        throw new LabException("node_off", $"Lab node {Name} {what}. Its console ended with: {LastWords()}");
    }

    /// <summary>Complete only with its line end.</summary>
    private int? ExitStatus(string id)
    {
        var path = FileOf(id, "exit");
        if (!File.Exists(path)) return null;
        var text = File.ReadAllText(path);
        return text.EndsWith('\n') && int.TryParse(text, CultureInfo.InvariantCulture, out var status) ? status : null;
    }

    private string FileOf(string id, string kind) => Path.Combine(Exchange, $"{id}.{kind}");

    private string ReadOutput(string id, string kind) => ReadStart(FileOf(id, kind), OutputLimit);

    private void RemoveFiles(string id)
    {
        // QEMU keeps what a file is to the node beside it, in a folder of its own.
        foreach (var folder in (ReadOnlySpan<string>)[Exchange, Path.Combine(Exchange, ".virtfs_metadata")])
        {
            if (!Directory.Exists(folder)) continue;
            foreach (var file in Directory.GetFiles(folder, $"{id}.*")) File.Delete(file);
        }
    }

    private string QemuSaid() => Tail(ReadStart(Path.Combine(Folder, NodeProcess.Log), 4096));

    /// <summary>The console's end, headed by the last line that names a cause: a panic's call trace would hide it.</summary>
    private string LastWords()
    {
        if (!File.Exists(SerialLog)) return "(no console log)";
        using var log = new FileStream(SerialLog, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
        log.Seek(-Math.Min(16384, log.Length), SeekOrigin.End);
        using var reader = new StreamReader(log);
        var text = reader.ReadToEnd();
        var cause = text.Split('\n').LastOrDefault(line => Causes.Any(words => line.Contains(words, StringComparison.Ordinal)));
        var tail = Tail(text);
        return cause is null || tail.Contains(cause.Trim(), StringComparison.Ordinal) ? tail : $"{Tail(cause)} … {tail}";
    }

    private static string ReadStart(string path, int limit)
    {
        if (!File.Exists(path)) return "";
        using var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
        var bytes = new byte[Math.Min(limit, file.Length)];
        return Encoding.UTF8.GetString(bytes, 0, file.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false));
    }

    /// <summary>The last lines on one line, without what a terminal would not show.</summary>
    private static string Tail(string text)
    {
        var lines = text.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).TakeLast(6);
        var line = new string([.. string.Join(" | ", lines).Where(c => !char.IsControl(c))]);
        return line.Length > 800 ? "…" + line[^800..] : line;
    }

    private static string Describe(LabCommand command)
    {
        var words = string.Join(' ', command.Argv).ReplaceLineEndings(" ");
        return words.Length > 120 ? words[..120] + "…" : words;
    }
}
