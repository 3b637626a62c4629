using Fleet.Host.Drivers.Processes;
using Fleet.Host.Images;
using Fleet.Shared.Contracts;
using Fleet.Shared.Files;
using Fleet.Shared.Vms;
using Google.Protobuf;
using Serilog;

namespace Fleet.Host.State;

/// <summary>
/// The host's memory: one folder per microVM with its launch record, console and sockets. It is what a restarted agent
/// finds its microVMs by, so a record is on the disk before the VMM that it names is started.
/// </summary>
/// <remarks>
/// Held by one agent at a time (flock). <see cref="ReadAll"/> is for an agent that has no microVMs yet; the other members
/// may be called from any thread, one microVM being worked on by one caller.
/// </remarks>
public sealed class StateDirectory : IDisposable
{
    internal const string RecordFile = "launch.pb";

    /// <summary>A record holds one spec (at most 150,000 bytes) and one report; anything much larger is not ours.</summary>
    private const long LargestRecord = 4 << 20;

    private const string IdFile = "id";

    private readonly string _vms;
    private readonly string _trash;
    private readonly string _quarantine;
    private readonly ILogger _log;
    private readonly FileLock _lock;

    private StateDirectory(string root, string id, FileLock held, ILogger log)
    {
        Id = id;
        _vms = Path.Combine(root, "vms");
        _trash = Path.Combine(root, "trash");
        _quarantine = Path.Combine(root, "quarantine");
        _lock = held;
        _log = log.ForContext<StateDirectory>();
    }

    /// <summary>
    /// Opens or makes the directory and finishes what a killed agent left half removed.
    /// Throws <see cref="AgentStartException"/> when another agent holds it or it can't be written.
    /// </summary>
    public static StateDirectory Open(string root, ILogger log)
    {
        ArgumentNullException.ThrowIfNull(log);
        var held = Lock(root);
        try
        {
            var state = new StateDirectory(root, ReadOrMakeId(Path.Combine(root, IdFile)), held, log);
            foreach (var folder in new[] { state._vms, state._trash, state._quarantine })
                Directory.CreateDirectory(folder);
            state.EmptyTrash();
            return state;
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException)
        {
            held.Dispose();
            throw Unusable(root, refused);
        }
    }

    /// <summary>Random, from its making on: an agent that shows another one does not know what ran by this directory.</summary>
    public string Id { get; }

    /// <summary>The microVM's folder, whether it exists or not. Only the id of a microVM becomes a path.</summary>
    public string FolderOf(string vmId) => VmId.IsValid(vmId)
        ? Path.Combine(_vms, vmId)
        : throw new ArgumentException("This is not the id of a microVM.", nameof(vmId));

    /// <summary>
    /// Writes the record as a whole: a reader sees the old one or the new one. With <paramref name="durable"/> it is on the
    /// disk when this returns, and survives power loss; without, it survives the end of this process.
    /// Throws <see cref="IOException"/> or <see cref="UnauthorizedAccessException"/>.
    /// </summary>
    public void Write(LaunchRecord record, bool durable)
    {
        ArgumentNullException.ThrowIfNull(record);
        var folder = FolderOf(record.Launch.VmId);
        Directory.CreateDirectory(folder);
        var path = Path.Combine(folder, RecordFile);
        var fresh = path + ".new";
        // It holds the guest's environment. One that a killed agent left may have other rights.
        File.Delete(fresh);
        using (var file = new FileStream(fresh, new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write, UnixCreateMode = OwnFile.Private }))
        {
            record.WriteTo(file);
            if (durable)
                file.Flush(flushToDisk: true);
        }

        File.Move(fresh, path, overwrite: true);
        if (durable)
        {
            FolderSync.Sync(folder);
            FolderSync.Sync(_vms);
        }
    }

    /// <summary>
    /// Every readable record. A folder without one is removed (its VMM was never started), a broken one put aside. A VMM that
    /// runs there all the same is ended: nobody would ever stop it, and the microVM may be started elsewhere. One that can't be ended keeps
    /// its folder, by which alone it is found again.
    /// Throws <see cref="AgentStartException"/> when the directory itself can't be read.
    /// </summary>
    public IReadOnlyList<LaunchRecord> ReadAll()
    {
        try
        {
            var records = new List<LaunchRecord>();
            foreach (var folder in Directory.GetDirectories(_vms))
            {
                var name = Path.GetFileName(folder);
                if (VmId.IsValid(name) && !IsThere(Path.Combine(folder, RecordFile)))
                    RemoveUnrecorded(name, folder);
                else if (Read(name, out _) is { } record)
                    records.Add(record);
            }

            return records;
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException)
        {
            throw Unusable(_vms, refused);
        }
    }

    /// <summary>
    /// The microVM's record; null when there is none. A broken one is put aside and counts as none. One that can't be read
    /// now, though it may be whole, throws <see cref="IOException"/> or <see cref="UnauthorizedAccessException"/>: its VMM may
    /// run, and must not be forgotten.
    /// </summary>
    public LaunchRecord? Read(string name) =>
        Read(name, out var stuck) is { } record ? record
        : stuck ? throw new IOException($"The record of {name} is broken, and what runs in {Path.Combine(_vms, name)} could not be ended.")
        : null;

    /// <summary>How many microVMs go on by what is written below a state directory that no agent holds; 0 where there is none.</summary>
    public static int CountUnended(string root)
    {
        var vms = Path.Combine(root, "vms");
        return Directory.Exists(vms) ? Directory.GetDirectories(vms).Count(IsUnended) : 0;

        static bool IsUnended(string folder)
        {
            try
            {
                return LaunchRecord.Parser.ParseFrom(File.ReadAllBytes(Path.Combine(folder, RecordFile))).Report is { State: < HostVmState.Ended };
            }
            catch (Exception unreadable) when (unreadable is IOException or UnauthorizedAccessException or InvalidProtocolBufferException)
            {
                return false;
            }
        }
    }

    private LaunchRecord? Read(string name, out bool stuck)
    {
        stuck = false;
        var folder = Path.Combine(_vms, Path.GetFileName(name));
        if (!IsThere(folder))
            return null;
        try
        {
            var path = Path.Combine(folder, RecordFile);
            if (new FileInfo(path).Length > LargestRecord)
                throw new InvalidDataException($"{path} is larger than a record can be.");
            var record = LaunchRecord.Parser.ParseFrom(File.ReadAllBytes(path));
            if (!VmId.IsValid(name) || record.Launch?.VmId != name || record.Launch.Spec is null || record.Launch.Epoch == 0
                || record.Report is not { State: (>= HostVmState.Launching and < HostVmState.Removed) or HostVmState.Suspended } report
                || report.VmId != name || report.Epoch != record.Launch.Epoch)
            {
                throw new InvalidDataException($"{path} is not the record of {name}.");
            }

            return record;
        }
        catch (Exception broken) when (broken is FileNotFoundException or InvalidProtocolBufferException or InvalidDataException)
        {
            stuck = !TryPutAside(name, folder, broken);
            return null;
        }
    }

    /// <summary>
    /// Removes the microVM's folder; nothing when there is none. What a kill in the middle leaves is removed by the next
    /// <see cref="Open"/>. Throws <see cref="IOException"/> or <see cref="UnauthorizedAccessException"/>.
    /// </summary>
    public void Remove(string vmId)
    {
        var folder = FolderOf(vmId);
        if (!IsThere(folder))
            return;
        var trash = Path.Combine(_trash, $"{vmId}-{Guid.NewGuid():n}");
        Directory.Move(folder, trash);
        Directory.Delete(trash, true);
    }

    /// <inheritdoc/>
    public void Dispose() => _lock.Dispose();

    private static FileLock Lock(string root)
    {
        try
        {
            // What guests write and what their users ask for is nobody else's business.
            Directory.CreateDirectory(root);
            File.SetUnixFileMode(root, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            var path = Path.Combine(root, "agent.lock");
            return FileLock.TryAcquire(path, out var reason)
                ?? throw new AgentStartException($"Another agent holds the state directory {root} ({reason}). End it (`fuser {path}` names it), or choose another directory.");
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException)
        {
            throw Unusable(root, refused);
        }
    }

    private static string ReadOrMakeId(string path)
    {
        if (File.Exists(path) && Guid.TryParseExact(File.ReadAllText(path).TrimEnd('\n'), "n", out var known))
            return known.ToString("n");
        var id = Guid.NewGuid().ToString("n");
        OwnFile.Write(path, id + "\n");
        return id;
    }

    private static AgentStartException Unusable(string path, Exception why) => new($"The state directory {path} can't be used: {why.Message}", why);

    private void EmptyTrash()
    {
        foreach (var left in Directory.GetDirectories(_trash))
        {
            try
            {
                Directory.Delete(left, true);
            }
            catch (Exception stuck) when (stuck is IOException or UnauthorizedAccessException)
            {
                // It is only disk space, and no reason to leave this host's microVMs alone.
                _log.Warning(stuck, "{Folder} of a removed microVM can't be deleted; the next start tries again", left);
            }
        }
    }

    // Not File.Exists: that also says no to what is there and can't be looked at now.
    private static bool IsThere(string path)
    {
        try
        {
            File.GetAttributes(path);
            return true;
        }
        catch (Exception absent) when (absent is FileNotFoundException or DirectoryNotFoundException)
        {
            return false;
        }
    }

    private void RemoveUnrecorded(string name, string folder)
    {
        if (TryEndStray(name, folder))
            Remove(name);
    }

    private bool TryPutAside(string name, string folder, Exception broken)
    {
        if (!TryEndStray(name, folder))
        {
            _log.Error(broken, "The record of {VmId} can't be read; its folder stays where it is until what runs there has ended. End it by hand (vmm.pid there)", name);
            return false;
        }
        var aside = Path.Combine(_quarantine, $"{name}-{Guid.NewGuid():n}");
        Directory.Move(folder, aside);
        _log.Error(broken, "The record of {VmId} can't be read; its folder is now {Folder}", name, aside);
        return true;
    }

    /// <summary>False when a VMM runs on that could not be ended.</summary>
    private bool TryEndStray(string name, string folder)
    {
        try
        {
            // Waited for here, as rare as it is: what follows moves the folder, by which alone such a VMM can be found.
            if (VmmProcess.EndStrayAsync(folder, TimeProvider.System, CancellationToken.None).GetAwaiter().GetResult())
                _log.Error("The VMM of {VmId} ran without a record and was ended", name);
            return true;
        }
        catch (Exception stuck) when (stuck is IOException or UnauthorizedAccessException)
        {
            _log.Error(stuck, "What runs in {Folder} without a record could not be ended", folder);
            return false;
        }
    }
}

/// <summary>An agent that can't start; the message says what to do.</summary>
public sealed class AgentStartException(string message, Exception? inner = null) : Exception(message, inner);
