using System.Text;
using System.Text.Json;
using Fleet.Host.Logs;
using Fleet.Host.Tests.Agent;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Host.Tests.Logs;

/// <summary>What a command wrote, on the host's disk and on its way to a reader.</summary>
public sealed class LogFilesTests : IDisposable
{
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(20);

    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-log-").FullName;
    private readonly ManualClock _clock = new();

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task Should_tell_lines_of_both_outputs_with_the_times_of_their_beginnings()
    {
        using var writer = LogWriter.Open(_folder, _clock);
        var began = _clock.GetUtcNow();
        Write(writer, LogStreamKind.Output, "one\ntw");
        _clock.Advance(TimeSpan.FromSeconds(1));
        Write(writer, LogStreamKind.Errors, "bad\n");
        Write(writer, LogStreamKind.Output, "o\nthree");
        var lines = await ReadAsync(new LogWish());
        Assert.Equal(["stdout 0 one", "stderr 6 bad", "stdout 4 two", "stdout 12 three+"], lines.Select(Short));
        Assert.Equal([began, began.AddSeconds(1), began, began.AddSeconds(1)], lines.Select(line => line.GetProperty("time").GetDateTimeOffset()));
    }

    [Fact]
    public async Task Should_leave_out_what_is_not_wanted()
    {
        using var writer = LogWriter.Open(_folder, _clock);
        for (var i = 0; i < 10; i++)
        {
            Write(writer, i % 2 == 0 ? LogStreamKind.Output : LogStreamKind.Errors, $"{i}\n");
            _clock.Advance(TimeSpan.FromSeconds(1));
        }
        var half = (_clock.GetUtcNow().AddSeconds(-5) - DateTimeOffset.UnixEpoch).Ticks / 10;
        Assert.Equal(["5", "6", "7", "8", "9"], await TextsAsync(new LogWish { SinceUs = half }));
        Assert.Equal(["7", "8", "9"], await TextsAsync(new LogWish { Tail = 3 }));
        Assert.Empty(await TextsAsync(new LogWish { Tail = 0 }));
        Assert.Equal(["6", "8"], await TextsAsync(new LogWish { Tail = 2, Stream = 1 }));
        Assert.Equal(["7", "9"], await TextsAsync(new LogWish { SinceUs = half, Stream = 2, After = 10 }));
        Assert.Equal(10, (await TextsAsync(new LogWish { Tail = 100 })).Count);
    }

    [Fact]
    public async Task Should_keep_no_more_than_its_bound_and_the_newest_of_it()
    {
        using var writer = LogWriter.Open(_folder, _clock);
        const int records = 2000;
        var filler = new string('x', LogSegments.MaxPayload - 10);
        for (var i = 0; i < records; i++) Write(writer, LogStreamKind.Output, $"{i:00000000} {filler}\n");
        var bytes = new DirectoryInfo(_folder).GetFiles().Sum(file => file.Length);
        Assert.InRange(bytes, (LogSegments.MostSegments - 1) * LogSegments.SegmentBytes, LogSegments.MostSegments * (LogSegments.SegmentBytes + LogSegments.MaxPayload + 100));
        var numbers = (await TextsAsync(new LogWish())).Select(line => int.Parse(line[..8], System.Globalization.CultureInfo.InvariantCulture)).ToList();
        Assert.Equal(Enumerable.Range(numbers[0], numbers.Count), numbers);
        Assert.Equal(records - 1, numbers[^1]);
    }

    [Fact]
    public async Task Should_go_on_after_an_agent_that_died_in_the_middle_of_a_record()
    {
        using (var writer = LogWriter.Open(_folder, _clock))
        {
            Write(writer, LogStreamKind.Output, "whole\n");
            Write(writer, LogStreamKind.Output, "torn\n");
        }
        var file = LogSegments.PathOf(_folder, 1);
        using (var stream = File.OpenWrite(file)) stream.SetLength(stream.Length - 3);
        using (var writer = LogWriter.Open(_folder, _clock))
        {
            Assert.Equal(6UL, writer.Position);
            Write(writer, LogStreamKind.Output, "torn\n");
        }
        Assert.Equal(["whole", "torn"], await TextsAsync(new LogWish()));

        // One that had just begun another file.
        File.WriteAllBytes(LogSegments.PathOf(_folder, 2), []);
        using var next = LogWriter.Open(_folder, _clock);
        Assert.Equal(11UL, next.Position);
        Write(next, LogStreamKind.Errors, "on\n");
        Assert.Equal(["whole", "torn", "on"], await TextsAsync(new LogWish()));
    }

    [Fact]
    public async Task Should_tell_what_is_missing()
    {
        using var writer = LogWriter.Open(_folder, _clock);
        Write(writer, LogStreamKind.Output, "one\nbegun");
        Assert.True(writer.SkipTo(1009));
        Assert.False(writer.SkipTo(1008));
        Write(writer, LogStreamKind.Output, "rest\n");
        Assert.Equal(new LogExtent { First = 0, End = 1014, LostBytes = 1000 }, LogCursor.Extent(_folder));
        Assert.Equal(["stdout 0 one", "stdout 4 begun+", "lost 9 1000", "stdout 1009 rest"], (await ReadAsync(new LogWish())).Select(Short));
    }

    [Fact]
    public async Task Should_say_of_a_disk_that_takes_nothing_that_bytes_are_missing()
    {
        using var writer = LogWriter.Open(_folder, _clock);
        Write(writer, LogStreamKind.Output, "one\n");
        // The next file can't be made: there is a folder of that name.
        while (new FileInfo(LogSegments.PathOf(_folder, 1)).Length < LogSegments.SegmentBytes) Write(writer, LogStreamKind.Output, new string('x', 16000) + "\n");
        Directory.CreateDirectory(LogSegments.PathOf(_folder, 2));
        Assert.Null(writer.Add(LogStreamKind.Output, "lost\n"u8));
        Assert.NotNull(writer.Flush());
        Directory.Delete(LogSegments.PathOf(_folder, 2));
        Write(writer, LogStreamKind.Output, "found\n");
        var lines = await ReadAsync(new LogWish { Tail = 2 });
        Assert.Equal(5UL, lines[0].GetProperty("lost_bytes").GetUInt64());
        Assert.Equal("found", lines[1].GetProperty("line").GetString());
    }

    [Fact]
    public async Task Should_cut_a_line_that_does_not_end_and_no_character()
    {
        using var writer = LogWriter.Open(_folder, _clock);
        var text = "a" + string.Concat(Enumerable.Repeat("ü", 20_000));
        foreach (var piece in Encoding.UTF8.GetBytes(text + "\n").Chunk(LogSegments.MaxPayload)) Assert.Null(writer.Add(LogStreamKind.Output, piece));
        Assert.Null(writer.Flush());
        var lines = await ReadAsync(new LogWish());
        Assert.Equal(text, string.Concat(lines.Select(line => line.GetProperty("line").GetString())));
        Assert.Equal([true, true, false], lines.Select(line => line.TryGetProperty("partial", out _)));
    }

    [Fact]
    public async Task Should_follow_a_log_while_its_oldest_files_go_and_miss_nothing_without_saying_so()
    {
        var ended = new TaskCompletionSource();
        var reading = Task.Run(() => ReadAsync(new LogWish(), follow: true, ended.Task));
        var writer = LogWriter.Open(_folder, _clock);
        const int lines = 100_000;
        for (var i = 0; i < lines; i++) Write(writer, LogStreamKind.Output, $"{i:0000} {new string('y', 400)}\n");
        writer.Dispose();
        ended.SetResult();
        ulong next = 0;
        foreach (var line in await reading.WaitAsync(Soon + Soon))
        {
            var position = line.GetProperty("position").GetUInt64();
            if (next > 0) Assert.Equal(next, position);
            next = position + (line.TryGetProperty("lost_bytes", out var lost) ? lost.GetUInt64() : (ulong)line.GetProperty("line").GetString()!.Length + 1);
        }
        Assert.Equal(Enumerable.Range(0, lines).Sum(i => (long)$"{i:0000}".Length + 402), (long)next);
    }

    [Fact]
    public async Task Should_end_at_what_was_there_however_fast_more_is_written()
    {
        using var writer = LogWriter.Open(_folder, _clock);
        var filler = new string('x', 16_000);
        var written = 0;
        void WriteTen()
        {
            for (var end = written + 10; written < end; written++) Write(writer, LogStreamKind.Output, $"{written:0000} {filler}\n");
        }
        WriteTen();
        var told = new MemoryStream();
        await foreach (var chunk in new LogReader(_folder, TimeProvider.System).ReadAsync(new LogWish(), follow: false, Task.CompletedTask))
        {
            told.Write(chunk.Data.Span);
            Assert.InRange(written, 0, 1000);
            WriteTen();
        }
        var lines = Encoding.UTF8.GetString(told.ToArray()).Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(Enumerable.Range(0, 10).Select(i => $"{i:0000}"), lines.Select(line => JsonDocument.Parse(line).RootElement.GetProperty("line").GetString()![..4]));
    }

    [Fact]
    public async Task Should_say_what_went_before_a_slow_reader_came_to_it_and_end_there()
    {
        using var writer = LogWriter.Open(_folder, _clock);
        var filler = new string('x', 16_000);
        void Fill(int files)
        {
            for (var i = 0; i < files * (int)(LogSegments.SegmentBytes / filler.Length + 1); i++) Write(writer, LogStreamKind.Output, filler + "\n");
        }
        Fill(2);
        var end = writer.Position;
        var told = new MemoryStream();
        await foreach (var chunk in new LogReader(_folder, TimeProvider.System).ReadAsync(new LogWish(), follow: false, Task.CompletedTask))
        {
            // All that it was to tell goes when it has told a little.
            if (told.Length == 0) Fill(LogSegments.MostSegments + 2);
            told.Write(chunk.Data.Span);
        }
        var last = JsonDocument.Parse(Encoding.UTF8.GetString(told.ToArray()).Split('\n', StringSplitOptions.RemoveEmptyEntries)[^1]).RootElement;
        Assert.Equal(end, last.GetProperty("position").GetUInt64() + last.GetProperty("lost_bytes").GetUInt64());
    }

    [Fact]
    public async Task Should_tell_the_last_lines_while_the_oldest_files_go()
    {
        using var writer = LogWriter.Open(_folder, _clock);
        var filler = new string('x', 16_000);
        var perFile = (int)(LogSegments.SegmentBytes / filler.Length) + 1;
        var written = 0;
        void Fill(int files)
        {
            for (var end = written + files * perFile; written < end; written++) Write(writer, LogStreamKind.Output, $"{written:00000000} {filler}\n");
        }
        Fill(LogSegments.MostSegments);
        for (var round = 0; round < 30; round++)
        {
            // No more than one or two files go: never those that the last lines are in.
            var writing = Task.Run(() => Fill(1));
            var numbers = (await TextsAsync(new LogWish { Tail = 10 })).Select(line => int.Parse(line[..8], System.Globalization.CultureInfo.InvariantCulture)).ToList();
            await writing;
            Assert.Equal(10, numbers.Count);
            Assert.Equal(Enumerable.Range(numbers[0], 10), numbers);
        }
    }

    [Fact]
    public void Should_hold_back_what_comes_too_fast_each_microvm_for_itself_and_all_together()
    {
        var pace = new LogPace(_clock);
        _clock.Advance(TimeSpan.FromSeconds(5));
        var one = pace.NewVm();
        // What was not used of the last second, and then no more than there is in each.
        Assert.Equal(TimeSpan.Zero, one(LogPace.PerVm));
        Assert.Equal(0.5, one(LogPace.PerVm / 2).TotalSeconds, 3);
        Assert.Equal(TimeSpan.Zero, pace.NewVm()(LogPace.PerVm / 2));
        // None of these has used its own.
        Assert.Equal(0.5, pace.NewVm()(LogPace.PerVm).TotalSeconds, 3);
        Assert.Equal(1, pace.NewVm()(LogPace.PerVm).TotalSeconds, 3);
    }

    private static void Write(LogWriter writer, LogStreamKind kind, string text) => Assert.Null(writer.Add(kind, Encoding.UTF8.GetBytes(text)) ?? writer.Flush());

    private async Task<List<string>> TextsAsync(LogWish wish) => [.. (await ReadAsync(wish)).Select(line => line.GetProperty("line").GetString()!)];

    private async Task<List<JsonElement>> ReadAsync(LogWish wish, bool follow = false, Task? ended = null)
    {
        var all = new MemoryStream();
        await foreach (var chunk in new LogReader(_folder, TimeProvider.System).ReadAsync(wish, follow, ended ?? Task.CompletedTask))
        {
            Assert.Equal((ulong)all.Length, chunk.Offset);
            Assert.InRange(chunk.Data.Length, 1, 64 * 1024);
            all.Write(chunk.Data.Span);
        }
        return [.. Encoding.UTF8.GetString(all.ToArray()).Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => JsonDocument.Parse(line).RootElement)];
    }

    private static string Short(JsonElement line) => line.TryGetProperty("lost_bytes", out var lost)
        ? $"lost {line.GetProperty("position")} {lost}"
        : $"{line.GetProperty("stream")} {line.GetProperty("position")} {line.GetProperty("line")}{(line.TryGetProperty("partial", out _) ? "+" : "")}";
}
