using System.Globalization;
using System.Security.Cryptography;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.State;
using Fleet.Host.Volumes;
using Fleet.Shared.Files;
using Google.Protobuf;

namespace Fleet.Host.Snapshots;

/// <summary>
/// What a suspended microVM goes on from, in its own directory: the two files that its VMM writes, and a record, which is there exactly
/// when they are complete and on the disk. All names carry the epoch of the launch that was saved, so that what a microVM was resumed from and
/// what it will be saved into are never the same files.
/// </summary>
internal static class SnapshotFiles
{
    private const string Prefix = "snapshot.";

    /// <summary>Left free on the disk for everything else that the host writes.</summary>
    private const long DiskReserve = 64L << 20;

    /// <summary>A VMM's state file beside the memory, at most.</summary>
    private const long LargestState = 10L << 20;

    private const long LargestRecord = 256 << 10;

    private const int LargestStatus = 64 << 10;

    public static string StateName(ulong epoch) => Named(epoch, "state");

    public static string MemoryName(ulong epoch) => Named(epoch, "memory");

    public static string RecordName(ulong epoch) => Named(epoch, "pb");

    /// <summary>The snapshot of that launch; null when there is none, or not all of it.</summary>
    /// <exception cref="IOException">It can't be told now.</exception>
    /// <exception cref="UnauthorizedAccessException">It can't be told now.</exception>
    public static SnapshotRecord? Find(string directory, ulong epoch)
    {
        var path = Path.Combine(directory, RecordName(epoch));
        try
        {
            if (epoch == 0 || new FileInfo(path).Length > LargestRecord)
                return null;
            var record = SnapshotRecord.Parser.ParseFrom(File.ReadAllBytes(path));
            return record.Epoch == epoch && HasSize(directory, StateName(epoch), record.StateBytes) && HasSize(directory, MemoryName(epoch), record.MemoryBytes) ? record : null;
        }
        catch (Exception absent) when (absent is FileNotFoundException or DirectoryNotFoundException or InvalidProtocolBufferException)
        {
            return null;
        }
    }

    /// <summary>Says that the files are complete. From here on the microVM is what they hold, and its VMM must never run again.</summary>
    /// <param name="directory">The microVM's.</param>
    /// <param name="record">Sizes are filled in.</param>
    /// <exception cref="IOException">It is not on the disk.</exception>
    /// <exception cref="UnauthorizedAccessException">It is not on the disk.</exception>
    public static void Complete(string directory, SnapshotRecord record)
    {
        record.StateBytes = SizeOf(directory, StateName(record.Epoch));
        record.MemoryBytes = SizeOf(directory, MemoryName(record.Epoch));
        if (record.ForHost.Length > 0)
        {
            record.StateSha256 = DigestOf(directory, StateName(record.Epoch));
            record.MemorySha256 = DigestOf(directory, MemoryName(record.Epoch));
            record.Status = StatusOf(directory);
        }

        var path = Path.Combine(directory, RecordName(record.Epoch));
        var fresh = path + ".new";
        File.Delete(fresh);
        using (var file = new FileStream(fresh, new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write, UnixCreateMode = OwnFile.Private }))
        {
            record.WriteTo(file);
            file.Flush(flushToDisk: true);
        }

        // The names of the files first: a record never stands without them.
        FolderSync.Sync(directory);
        File.Move(fresh, path);
        FolderSync.Sync(directory);
    }

    /// <summary>Removes the snapshot of that launch, the record first; what has its memory mapped keeps it. Nothing when there is none.</summary>
    public static void Delete(string directory, ulong epoch)
    {
        if (!Directory.Exists(directory))
            return;
        File.Delete(Path.Combine(directory, RecordName(epoch)));
        FolderSync.Sync(directory);
        File.Delete(Path.Combine(directory, StateName(epoch)));
        File.Delete(Path.Combine(directory, MemoryName(epoch)));
    }

    /// <summary>Removes every snapshot, whole or half, but that of one launch (0: all).</summary>
    public static void DeleteOthers(string directory, ulong keptEpoch = 0)
    {
        if (!Directory.Exists(directory))
            return;
        string[] kept = keptEpoch == 0 ? [] : [RecordName(keptEpoch), StateName(keptEpoch), MemoryName(keptEpoch)];
        // Records first, so that none ever stands without its files.
        foreach (var path in Directory.GetFiles(directory, Prefix + "*").OrderBy(path => !path.EndsWith(".pb", StringComparison.Ordinal)))
        {
            if (!kept.Contains(Path.GetFileName(path)))
                File.Delete(path);
        }
    }

    /// <summary>Empties what a VMM that goes on had begun to write; it still has the files open.</summary>
    public static void Empty(string directory, ulong epoch)
    {
        foreach (var name in (string[])[StateName(epoch), MemoryName(epoch)])
        {
            var path = Path.Combine(directory, name);
            if (!File.Exists(path))
                continue;
            using var file = File.OpenHandle(path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite | FileShare.Delete);
            RandomAccess.SetLength(file, 0);
        }
    }

    /// <summary>Bytes that what the microVM is saved in, whole or half, has of the disk; 0: nothing is there.</summary>
    /// <param name="directory">The microVM's.</param>
    public static long AllocatedBytes(string directory) =>
        Directory.Exists(directory) ? Directory.EnumerateFiles(directory, Prefix + "*").Sum(Posix.AllocatedBytes) : 0;

    /// <summary>The most that a snapshot of so much memory takes.</summary>
    public static long LargestOf(uint memoryMib) => ((long)memoryMib << 20) + LargestState;

    /// <param name="directory">The microVM's, in the folder of all.</param>
    /// <param name="memoryMib">Of the microVM.</param>
    /// <exception cref="SnapshotFailedException">The disk has not enough room beside what volumes may still grow to.</exception>
    public static void CheckRoom(string directory, uint memoryMib)
    {
        var vms = Path.GetDirectoryName(Path.GetFullPath(directory))!;
        var free = Math.Max(0, new DriveInfo(directory).AvailableFreeSpace - VolumeStore.PromisedIn(VolumeStore.FolderBeside(vms)));
        var needed = LargestOf(memoryMib) + DiskReserve;
        if (free < needed)
            throw new SnapshotFailedException($"Its snapshot may take {needed >> 20} MiB of the host's disk, and {free >> 20} MiB are free there and not promised to volumes.");
    }

    private static string Named(ulong epoch, string what) => string.Create(CultureInfo.InvariantCulture, $"{Prefix}{epoch}.{what}");

    /// <summary>SHA-256 of a file; of one that is not there that of nothing.</summary>
    public static ByteString DigestOf(string directory, string name)
    {
        var path = Path.Combine(directory, name);
        if (!File.Exists(path))
            return ByteString.CopyFrom(SHA256.HashData([]));
        using var file = new FileStream(path, new FileStreamOptions { Access = FileAccess.Read, Share = FileShare.ReadWrite | FileShare.Delete, BufferSize = 1 << 20, Options = FileOptions.SequentialScan });
        return ByteString.CopyFrom(SHA256.HashData(file));
    }

    private static ByteString StatusOf(string directory)
    {
        var path = Path.Combine(directory, VmmFiles.Status);
        if (!File.Exists(path))
            return ByteString.Empty;
        using var file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
        var text = new byte[(int)Math.Min(RandomAccess.GetLength(file), LargestStatus)];
        return ByteString.CopyFrom(text, 0, RandomAccess.Read(file, text, 0));
    }

    // A simulated guest has no files.
    private static ulong SizeOf(string directory, string name) => new FileInfo(Path.Combine(directory, name)) is { Exists: true } file ? (ulong)file.Length : 0;

    private static bool HasSize(string directory, string name, ulong bytes) => SizeOf(directory, name) == bytes;
}

/// <summary>A microVM could not be saved; it runs on. The message is for people.</summary>
public sealed class SnapshotFailedException(string message, Exception? inner = null) : Exception(message, inner);
