using System.Globalization;
using Fleet.Host.Drivers;
using Fleet.Host.Images;
using Serilog;

namespace Fleet.Host.Lab;

/// <summary>
/// Bare-metal hosts as QEMU machines with emulated SVM, so that a machine without hardware virtualisation has hosts with a
/// real /dev/kvm, which can be powered off for real. Nodes are called <c>lab-1</c>, <c>lab-2</c>, …; they outlive the
/// process that started them, until they are removed. One call works on a lab at a time, also among processes.
/// </summary>
public sealed class Lab
{
    /// <summary>Most nodes of a lab.</summary>
    public const int MostNodes = 32;

    private static readonly TimeSpan LockLimit = TimeSpan.FromSeconds(5);

    private readonly LabOptions _options;
    private readonly ILogger _log;
    private readonly Func<CancellationToken, Task<NodeImage>> _image;

    /// <summary>A lab over <see cref="LabOptions.StateDirectory"/>; nothing happens yet.</summary>
    public Lab(LabOptions options, ILogger log)
        : this(options, log, cancellation => NodeImage.GetAsync(options.CacheDirectory, log, cancellation))
    {
    }

    /// <summary>A lab whose nodes boot another image.</summary>
    internal Lab(LabOptions options, ILogger log, Func<CancellationToken, Task<NodeImage>> image)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(log);
        _options = options;
        _image = image;
        _log = log.ForContext<Lab>();
    }

    /// <summary>
    /// Sees to it that <c>lab-1</c> to <c>lab-N</c> run and are ready: starts what is missing or off, leaves alone what runs.
    /// Gives those nodes. When it fails or is cancelled, the nodes that this call started are gone.
    /// </summary>
    public async Task<IReadOnlyList<LabNode>> UpAsync(int nodes, CancellationToken cancellation)
    {
        LabOptions.Require(nodes is >= 1 and <= MostNodes, $"A lab has 1 to {MostNodes} nodes, not {nodes}.");
        _options.Validate();
        Directory.CreateDirectory(_options.StateDirectory);
        using var held = await HoldAsync(cancellation);
        try
        {
            var names = Enumerable.Range(1, nodes).Select(number => $"lab-{number}").ToList();
            var missing = names.Where(name => Look(name)?.State != LabNodeState.Running).ToList();
            RequireMemory(missing.Count);
            if (missing.Count > 0)
            {
                await StartAllAsync(missing, await _image(cancellation), cancellation);
            }
            return [.. names.Select(name => Look(name)!)];
        }
        finally
        {
            RemoveIfEmpty();
        }
    }

    /// <summary>The nodes, by number.</summary>
    public IReadOnlyList<LabNode> List() =>
        [.. Names().Select(Look).OfType<LabNode>()];

    /// <summary>Runs a command in a node that is ready; see <see cref="LabMachine.RunAsync"/>.</summary>
    public async Task<LabResult> RunAsync(string node, LabCommand command, TimeSpan timeout, CancellationToken cancellation)
    {
        var folder = FolderOf(node);
        if (Look(node)!.State != LabNodeState.Running || NodeProcess.Find(folder) is not { } process)
            throw new LabException("node_off", $"Lab node {node} is not running. Start it: fleet lab up");
        await using var machine = LabMachine.Attach(node, folder, process);
        return await machine.RunAsync(command, timeout, cancellation);
    }

    /// <summary>Pulls a node's plug. It stays listed, as off; what was in its memory is lost.</summary>
    public async Task PowerOffAsync(string node, CancellationToken cancellation)
    {
        var folder = FolderOf(node);
        using var held = await HoldAsync(cancellation);
        await PowerOffAsync(folder);
    }

    /// <summary>Takes a node out of the lab, powered off before if it runs, with its logs.</summary>
    public async Task RemoveAsync(string node, CancellationToken cancellation)
    {
        var folder = FolderOf(node);
        using var held = await HoldAsync(cancellation);
        await RemoveFolderAsync(folder);
        RemoveIfEmpty();
    }

    /// <summary>Removes every node. Nothing of the lab is left but the cache.</summary>
    public async Task DownAsync(CancellationToken cancellation)
    {
        if (!Directory.Exists(_options.StateDirectory)) return;
        using var held = await HoldAsync(cancellation);
        foreach (var name in Names()) await RemoveFolderAsync(Path.Combine(_options.StateDirectory, name));
        RemoveIfEmpty();
    }

    private async Task StartAllAsync(IReadOnlyList<string> names, NodeImage image, CancellationToken cancellation)
    {
        using var together = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        // More at once than the machine has CPUs only makes each slower, up to its boot time-out.
        using var slots = new SemaphoreSlim(Math.Max(1, Environment.ProcessorCount));
        var starts = names.Select(name => StartAsync(name)).ToList();
        try
        {
            await Task.WhenAll(starts);
        }
        catch
        {
            foreach (var name in names)
            {
                var folder = Path.Combine(_options.StateDirectory, name);
                if (Directory.Exists(folder)) await RemoveFolderAsync(folder);
            }
            // The first that failed, not one that was cancelled because of it.
            if (!cancellation.IsCancellationRequested && starts.FirstOrDefault(start => start.IsFaulted)?.Exception?.InnerException is { } cause)
                System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(cause);
            throw;
        }

        async Task StartAsync(string name)
        {
            await slots.WaitAsync(together.Token);
            try
            {
                await StartNodeAsync(name, image, together.Token);
            }
            catch
            {
                await together.CancelAsync();
                throw;
            }
            finally
            {
                slots.Release();
            }
        }
    }

    private async Task StartNodeAsync(string name, NodeImage image, CancellationToken cancellation)
    {
        var folder = Path.Combine(_options.StateDirectory, name);
        if (Directory.Exists(folder)) await RemoveFolderAsync(folder);
        _log.Information("Lab node {Node} is booting", name);
        var since = TimeProvider.System.GetTimestamp();
        await LabMachine.BootAsync(_options, image, name, folder, NodeLifetime.Detached, _log, cancellation);
        _log.Information("Lab node {Node} is ready after {Seconds:0.0} s", name, TimeProvider.System.GetElapsedTime(since).TotalSeconds);
    }

    /// <summary>What is known of a node; null when it has no folder.</summary>
    private LabNode? Look(string name)
    {
        var folder = Path.Combine(_options.StateDirectory, name);
        if (!Directory.Exists(folder)) return null;
        var serial = Path.Combine(folder, QemuCommand.SerialLog);
        var agent = Path.Combine(folder, QemuCommand.Exchange, "agent.log");
        var record = NodeRecord.Read(folder);
        var process = NodeProcess.Find(folder);
        var state = process is null ? LabNodeState.Off
            : LabMachine.Attach(name, folder, process).IsReady ? LabNodeState.Running
            : LabNodeState.Booting;
        return new LabNode(name, state, process?.Pid ?? 0, record?.MemoryMib ?? 0, record?.Cpus ?? 0, record?.StartedAt, serial, agent);
    }

    private IEnumerable<string> Names()
    {
        if (!Directory.Exists(_options.StateDirectory)) return [];
        return Directory.GetDirectories(_options.StateDirectory, "lab-*")
            .Select(folder => Path.GetFileName(folder))
            .Where(name => NumberOf(name) is not null)
            .OrderBy(name => NumberOf(name));
    }

    private static int? NumberOf(string name) =>
        name.StartsWith("lab-", StringComparison.Ordinal)
        && int.TryParse(name.AsSpan(4), NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number : null;

    /// <summary>A name comes from the command line: only one that the lab gave is looked for.</summary>
    private string FolderOf(string node)
    {
        ArgumentNullException.ThrowIfNull(node);
        if (Names().Contains(node, StringComparer.Ordinal)) return Path.Combine(_options.StateDirectory, node);
        var known = string.Join(", ", Names());
        throw new LabException("node_not_found", $"There is no lab node '{node}'. " + (known.Length == 0 ? "The lab is empty; start it: fleet lab up" : $"There are: {known}"));
    }

    private static async Task RemoveFolderAsync(string folder)
    {
        await PowerOffAsync(folder);
        Directory.Delete(folder, recursive: true);
    }

    private static async Task PowerOffAsync(string folder)
    {
        if (NodeProcess.Find(folder) is { } process) await process.KillAsync();
    }

    private async Task<FileLock> HoldAsync(CancellationToken cancellation)
    {
        try
        {
            return await FileLock.AcquireAsync(Path.Combine(_options.StateDirectory, "lock"), LockLimit, _log, cancellation);
        }
        catch (DirectoryNotFoundException error)
        {
            throw new LabException("lab_busy", $"The lab in {_options.StateDirectory} was taken down meanwhile. Try again.", error);
        }
        catch (LaunchFailedException error)
        {
            throw new LabException("lab_busy", "Another fleet lab command is at work on this lab. Wait for it, or end it with Ctrl-C.", error);
        }
    }

    /// <summary>The state directory goes with its last node. The lock is held, so that nobody starts a node meanwhile.</summary>
    private void RemoveIfEmpty()
    {
        if (!Directory.Exists(_options.StateDirectory) || Names().Any()) return;
        File.Delete(Path.Combine(_options.StateDirectory, "lock"));
        if (!Directory.EnumerateFileSystemEntries(_options.StateDirectory).Any()) Directory.Delete(_options.StateDirectory);
    }

    private void RequireMemory(int nodes)
    {
        var available = File.ReadLines("/proc/meminfo").First(line => line.StartsWith("MemAvailable:", StringComparison.Ordinal));
        var mib = long.Parse(available.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) / 1024;
        var wanted = (long)nodes * _options.MemoryMib;
        if (wanted > mib)
            throw new LabException("no_memory", $"{nodes} lab nodes of {_options.MemoryMib} MiB want {wanted} MiB, and {mib} MiB are available. Start fewer, or smaller ones.");
    }
}
