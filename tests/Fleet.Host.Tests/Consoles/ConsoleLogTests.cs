using System.Diagnostics;
using System.Text;
using Fleet.Host.Consoles;

namespace Fleet.Host.Tests.Consoles;

public sealed class ConsoleLogTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-console-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string LogFile => Path.Combine(_folder, ConsoleLog.FileName);

    [Theory]
    [InlineData(null, 0, "0123456789")]
    [InlineData(0ul, 0, "0123456789")]
    [InlineData(4ul, 4, "456789")]
    [InlineData(10ul, 10, "")]
    [InlineData(11ul, 10, "")]
    [InlineData(ulong.MaxValue, 10, "")]
    public async Task Should_read_from_an_offset(ulong? offset, int first, string expected)
    {
        File.WriteAllText(LogFile, "0123456789");
        var text = new StringBuilder();
        await foreach (var chunk in new ConsoleLog(_folder).ReadAsync(offset, follow: false, Task.CompletedTask))
        {
            Assert.Equal((ulong)(first + text.Length), chunk.Offset);
            text.Append(Encoding.ASCII.GetString(chunk.Data.Span));
        }
        Assert.Equal(expected, text.ToString());
    }

    [Fact]
    public async Task Should_be_empty_where_nothing_was_launched()
    {
        var console = new ConsoleLog(Path.Combine(_folder, "nowhere"));
        Assert.Equal(default, console.Extent());
        await foreach (var _ in console.ReadAsync(0, follow: true, Task.CompletedTask)) Assert.Fail("bytes from nowhere");
    }

    [Fact]
    public async Task Should_follow_until_the_end_and_miss_nothing()
    {
        var ended = new TaskCompletionSource();
        var text = new StringBuilder();
        var reader = Task.Run(async () =>
        {
            // Begins before there is a file.
            await foreach (var chunk in new ConsoleLog(_folder).ReadAsync(null, follow: true, ended.Task))
            {
                lock (text) text.Append(Encoding.ASCII.GetString(chunk.Data.Span));
            }
        });
        File.AppendAllText(LogFile, "one ");
        var watch = Stopwatch.StartNew();
        while (watch.Elapsed < TimeSpan.FromSeconds(20))
        {
            lock (text) if (text.Length == 4) break;
            await Task.Delay(5);
        }
        Assert.Equal("one ", text.ToString());
        File.AppendAllText(LogFile, "two");
        ended.SetResult();
        await reader.WaitAsync(TimeSpan.FromSeconds(20));
        Assert.Equal("one two", text.ToString());
    }

    [Fact]
    public async Task Should_end_when_cancelled()
    {
        using var cancel = new CancellationTokenSource();
        var reader = Task.Run(async () =>
        {
            await foreach (var _ in new ConsoleLog(_folder).ReadAsync(null, follow: true, new TaskCompletionSource().Task, cancel.Token)) { }
        });
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => reader.WaitAsync(TimeSpan.FromSeconds(20)));
    }

    [Fact]
    public async Task Should_keep_chunks_small()
    {
        File.WriteAllBytes(LogFile, new byte[200_000]);
        long sum = 0;
        await foreach (var chunk in new ConsoleLog(_folder).ReadAsync(null, follow: false, Task.CompletedTask))
        {
            Assert.InRange(chunk.Data.Length, 1, ConsoleLog.MaxChunk);
            sum += chunk.Data.Length;
        }
        Assert.Equal(200_000, sum);
    }

    [Fact]
    public void Should_leave_a_console_alone_that_is_not_too_long()
    {
        File.WriteAllBytes(LogFile, new byte[ConsoleLog.Kept]);
        Assert.Equal(new ConsoleExtent(0, (ulong)ConsoleLog.Kept), new ConsoleLog(_folder).Trim());
    }

    [SkippableFact]
    public async Task Should_keep_offsets_right_and_space_bounded_under_a_flood()
    {
        // Eight bytes that say where they stand, so that any reader can tell a wrong offset.
        const long total = 96 << 20;
        var ended = new TaskCompletionSource();
        var writer = Task.Run(() =>
        {
            using var file = new FileStream(LogFile, FileMode.Append, FileAccess.Write, FileShare.ReadWrite, 0);
            var block = new byte[24 * 1024];
            for (long at = 0; at < total; at += block.Length)
            {
                for (int i = 0; i < block.Length; i += 8) BitConverter.TryWriteBytes(block.AsSpan(i), at + i + 1);
                file.Write(block);
            }
        });
        long most = 0;
        var trimmer = Task.Run(() =>
        {
            var console = new ConsoleLog(_folder);
            while (!ended.Task.IsCompleted)
            {
                var extent = console.Trim();
                most = Math.Max(most, (long)(extent.End - extent.Start));
                Thread.Yield();
            }
        });
        long seen = 0;
        ulong last = 0;
        var reader = Task.Run(async () =>
        {
            await foreach (var chunk in new ConsoleLog(_folder).ReadAsync(0, follow: true, ended.Task))
            {
                Assert.True(chunk.Offset >= last, $"{chunk.Offset} after {last}");
                last = chunk.Offset + (ulong)chunk.Data.Length;
                seen += chunk.Data.Length;
                for (int i = (int)((8 - chunk.Offset % 8) % 8); i + 8 <= chunk.Data.Length; i += 8)
                {
                    long value = BitConverter.ToInt64(chunk.Data.Span[i..]);
                    if (value != (long)chunk.Offset + i + 1) Assert.Fail($"at {chunk.Offset + (ulong)i} stands {value - 1}");
                }
            }
        });
        await writer.WaitAsync(TimeSpan.FromSeconds(60));
        ended.SetResult();
        await Task.WhenAll(reader, trimmer).WaitAsync(TimeSpan.FromSeconds(60));

        var final = new ConsoleLog(_folder).Trim();
        Skip.If(final.Start == 0, "this file system has no holes");
        Assert.Equal(final.End, last);
        Assert.InRange(final.End - final.Start, 1ul, (ulong)(ConsoleLog.Kept + ConsoleLog.Kept / 2));
        // A reader that is never given a CPU meanwhile misses what was freed, but nothing of what is still there.
        Assert.True(seen >= (long)(final.End - final.Start), $"the reader saw {seen} bytes of {final}");
    }

    [Fact]
    public async Task Should_tell_a_late_reader_where_the_rest_begins()
    {
        using (var file = new FileStream(LogFile, FileMode.Append))
        {
            for (int i = 0; i < 14; i++) file.Write(Enumerable.Repeat((byte)('a' + i), 1 << 20).ToArray());
        }
        var extent = new ConsoleLog(_folder).Trim();
        Assert.Equal(new ConsoleExtent(6 << 20, 14 << 20), extent);
        await foreach (var chunk in new ConsoleLog(_folder).ReadAsync(1000, follow: false, Task.CompletedTask))
        {
            Assert.Equal(6ul << 20, chunk.Offset);
            Assert.Equal((byte)'g', chunk.Data.Span[0]);
            break;
        }
    }
}
