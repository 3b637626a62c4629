using Fleet.Shared.Contracts;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Host.Logs;

/// <summary>Goes through the records of a log, from the oldest on, while it is written to and its oldest files go. Not safe for several threads.</summary>
internal sealed class LogCursor(string directory) : IDisposable
{
    private readonly byte[] _buffer = new byte[64 * 1024];
    private SafeFileHandle? _file;
    private long _number;
    private long _at;
    private int _from;
    private int _count;

    /// <summary>What there is of a log; null: nothing.</summary>
    public static LogExtent? Extent(string directory)
    {
        LogExtent? extent = null;
        using var cursor = new LogCursor(directory);
        while (cursor.TryRead(out var header, out _))
        {
            extent ??= new LogExtent { First = header.Position, End = header.Position };
            extent.LostBytes += header.Position - extent.End;
            extent.End = header.Position + (ulong)header.Length;
        }
        return extent;
    }

    /// <summary>The next record; false: there is none now.</summary>
    /// <param name="payload">Valid until the next call.</param>
    public bool TryRead(out LogRecordHeader header, out ReadOnlyMemory<byte> payload)
    {
        while (true)
        {
            if (_file is not null && (TryTake(out header, out payload) || (Fill() && TryTake(out header, out payload)))) return true;
            (header, payload) = (default, default);
            if (Next() is not { } next) return false;
            // Written before the newer one was made, and after we looked.
            if (_file is not null && Fill() && TryTake(out header, out payload)) return true;
            Open(next);
        }
    }

    /// <summary>Number of the file that the last record was in; 0: none was read.</summary>
    public long Segment => _number;

    public void Dispose() => _file?.Dispose();

    private bool TryTake(out LogRecordHeader header, out ReadOnlyMemory<byte> payload)
    {
        payload = default;
        if (!LogRecordHeader.TryRead(_buffer.AsSpan(_from, _count), out header) || _count < LogRecordHeader.Bytes + header.Length) return false;
        payload = _buffer.AsMemory(_from + LogRecordHeader.Bytes, header.Length);
        var taken = LogRecordHeader.Bytes + header.Length;
        (_from, _count, _at) = (_from + taken, _count - taken, _at + taken);
        return true;
    }

    private bool Fill()
    {
        (_from, _count) = (0, RandomAccess.Read(_file!, _buffer, _at));
        return _count > 0;
    }

    private long? Next()
    {
        if (_file is not null)
        {
            if (File.Exists(LogSegments.PathOf(directory, _number + 1))) return _number + 1;
            if (File.Exists(LogSegments.PathOf(directory, _number))) return null;
        }
        foreach (var number in LogSegments.List(directory))
        {
            if (number > _number) return number;
        }
        return null;
    }

    private void Open(long number)
    {
        try
        {
            var file = File.OpenHandle(LogSegments.PathOf(directory, number), FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
            _file?.Dispose();
            (_file, _number, _at, _from, _count) = (file, number, 0, 0, 0);
        }
        catch (Exception gone) when (gone is FileNotFoundException or DirectoryNotFoundException)
        {
            // It went meanwhile; the next look finds a newer one.
        }
    }
}
