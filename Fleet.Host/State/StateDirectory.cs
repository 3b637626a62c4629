using System.Text.RegularExpressions;
using Google.Protobuf;
using Microsoft.Win32.SafeHandles;
using Serilog;

namespace Fleet.Host.State;

/// <summary>
/// The host's memory: one folder per microVM with its launch record, console and sockets. It is what a restarted agent
/// finds its microVMs by, so a record is on the disk before the VMM that it names is started.
/// </summary>
/// <remarks>Held by one agent at a time. All members may be called from any thread; one microVM is worked on by one caller.</remarks>
public sealed partial class StateDirectory : IDisposable
{
    private const string RecordFile = "launch.pb";

    /// <summary>A record holds one spec and one report; anything larger is not ours.</summary>
    private const long LargestRecord = 4 << 20;

    private readonly string _vms;
    private readonly string _trash;
    private readonly string _quarantine;
    private readonly ILogger _log;
    private readonly FileStream _lock;

    private StateDirectory(string root, FileStream held, ILogger log)
    {
        _vms = Path.Combine(root, "vms");
        _trash = Path.Combine(root, "trash");
        _quarantine = Path.Combine(root, "quarantine");
        _lock = held;
        _log = log;
    }

    /// <summary>
    /// Opens or makes the directory and finishes what a killed agent left half removed.
    /// Throws <see cref="AgentStartException"/> when another agent holds it or it can't be written.
    /// </summary>
    public static StateDirectory Open(string root, ILogger log)
    {
        FileStream held;
        try
        {
            // What guests write and what their users ask for is nobody else's business.
            Directory.CreateDirectory(root, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            held = new FileStream(Path.Combine(root, "agent.lock"), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException)
        {
            throw new AgentStartException($"The state directory {root} can't be used: another agent holds it, or it is not writable ({refused.Message}).", refused);
        }

        var state = new StateDirectory(root, held, log);
        foreach (var folder in new[] { state._vms, state._trash, state._quarantine })
            Directory.CreateDirectory(folder);
        foreach (var left in Directory.EnumerateDirectories(state._trash))
            Directory.Delete(left, true);
        return state;
    }

    /// <summary>True for <c>vm-</c> and 26 characters of the id's alphabet: only such a name becomes a path.</summary>
    public static bool IsVmId(string? text) => text is not null && VmId().IsMatch(text);

    /// <summary>The microVM's folder, whether it exists or not.</summary>
    public string FolderOf(string vmId) => IsVmId(vmId)
        ? Path.Combine(_vms, vmId)
        : throw new ArgumentException($"'{vmId}' is not the id of a microVM.", nameof(vmId));

    /// <summary>
    /// Writes the record as a whole: a reader sees the old one or the new one. With <paramref name="durable"/> it is on the
    /// disk when this returns, and survives power loss; without, it survives the end of this process.
    /// </summary>
    public void Write(LaunchRecord record, bool durable)
    {
        var folder = FolderOf(record.Launch.VmId);
        Directory.CreateDirectory(folder);
        var path = Path.Combine(folder, RecordFile);
        var fresh = path + ".new";
        using (var file = new FileStream(fresh, FileMode.Create, FileAccess.Write, FileShare.None))
        {
            record.WriteTo(file);
            if (durable)
                file.Flush(flushToDisk: true);
        }

        File.Move(fresh, path, overwrite: true);
        if (durable)
        {
            SyncFolder(folder);
            SyncFolder(_vms);
        }
    }

    /// <summary>Every readable record. A folder without one is removed (its VMM was never started), a broken one put aside.</summary>
    public IReadOnlyList<LaunchRecord> ReadAll()
    {
        var records = new List<LaunchRecord>();
        foreach (var folder in Directory.EnumerateDirectories(_vms).ToArray())
        {
            var name = Path.GetFileName(folder);
            var path = Path.Combine(folder, RecordFile);
            if (IsVmId(name) && !File.Exists(path))
            {
                Remove(name);
                continue;
            }

            try
            {
                if (new FileInfo(path).Length > LargestRecord)
                    throw new InvalidDataException($"{path} is larger than a record can be.");
                var record = LaunchRecord.Parser.ParseFrom(File.ReadAllBytes(path));
                if (record.Launch?.VmId != name || record.Launch.Spec is null || record.Report is null)
                    throw new InvalidDataException($"{path} is not the record of {name}.");
                records.Add(record);
            }
            catch (Exception broken) when (broken is IOException or InvalidProtocolBufferException or InvalidDataException)
            {
                var aside = Path.Combine(_quarantine, $"{name}-{Guid.NewGuid():n}");
                Directory.Move(folder, aside);
                _log.Error(
                    broken, "The record of {VmId} can't be read; its folder is now {Folder}. If its VMM still runs it must be ended by hand (vmm.pid there)", name, aside);
            }
        }

        return records;
    }

    /// <summary>Removes the microVM's folder. What a kill in the middle leaves is removed by the next <see cref="Open"/>.</summary>
    public void Remove(string vmId)
    {
        var folder = FolderOf(vmId);
        if (!Directory.Exists(folder))
            return;
        var trash = Path.Combine(_trash, $"{vmId}-{Guid.NewGuid():n}");
        Directory.Move(folder, trash);
        Directory.Delete(trash, true);
    }

    /// <inheritdoc/>
    public void Dispose() => _lock.Dispose();

    private static void SyncFolder(string folder)
    {
        using SafeFileHandle handle = Drivers.Processes.Posix.OpenDirectory(folder);
        RandomAccess.FlushToDisk(handle);
    }

    [GeneratedRegex("^vm-[0-9a-hjkmnp-tv-z]{26}\\z", RegexOptions.CultureInvariant)]
    private static partial Regex VmId();
}

/// <summary>An agent that can't start; the message says what to do.</summary>
public sealed class AgentStartException(string message, Exception? inner = null) : Exception(message, inner);
