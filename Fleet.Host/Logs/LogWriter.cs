using System.Buffers;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Host.Logs;

/// <summary>
/// Writes down what a microVM's command writes, as it comes, with the host's time: records that come together at once. What can't be written (a disk that is full) is missing and seen to be so:
/// positions go on. A restarted agent goes on behind the last whole record. Not safe for several threads.
/// </summary>
internal sealed class LogWriter : IDisposable
{
    private const int MostAtOnce = 16 * (LogRecordHeader.Bytes + LogSegments.MaxPayload);

    private readonly string _directory;
    private readonly TimeProvider _clock;
    private byte[]? _records;
    private SafeFileHandle? _file;
    private long _number;
    private long _length;
    private long _last;
    private int _waiting;

    private LogWriter(string directory, TimeProvider clock) => (_directory, _clock) = (directory, clock);

    /// <summary>Where the next byte stands in all that the command wrote.</summary>
    public ulong Position { get; private set; }

    /// <summary>Opens what there is, and cuts off a record that an agent which died left half written.</summary>
    /// <exception cref="IOException">It can't be read.</exception>
    public static LogWriter Open(string directory, TimeProvider clock)
    {
        var writer = new LogWriter(directory, clock);
        try
        {
            var numbers = LogSegments.List(directory);
            // The newest may have been made and not written to.
            for (var i = numbers.Count - 1; i >= 0 && !writer.TakeUp(numbers[i], isNewest: i == numbers.Count - 1); i--)
            {
            }
            return writer;
        }
        catch
        {
            writer.Dispose();
            throw;
        }
    }

    /// <summary>The command wrote so many bytes before what comes next. False: that is less than is here.</summary>
    public bool SkipTo(ulong position)
    {
        if (position < Position) return false;
        Position = position;
        return true;
    }

    /// <summary>Puts one record behind the others; <see cref="Flush"/> writes it down, or this where there is no room for more.</summary>
    /// <param name="kind">Which output wrote it.</param>
    /// <param name="bytes">1 to <see cref="LogSegments.MaxPayload"/>.</param>
    /// <returns>Null, or why those before it are lost.</returns>
    public string? Add(LogStreamKind kind, ReadOnlySpan<byte> bytes)
    {
        var count = LogRecordHeader.Bytes + bytes.Length;
        var lost = count > MostAtOnce - _waiting || _length + _waiting >= LogSegments.SegmentBytes ? Flush() : null;
        // Most commands write nothing most of the time.
        _records ??= ArrayPool<byte>.Shared.Rent(MostAtOnce);
        // Never back, whatever becomes of the host's clock: whoever goes by times goes by the order too.
        _last = Math.Max(_last, (_clock.GetUtcNow() - DateTimeOffset.UnixEpoch).Ticks / TimeSpan.TicksPerMicrosecond);
        new LogRecordHeader(bytes.Length, kind, _last, Position).Write(_records.AsSpan(_waiting));
        bytes.CopyTo(_records.AsSpan(_waiting + LogRecordHeader.Bytes));
        _waiting += count;
        Position += (ulong)bytes.Length;
        return lost;
    }

    /// <summary>Writes down what was put in. Null, or why it is lost.</summary>
    public string? Flush()
    {
        if (_records is not { } records) return null;
        var count = _waiting;
        (_records, _waiting) = (null, 0);
        try
        {
            if (_file is null || _length >= LogSegments.SegmentBytes) Rotate();
            RandomAccess.Write(_file!, records.AsSpan(0, count), _length);
            _length += count;
            return null;
        }
        catch (Exception failed) when (failed is IOException or UnauthorizedAccessException)
        {
            CutOff();
            return failed.Message;
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(records);
        }
    }

    public void Dispose()
    {
        Flush();
        _file?.Dispose();
    }

    private void Rotate()
    {
        // Room first: it may be what is missing.
        var numbers = LogSegments.List(_directory);
        for (var i = 0; i <= numbers.Count - LogSegments.MostSegments; i++) File.Delete(LogSegments.PathOf(_directory, numbers[i]));
        var fresh = File.OpenHandle(LogSegments.PathOf(_directory, _number + 1), FileMode.Create, FileAccess.Write, FileShare.ReadWrite | FileShare.Delete);
        _file?.Dispose();
        (_file, _length) = (fresh, 0);
        _number++;
    }

    // A part of a record may stand there, which a shorter one behind it would not quite cover.
    private void CutOff()
    {
        try
        {
            if (_file is not null) RandomAccess.SetLength(_file, _length);
        }
        catch (IOException)
        {
            // Then nothing more goes into it.
            _length = LogSegments.SegmentBytes;
        }
    }

    private bool TakeUp(long number, bool isNewest)
    {
        var file = File.OpenHandle(LogSegments.PathOf(_directory, number), FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite | FileShare.Delete);
        try
        {
            long at = 0, size = RandomAccess.GetLength(file);
            var found = false;
            Span<byte> bytes = stackalloc byte[LogRecordHeader.Bytes];
            while (RandomAccess.Read(file, bytes, at) == bytes.Length && LogRecordHeader.TryRead(bytes, out var header) && at + LogRecordHeader.Bytes + header.Length <= size)
            {
                (Position, _last, found) = (header.Position + (ulong)header.Length, header.At, true);
                at += LogRecordHeader.Bytes + header.Length;
            }
            if (!isNewest) return found;
            if (at < size) RandomAccess.SetLength(file, at);
            (_file, _number, _length) = (file, number, at);
            return found;
        }
        finally
        {
            if (!ReferenceEquals(_file, file)) file.Dispose();
        }
    }
}
