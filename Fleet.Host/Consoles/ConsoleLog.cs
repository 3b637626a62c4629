using System.Runtime.CompilerServices;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Host.Consoles;

/// <summary>Bytes of a guest's console.</summary>
/// <param name="Offset">Where the first byte stands, counted from the launch of the microVM.</param>
/// <param name="Data">1 to 65,536 bytes.</param>
public readonly record struct ConsoleBytes(ulong Offset, ReadOnlyMemory<byte> Data);

/// <summary>What is kept of a console: bytes from <paramref name="Start"/> up to, not including, <paramref name="End"/>.</summary>
public readonly record struct ConsoleExtent(ulong Start, ulong End);

/// <summary>
/// What a guest wrote to its first serial port: the file <c>console.log</c> in the microVM's directory, which the VMM
/// itself appends to. An offset in the file is an offset of the console, for as long as the file exists: old bytes are
/// not copied away but given back to the file system as a hole, so that nothing has to be remembered beside the file,
/// no byte is lost to a race with the VMM, and a restarted agent sees the same offsets.
/// </summary>
/// <remarks>Any number of readers may read at once; instances hold no state and need no disposal.</remarks>
public sealed class ConsoleLog(string directory, TimeProvider? clock = null)
{
    /// <summary>The file's name in the microVM's directory.</summary>
    public const string FileName = "console.log";

    /// <summary>Largest chunk that a reader gets.</summary>
    public const int MaxChunk = 64 * 1024;

    /// <summary>
    /// Bytes that stay when old ones are freed. A reader that falls further behind than this misses bytes, and sees so
    /// by the offset of what it gets next.
    /// </summary>
    public const long Kept = 8L << 20;

    /// <summary>
    /// How far the VMM may write beyond the oldest kept byte: its RLIMIT_FSIZE stands there. While the agent is down, or
    /// when a guest writes faster than the agent looks, what comes after it is dropped by the kernel and the guest goes on.
    /// </summary>
    public const long Limit = 16L << 20;

    // Freed in whole mebibytes: any file system's block divides it, so that a hole begins and ends where we say.
    private const long Grain = 1L << 20;

    private static readonly TimeSpan ShortPause = TimeSpan.FromMilliseconds(10);
    private static readonly TimeSpan LongPause = TimeSpan.FromMilliseconds(50);

    private readonly string _path = Path.Combine(directory, FileName);
    private readonly TimeProvider _clock = clock ?? TimeProvider.System;

    /// <summary>What is kept now; empty at 0 when nothing was ever launched here.</summary>
    public ConsoleExtent Extent()
    {
        using var file = TryOpen(FileAccess.Read);
        return file is null ? default : ExtentOf(file);
    }

    /// <summary>
    /// The console's bytes from <paramref name="offset"/> on; from the oldest kept byte when that is absent or gone, from
    /// the end when it lies beyond. Without <paramref name="follow"/> ends at what is there now; with it, goes on until
    /// <paramref name="ended"/> is complete and everything is read.
    /// </summary>
    /// <param name="ended">Completes when no VMM writes any more: <c>IVmm.Completion</c>.</param>
    public async IAsyncEnumerable<ConsoleBytes> ReadAsync(
        ulong? offset, bool follow, Task ended, [EnumeratorCancellation] CancellationToken cancellation = default)
    {
        SafeFileHandle? file = null;
        try
        {
            ulong? next = offset;
            var pause = ShortPause;
            while (true)
            {
                cancellation.ThrowIfCancellationRequested();
                // Looked at before the file: what is written before the end is then surely seen.
                bool last = !follow || ended.IsCompleted;
                file ??= TryOpen(FileAccess.Read);
                if (file is not null)
                {
                    var extent = ExtentOf(file);
                    ulong at = Math.Clamp(next ?? extent.Start, extent.Start, extent.End);
                    while (at < extent.End)
                    {
                        var chunk = ReadChunk(file, at, extent.End);
                        ulong after = chunk.Offset + (ulong)chunk.Data.Length;
                        if (after == at) break;
                        next = at = after;
                        if (chunk.Data.IsEmpty) continue;
                        pause = ShortPause;
                        yield return chunk;
                        cancellation.ThrowIfCancellationRequested();
                    }
                    next ??= at;
                }
                if (last) yield break;
                // A poll costs one fstat; inotify would cost an instance per reader, of which a user has 128.
                await PauseAsync(pause, ended, _clock, cancellation).ConfigureAwait(false);
                pause = pause + pause < LongPause ? pause + pause : LongPause;
            }
        }
        finally
        {
            file?.Dispose();
        }
    }

    /// <summary>
    /// Frees old bytes when more than <see cref="Kept"/> and a half are kept. The VMM may write meanwhile.
    /// Returns the extent afterwards. A file system without holes keeps everything up to <see cref="Limit"/>.
    /// </summary>
    internal ConsoleExtent Trim()
    {
        using var file = TryOpen(FileAccess.ReadWrite);
        if (file is null) return default;
        var extent = ExtentOf(file);
        if (extent.End - extent.Start <= (ulong)(Kept + Kept / 2)) return extent;
        long start = (long)(extent.End - (ulong)Kept) / Grain * Grain;
        return SparseFile.TryPunch(file, start) ? ExtentOf(file) : extent;
    }

    private static ConsoleBytes ReadChunk(SafeFileHandle file, ulong at, ulong end)
    {
        var buffer = new byte[(int)Math.Min(end - at, MaxChunk)];
        int read = RandomAccess.Read(file, buffer, (long)at);
        // Bytes freed while they were read came back as zeros: drop them, the hole is there by now.
        ulong start = ExtentOf(file).Start;
        if (start <= at) return new ConsoleBytes(at, buffer.AsMemory(0, read));
        int lost = (int)Math.Min(start - at, (ulong)read);
        return new ConsoleBytes(at + (ulong)lost, buffer.AsMemory(lost, read - lost));
    }

    private static ConsoleExtent ExtentOf(SafeFileHandle file)
    {
        // Start before end: a file that grows in between only seems shorter.
        ulong start = (ulong)SparseFile.FirstData(file);
        ulong end = (ulong)RandomAccess.GetLength(file);
        return new ConsoleExtent(Math.Min(start, end), end);
    }

    private SafeFileHandle? TryOpen(FileAccess access)
    {
        try
        {
            return File.OpenHandle(_path, FileMode.Open, access, FileShare.ReadWrite | FileShare.Delete);
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            return null;
        }
    }

    /// <summary>Waits before the next look, no longer than until <paramref name="ended"/> is complete.</summary>
    internal static async Task PauseAsync(TimeSpan pause, Task ended, TimeProvider clock, CancellationToken cancellation)
    {
        using var done = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        var delay = Task.Delay(pause, clock, done.Token);
        if (await Task.WhenAny(delay, ended).ConfigureAwait(false) != delay) await done.CancelAsync().ConfigureAwait(false);
        cancellation.ThrowIfCancellationRequested();
    }
}
