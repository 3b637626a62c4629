using System.Collections.Concurrent;
using System.Globalization;
using System.Text;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Images;
using Fleet.Shared.Contracts;
using Fleet.Shared.Files;
using Fleet.Shared.Vms;
using Microsoft.Win32.SafeHandles;
using Serilog;

namespace Fleet.Host.Volumes;

/// <summary>
/// The volumes of this host: a folder each, with the disk (a sparse file of a fixed size, ext4 from its making) and whom it was given to last.
/// What is being made or removed stands elsewhere, so that a volume is there whole or not at all.
/// </summary>
/// <remarks>
/// Who may write to one: a launch comes with the generation under which the control plane gave the volume to it, and one below the
/// highest that came is refused; the highest is on the disk before its VMM starts. The VMM itself holds a lock on the file as long as it
/// lives, and one that holds it under an older generation is ended first.
/// Which volume of its name one is says its id, that the control plane chose: it is there with the disk, and a launch, a copy or a removal that means
/// another one gets nothing of it. One that an agent of before made has none. For one agent at a time, as the state directory is; from any thread.
/// </remarks>
internal sealed class VolumeStore
{
    /// <summary>Left free of the disk for what the host itself writes: records, consoles, logs.</summary>
    internal const long KeptFree = 256L << 20;

    /// <summary>Of the store, in the host's state directory.</summary>
    internal const string FolderName = "volumes";

    private const long Mib = 1 << 20;
    private const int CopyBytes = 1 << 20;
    private const string Disk = "disk";
    private const string Given = "given";
    private const string Id = "id";
    private const string Making = ".making";
    private const string Removed = ".removed";

    /// <summary>The folder of those that are no tenant's: no tenant's name has this character.</summary>
    private const string Nobody = "_";

    /// <summary>The turn of whoever makes one: each counts on the room that the others leave. No volume's key is without a slash.</summary>
    private const string Room = "room";

    /// <summary>The turn of whoever copies one: of several at once none would be faster.</summary>
    private const string Copying = "copying";

    private static readonly TimeSpan FormatLimit = TimeSpan.FromMinutes(2);

    private readonly string _root;
    private readonly string _making;
    private readonly string _removed;
    private readonly Func<string, string> _folderOfVm;
    private readonly Func<string, long> _freeBytes;
    private readonly TimeProvider _clock;
    private readonly ILogger _log;
    private int _changes;
    private readonly ConcurrentDictionary<string, SemaphoreSlim> _gates = new(StringComparer.Ordinal);

    /// <param name="root">A folder of its own; made when it is needed.</param>
    /// <param name="folderOfVm">Where a microVM's VMM works.</param>
    /// <param name="clock">Time-outs go by it.</param>
    /// <param name="log">Where trouble is told.</param>
    /// <param name="freeBytes">What the disk with that folder has free; null: it is asked.</param>
    public VolumeStore(string root, Func<string, string> folderOfVm, TimeProvider clock, ILogger log, Func<string, long>? freeBytes = null)
    {
        _root = Path.GetFullPath(root);
        _making = Path.Combine(_root, Making);
        _removed = Path.Combine(_root, Removed);
        _folderOfVm = folderOfVm;
        _clock = clock;
        _log = log.ForContext<VolumeStore>();
        _freeBytes = freeBytes ?? (static folder => new DriveInfo(folder).AvailableFreeSpace);
    }

    /// <summary>Called between any two changes of files: what a kill or a fault leaves there is tested.</summary>
    internal Action AtStep { get; init; } = static () => { };

    /// <summary>Removes what a killed agent left half made or half removed.</summary>
    public void RemoveLeftovers()
    {
        foreach (var folder in new[] { _making, _removed })
            Discard(folder);
    }

    private void Discard(string folder)
    {
        try
        {
            if (Directory.Exists(folder)) Directory.Delete(folder, recursive: true);
        }
        catch (Exception stuck) when (stuck is IOException or UnauthorizedAccessException)
        {
            _log.Warning(stuck, "{Folder} can't be removed; the next start tries again", folder);
        }
    }

    /// <summary>Another number after each volume that was made or removed.</summary>
    public int Changes => Volatile.Read(ref _changes);

    /// <summary>What the control plane is told: at most <see cref="VolumeRules.MostTold"/> volumes, the largest first.</summary>
    public IEnumerable<HeldVolume> Told() => Folders()
        .Select(folder => new HeldVolume { Tenant = Path.GetFileName(Path.GetDirectoryName(folder)!) is var tenant && tenant != Nobody ? tenant : "", Name = Path.GetFileName(folder), SizeMib = SizeMib(Path.Combine(folder, Disk)) })
        .Where(volume => IsTenant(volume.Tenant) && VolumeRules.IsName(volume.Name))
        .OrderByDescending(volume => volume.SizeMib).ThenBy(volume => VolumeRules.Key(volume.Tenant, volume.Name), StringComparer.Ordinal)
        .Take(VolumeRules.MostTold);

    /// <summary>
    /// MiB of the disk that the control plane may promise: what is free, with what volumes and saved microVMs have of it already, which it counts itself, less
    /// <see cref="KeptFree"/>.
    /// </summary>
    /// <param name="savedBytes">That saved microVMs have of it.</param>
    public long RoomMib(long savedBytes = 0) =>
        Math.Max(0, _freeBytes(Path.GetDirectoryName(_root)!) + DisksWithRoom(_root).Sum(Posix.AllocatedBytes) + savedBytes - KeptFree) / Mib;

    private IEnumerable<string> Folders() => FoldersIn(_root);

    private static IEnumerable<string> FoldersIn(string root) => !Directory.Exists(root) ? [] : Directory.EnumerateDirectories(root)
        .Where(tenant => Path.GetFileName(tenant) is not (Making or Removed))
        .SelectMany(Directory.EnumerateDirectories)
        .Where(folder => File.Exists(Path.Combine(folder, Disk)));

    // Of all that have their room: also of those that are not whole yet. These first: one that is put in its place meanwhile is counted twice rather than not at all.
    private static IEnumerable<string> DisksWithRoom(string root) =>
        (Path.Combine(root, Making) is var making && Directory.Exists(making) ? Directory.GetDirectories(making) : [])
        .Concat(FoldersIn(root))
        .Select(folder => Path.Combine(folder, Disk));

    // One that is being removed has none.
    private static ulong SizeMib(string disk)
    {
        var file = new FileInfo(disk);
        return file.Exists ? (ulong)((file.Length + Mib - 1) / Mib) : 0;
    }

    /// <summary>The file that is the volume's disk, whether it is there or not.</summary>
    public string DiskOf(string tenant, string name) => Path.Combine(FolderOf(tenant, name), Disk);

    /// <summary>
    /// Gives a launch its volumes, and makes those that are not there. Until the answer is disposed nobody else gets them: by then the VMM
    /// holds their locks, or was not started.
    /// </summary>
    /// <exception cref="LaunchFailedException">
    /// <c>volume_stale</c>: they were given to a newer placement; <c>volume_in_use</c>: what writes to one does not end; <c>volume_no_room</c>;
    /// <c>volume_lost</c>: one was here and is not any more; <c>volume_unavailable</c>: the disk or a program is at fault, or another one of that name is here.
    /// </exception>
    public async Task<GivenVolumes> GiveAsync(LaunchVm launch, CancellationToken cancellation)
    {
        var given = new GivenVolumes();
        try
        {
            // In one order for all who want several, or two could wait for each other.
            foreach (var volume in launch.Spec.Volumes.OrderBy(volume => volume.Name, StringComparer.Ordinal))
                given.Add(await EnterAsync(VolumeRules.Key(launch.Spec.Tenant, volume.Name), cancellation).ConfigureAwait(false));
            foreach (var volume in launch.Spec.Volumes)
            {
                var grant = launch.Volumes.FirstOrDefault(one => one.Name == volume.Name)
                    ?? throw new LaunchFailedException("volume_unavailable", $"The control plane did not give the volume {volume.Name} to this launch.");
                if (!VolumeRules.IsId(grant.Id))
                    throw new LaunchFailedException("volume_unavailable", $"The control plane gave the volume {volume.Name} an id that is none.");
                given.Add(await GiveAsync(launch, grant, cancellation).ConfigureAwait(false));
            }
            return given;
        }
        catch (Exception failed)
        {
            given.Dispose();
            throw failed is IOException or UnauthorizedAccessException
                ? new LaunchFailedException("volume_unavailable", $"A volume of the microVM can't be used: {failed.Message}", failed)
                : failed;
        }
    }

    /// <summary>Carries an order of the control plane out; null: done, now or before.</summary>
    public async Task<Reason?> CarryOutAsync(VolumeOrder order, CancellationToken cancellation)
    {
        if (!IsTenant(order.Tenant) || !VolumeRules.IsName(order.Name) || (order.CopyTo.Length > 0 && !VolumeRules.IsName(order.CopyTo)) || !VolumeRules.IsId(order.Id) || !VolumeRules.IsId(order.SourceId))
            return new Reason { Code = "volume_unavailable", Message = "The order names no volume." };
        try
        {
            // In the order in which launches enter. A copy that is under way is waited for before it is removed.
            string[] names = order.CopyTo.Length == 0 || order.CopyTo == order.Name ? [order.Name] : [order.Name, order.CopyTo];
            using var turns = new GivenVolumes();
            foreach (var name in names.Order(StringComparer.Ordinal))
                turns.Add(await EnterAsync(VolumeRules.Key(order.Tenant, name), cancellation).ConfigureAwait(false));
            if (order.CopyTo.Length > 0)
                await CopyAsync(order, cancellation).ConfigureAwait(false);
            else
                Remove(order);
            return null;
        }
        catch (LaunchFailedException failed)
        {
            return new Reason { Code = failed.Code, Message = ReasonText.Shorten(failed.Message) };
        }
        catch (Exception failed) when (failed is IOException or UnauthorizedAccessException)
        {
            return new Reason { Code = "volume_unavailable", Message = ReasonText.Shorten($"The volume {order.Name} can't be used: {failed.Message}") };
        }
    }

    private async Task<IDisposable> EnterAsync(string key, CancellationToken cancellation)
    {
        var gate = _gates.GetOrAdd(key, static _ => new SemaphoreSlim(1));
        await gate.WaitAsync(cancellation).ConfigureAwait(false);
        return new Turn(gate);
    }

    private async Task<string> GiveAsync(LaunchVm launch, VolumeGrant grant, CancellationToken cancellation)
    {
        var folder = FolderOf(launch.Spec.Tenant, grant.Name);
        if (!Directory.Exists(folder))
        {
            if (grant.Made)
            {
                throw new LaunchFailedException("volume_lost",
                    $"The volume {grant.Name} was on this host and {folder} is not there any more: the state directory was emptied, or is another (--data). Bring the folder back and start the microVM again, or remove the volume and begin with an empty one.");
            }
            await MakeAsync(folder, grant, cancellation).ConfigureAwait(false);
        }
        var last = ReadGiven(folder);
        var now = new Holder(grant.Generation, launch.VmId, launch.Epoch);
        RequireIs(folder, grant.Name, grant.Id, isSurelyIt: grant.Made || now == last, wasHere: grant.Made);
        if (now.Generation < last.Generation || (now.Generation == last.Generation && now != last))
        {
            throw new LaunchFailedException("volume_stale",
                $"The volume {grant.Name} was given to {last.VmId} after it had been given to this placement, which may not write to it any more.");
        }
        AtStep();
        Identify(folder, grant.Id);
        // On the disk before anything else: from here on no older placement gets it, whatever becomes of this launch.
        if (now != last)
            OwnFile.Write(Path.Combine(folder, Given), string.Create(CultureInfo.InvariantCulture, $"{now.Generation} {now.VmId} {now.Epoch}\n"));
        AtStep();
        var disk = Path.Combine(folder, Disk);
        if (IsLocked(disk) && VmId.IsValid(last.VmId))
        {
            _log.Warning("The VMM of {VmId} under epoch {Epoch} still has the volume {Volume}, which is {Next}'s now: it is ended", last.VmId, last.Epoch, grant.Name, launch.VmId);
            await VmmProcess.EndStrayAsync(_folderOfVm(last.VmId), _clock, cancellation).ConfigureAwait(false);
        }
        return IsLocked(disk)
            ? throw new LaunchFailedException("volume_in_use", $"Another process writes to {disk}. Find it with `fuser {disk}` and end it.")
            : disk;
    }

    private async Task MakeAsync(string folder, VolumeGrant grant, CancellationToken cancellation)
    {
        if (grant.SizeMib is < VmLimits.MinVolumeMib or > VmLimits.MaxVolumeMib)
            throw new LaunchFailedException("volume_unavailable", $"The volume {grant.Name} was to have {grant.SizeMib} MiB.");
        await PutAsync(folder, grant.Name, grant.Id, (long)grant.SizeMib * Mib, async disk =>
        {
            // Of this agent's own empty file: nothing that a guest wrote is read here, or ever on this host.
            try
            {
                await ExternalCommand.RunAsync("mkfs.ext4", ["-q", "-F", "-m", "0", "-L", grant.Name.Length <= 16 ? grant.Name : grant.Name[..16], disk], null, FormatLimit, cancellation).ConfigureAwait(false);
            }
            catch (LaunchFailedException failed)
            {
                throw new LaunchFailedException("volume_unavailable", $"The volume {grant.Name} could not be formatted (Debian: apt-get install e2fsprogs): {failed.Message}", failed);
            }
        }, cancellation).ConfigureAwait(false);
        _log.Information("The volume {Volume} of {SizeMib} MiB was made in {Folder}", grant.Name, grant.SizeMib, folder);
    }

    private async Task CopyAsync(VolumeOrder order, CancellationToken cancellation)
    {
        var (from, to) = (DiskOf(order.Tenant, order.Name), FolderOf(order.Tenant, order.CopyTo));
        if (Directory.Exists(to))
        {
            // Of this order, however often it comes: the control plane has no copy made where an earlier one of the name may be left.
            RequireIs(to, order.CopyTo, order.Id, isSurelyIt: true, wasHere: false);
            Identify(to, order.Id);
            return;
        }
        if (!File.Exists(from))
            throw new LaunchFailedException("volume_not_made", $"The volume {order.Name} was never used, and so there is nothing to copy.");
        RequireIs(Path.GetDirectoryName(from)!, order.Name, order.SourceId, isSurelyIt: true, wasHere: true);
        RequireFree(from, order.Name);
        using var turn = await EnterAsync(Copying, cancellation).ConfigureAwait(false);
        await PutAsync(to, order.CopyTo, order.Id, new FileInfo(from).Length, disk =>
        {
            using var source = File.OpenHandle(from, FileMode.Open, FileAccess.Read, FileShare.Read);
            using var copy = File.OpenHandle(disk, FileMode.Open, FileAccess.ReadWrite);
            if (!Posix.TryShareBytes(source, copy)) CopyBytesThatAreThere(source, copy, order, cancellation);
            return Task.CompletedTask;
        }, cancellation).ConfigureAwait(false);
        _log.Information("The volume {Volume} was copied to {Copy}", order.Name, order.CopyTo);
    }

    private void CopyBytesThatAreThere(SafeFileHandle source, SafeFileHandle copy, VolumeOrder order, CancellationToken cancellation)
    {
        var buffer = new byte[CopyBytes];
        var length = RandomAccess.GetLength(source);
        var told = _clock.GetTimestamp();
        for (var at = Posix.Seek(source, 0, hole: false); at >= 0; at = at < length ? Posix.Seek(source, at, hole: false) : -1)
        {
            for (var end = Posix.Seek(source, at, hole: true); at < end;)
            {
                cancellation.ThrowIfCancellationRequested();
                var read = RandomAccess.Read(source, buffer.AsSpan(0, (int)Math.Min(buffer.Length, end - at)), at);
                if (read == 0)
                    throw new IOException($"The volume {order.Name} became shorter while it was copied");
                RandomAccess.Write(copy, buffer.AsSpan(0, read), at);
                at += read;
                if (_clock.GetElapsedTime(told) < TimeSpan.FromSeconds(10))
                    continue;
                told = _clock.GetTimestamp();
                _log.Information("Copying {Volume} to {Copy}: at {At} of {Length} MiB", order.Name, order.CopyTo, at / Mib, length / Mib);
            }
        }
    }

    /// <summary>
    /// Makes a volume beside the others, fills it, and puts it in its place when it is on the disk. Its room is its own before it is filled, which may take as long as a copy of
    /// hundreds of GiB: nobody waits for that.
    /// </summary>
    private async Task PutAsync(string folder, string name, string id, long bytes, Func<string, Task> fill, CancellationToken cancellation)
    {
        var making = Path.Combine(_making, Guid.NewGuid().ToString("n"));
        try
        {
            // What users keep is nobody else's business.
            const UnixFileMode own = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;
            var disk = Path.Combine(making, Disk);
            using (await EnterAsync(Room, cancellation).ConfigureAwait(false))
            {
                AtStep();
                Directory.CreateDirectory(making, own);
                AtStep();
                var free = _freeBytes(_root) - PromisedIn(_root) - KeptFree;
                if (bytes > free)
                {
                    throw new LaunchFailedException("volume_no_room",
                        $"The host's disk has no room for the volume {name}: it is to have {bytes / Mib} MiB, and {Math.Max(0, free) / Mib} MiB are not promised to others. Remove volumes or images.");
                }
                using var file = File.OpenHandle(disk, FileMode.CreateNew, FileAccess.ReadWrite);
                AtStep();
                RandomAccess.SetLength(file, bytes);
                AtStep();
                File.SetUnixFileMode(disk, OwnFile.Private);
            }
            AtStep();
            Identify(making, id);
            AtStep();
            await fill(disk).ConfigureAwait(false);
            AtStep();
            using (var file = File.OpenHandle(disk, FileMode.Open, FileAccess.ReadWrite))
                RandomAccess.FlushToDisk(file);
            FolderSync.Sync(making);
            var parent = Path.GetDirectoryName(folder)!;
            Directory.CreateDirectory(parent, own);
            AtStep();
            // Whoever counts meanwhile sees it here or there.
            using (await EnterAsync(Room, cancellation).ConfigureAwait(false))
                Directory.Move(making, folder);
            Interlocked.Increment(ref _changes);
            AtStep();
            FolderSync.Sync(parent);
            FolderSync.Sync(_root);
        }
        finally
        {
            Discard(making);
        }
    }

    private void Remove(VolumeOrder order)
    {
        var (name, folder) = (order.Name, FolderOf(order.Tenant, order.Name));
        if (!Directory.Exists(folder))
            return;
        var here = IdOf(folder);
        // Another one stays. One without an id is meant by its name where that is all the order has, or where the one that is meant was here, made by an agent of before.
        if (here.Length > 0 ? here != order.Id : order.Id.Length > 0 && !order.Made)
            return;
        RequireFree(Path.Combine(folder, Disk), name);
        AtStep();
        Directory.CreateDirectory(_removed);
        AtStep();
        var gone = Path.Combine(_removed, Guid.NewGuid().ToString("n"));
        Directory.Move(folder, gone);
        Interlocked.Increment(ref _changes);
        // From here on it is not there any more, whatever becomes of its bytes.
        try
        {
            AtStep();
            FolderSync.Sync(Path.GetDirectoryName(folder)!);
        }
        catch (IOException unsure)
        {
            _log.Warning(unsure, "The volume {Volume} is removed, but not certainly on the disk: after a power cut it may be there again", name);
        }
        Discard(gone);
        _log.Information("The volume {Volume} was removed", name);
    }

    /// <summary>Throws unless the volume in the folder is the one that is meant.</summary>
    /// <param name="folder">Of the volume.</param>
    /// <param name="name">Its name.</param>
    /// <param name="id">Of the one that is meant; empty: it has only its name, as all had once.</param>
    /// <param name="isSurelyIt">What is here without an id is the one that is meant, made by an agent of before.</param>
    /// <param name="wasHere">The one that is meant was here: it is lost.</param>
    private static void RequireIs(string folder, string name, string id, bool isSurelyIt, bool wasHere)
    {
        var here = IdOf(folder);
        if (id.Length == 0 || here == id || (here.Length == 0 && isSurelyIt))
            return;
        throw new LaunchFailedException(wasHere ? "volume_lost" : "volume_unavailable",
            $"{folder} is another volume of the name {name}, which was removed or is another cell's. Move that folder away, and start the microVM again.");
    }

    private static void Identify(string folder, string id)
    {
        if (id.Length > 0 && IdOf(folder).Length == 0)
            OwnFile.Write(Path.Combine(folder, Id), id + "\n");
    }

    /// <summary>Empty: an agent of before made it.</summary>
    private static string IdOf(string folder)
    {
        var path = Path.Combine(folder, Id);
        return File.Exists(path) ? File.ReadAllText(path, Encoding.ASCII).TrimEnd('\n') : "";
    }

    private static void RequireFree(string disk, string name)
    {
        if (IsLocked(disk))
            throw new LaunchFailedException("volume_in_use", $"A microVM writes to the volume {name}. Stop it first.");
    }

    /// <summary>The folder of the volumes of a state directory, by another folder in it.</summary>
    public static string FolderBeside(string other) => Path.Combine(Path.GetDirectoryName(Path.GetFullPath(other))!, FolderName);

    /// <summary>Bytes that the volumes of a store in that folder may still take of the disk: their holes. Also for who has not opened it; where there is no folder, none.</summary>
    public static long PromisedIn(string root) => DisksWithRoom(root).Sum(static disk =>
    {
        // One may be removed meanwhile: it has nothing of the disk then, and no length.
        var allocated = Posix.AllocatedBytes(disk);
        return new FileInfo(disk) is { Exists: true } file ? Math.Max(0, file.Length - allocated) : 0;
    });

    private static Holder ReadGiven(string folder)
    {
        var path = Path.Combine(folder, Given);
        if (!File.Exists(path))
            return new Holder(0, "", 0);
        var parts = File.ReadAllText(path, Encoding.ASCII).TrimEnd('\n').Split(' ');
        return parts.Length == 3 && ulong.TryParse(parts[0], CultureInfo.InvariantCulture, out var generation) && ulong.TryParse(parts[2], CultureInfo.InvariantCulture, out var epoch)
            ? new Holder(generation, parts[1], epoch)
            // Whom it was given to is not known, and so it is given to nobody.
            : throw new IOException($"{path} is broken; it has to read 'GENERATION MICROVM EPOCH'");
    }

    // FileShare.None is flock(LOCK_EX | LOCK_NB) on Linux, which is what the VMM holds.
    private static bool IsLocked(string disk)
    {
        try
        {
            using var file = File.OpenHandle(disk, FileMode.Open, FileAccess.ReadWrite, FileShare.None);
            return false;
        }
        catch (IOException held) when (held is not (FileNotFoundException or DirectoryNotFoundException))
        {
            return true;
        }
    }

    private string FolderOf(string tenant, string name) => IsTenant(tenant) && VolumeRules.IsName(name)
        ? Path.Combine(_root, tenant.Length == 0 ? Nobody : tenant, name)
        : throw new LaunchFailedException("volume_unavailable", "That is no volume's name.");

    private static bool IsTenant(string tenant) => tenant.Length == 0 || VmSpecRules.IsHostId(tenant);

    private sealed record Holder(ulong Generation, string VmId, ulong Epoch);

    private sealed class Turn(SemaphoreSlim gate) : IDisposable
    {
        public void Dispose() => gate.Release();
    }
}

/// <summary>Volumes that a launch was given, while it is under way.</summary>
internal sealed class GivenVolumes : IDisposable
{
    private readonly List<IDisposable> _turns = [];
    private readonly List<string> _disks = [];

    /// <summary>Their files, in the order of the spec.</summary>
    public IReadOnlyList<string> Disks => _disks;

    public void Add(IDisposable turn) => _turns.Add(turn);

    public void Add(string disk) => _disks.Add(disk);

    public void Dispose()
    {
        foreach (var turn in _turns) turn.Dispose();
        _turns.Clear();
    }
}
