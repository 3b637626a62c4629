using System.Buffers;
using System.Runtime.CompilerServices;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Fleet.Host.Consoles;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Logs;

/// <summary>Tells what a microVM's command wrote, as lines of JSON (docs/api.md). Holds one line and one chunk, however much there is.</summary>
internal sealed class LogReader(string directory, TimeProvider clock)
{
    private static readonly TimeSpan ShortPause = TimeSpan.FromMilliseconds(10);
    private static readonly TimeSpan LongPause = TimeSpan.FromMilliseconds(100);

    /// <summary>Told as soon as so much is there: with the longest line behind it the buffer is still small.</summary>
    private const int ChunkBytes = 32 * 1024;

    private static readonly JsonWriterOptions Relaxed = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>
    /// The lines that are wanted. Without <paramref name="follow"/> ends at what is there when it begins, however fast more is written; with it, goes on
    /// until <paramref name="ended"/> is complete and everything is told. Offsets count what is told.
    /// </summary>
    public async IAsyncEnumerable<ConsoleBytes> ReadAsync(
        LogWish wish, bool follow, Task ended, [EnumeratorCancellation] CancellationToken cancellation = default)
    {
        var buffer = new ArrayBufferWriter<byte>(ChunkBytes);
        await using var json = new Utf8JsonWriter(buffer, Relaxed);
        var (end, first, passOver) = follow && !wish.HasTail ? default : Look(wish, cancellation);
        using var cursor = new LogCursor(directory);
        var lines = new LogLines(line =>
        {
            if (cursor.Segment >= first && IsWanted(wish, line) && --passOver < 0) Write(json, buffer, line);
        });
        var isReached = false;
        ulong told = 0;
        var pause = ShortPause;
        while (true)
        {
            cancellation.ThrowIfCancellationRequested();
            // Looked at before the files: what is written before the end is then surely seen.
            var last = !follow || ended.IsCompleted;
            while (cursor.TryRead(out var header, out var payload))
            {
                if (!follow && header.Position >= end)
                {
                    lines.Miss(header with { Position = end });
                    break;
                }
                if (!isReached && cursor.Segment >= first)
                {
                    isReached = true;
                    // The file went meanwhile, and with it what was to be passed over.
                    if (cursor.Segment > first) passOver = 0;
                }
                lines.Take(header, payload);
                pause = ShortPause;
                cancellation.ThrowIfCancellationRequested();
                if (buffer.WrittenCount < ChunkBytes) continue;
                foreach (var chunk in Chunks(buffer, told)) yield return chunk;
                told += (ulong)buffer.WrittenCount;
                buffer.ResetWrittenCount();
            }
            if (last) lines.Finish();
            foreach (var chunk in Chunks(buffer, told)) yield return chunk;
            told += (ulong)buffer.WrittenCount;
            buffer.ResetWrittenCount();
            if (last) yield break;
            await ConsoleLog.PauseAsync(pause, ended, clock, cancellation).ConfigureAwait(false);
            pause = pause + pause < LongPause ? pause + pause : LongPause;
        }
    }

    /// <summary>
    /// What is there now: the position behind it, the file in which the tail begins, and how many wanted lines that end in that file are before the tail.
    /// Files go as a whole: what is counted of one holds as long as it is there.
    /// </summary>
    private (ulong End, long First, long PassOver) Look(LogWish wish, CancellationToken cancellation)
    {
        ulong end = 0;
        var files = new List<(long Segment, long Lines)>();
        using var cursor = new LogCursor(directory);
        var lines = new LogLines(line =>
        {
            if (!IsWanted(wish, line)) return;
            if (files.Count == 0 || files[^1].Segment != cursor.Segment) files.Add((cursor.Segment, 0));
            files[^1] = (cursor.Segment, files[^1].Lines + 1);
        });
        while (cursor.TryRead(out var header, out var payload))
        {
            cancellation.ThrowIfCancellationRequested();
            end = header.Position + (ulong)header.Length;
            if (wish.HasTail) lines.Take(header, payload);
        }
        if (!wish.HasTail) return (end, 0, 0);
        lines.Finish();
        var passOver = files.Sum(file => file.Lines) - wish.Tail;
        foreach (var (segment, count) in files)
        {
            if (passOver < count) return (end, segment, Math.Max(0, passOver));
            passOver -= count;
        }
        // None of them.
        var last = files.LastOrDefault();
        return (end, last.Segment, last.Lines);
    }

    private static bool IsWanted(LogWish wish, LogLine line) =>
        line.At >= wish.SinceUs && (!wish.HasAfter || line.Position > wish.After) && (wish.Stream == 0 || line.Lost > 0 || wish.Stream == (uint)line.Kind);

    private static void Write(Utf8JsonWriter json, ArrayBufferWriter<byte> buffer, LogLine line)
    {
        json.Reset();
        json.WriteStartObject();
        json.WriteString("time"u8, DateTimeOffset.UnixEpoch.AddMicroseconds(line.At).ToString("yyyy-MM-dd'T'HH:mm:ss.ffffff'Z'", System.Globalization.CultureInfo.InvariantCulture));
        json.WriteNumber("position"u8, line.Position);
        if (line.Lost > 0)
        {
            json.WriteNumber("lost_bytes"u8, line.Lost);
        }
        else
        {
            json.WriteString("stream"u8, line.Kind == LogStreamKind.Output ? "stdout"u8 : "stderr"u8);
            // What is no UTF-8 is told as such, whatever it was.
            json.WriteString("line"u8, Encoding.UTF8.GetString(line.Bytes.Span));
            if (line.IsPartial) json.WriteBoolean("partial"u8, true);
        }
        json.WriteEndObject();
        json.Flush();
        buffer.Write("\n"u8);
    }

    private static IEnumerable<ConsoleBytes> Chunks(ArrayBufferWriter<byte> buffer, ulong told)
    {
        for (var at = 0; at < buffer.WrittenCount; at += ConsoleLog.MaxChunk)
            yield return new ConsoleBytes(told + (ulong)at, buffer.WrittenMemory.Slice(at, Math.Min(ConsoleLog.MaxChunk, buffer.WrittenCount - at)));
    }
}
