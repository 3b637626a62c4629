using System.Text;
using Fleet.Guest.Linux;
using Fleet.Guest.Logs;
using Xunit;

namespace Fleet.Guest.Tests;

/// <summary>A console that is slower than the command, here a pipe.</summary>
public sealed class ConsoleCopyTests : IDisposable
{
    private static readonly byte[] Written = Encoding.ASCII.GetBytes(string.Concat(Enumerable.Range(0, 100_000).Select(number => $"{number:d9}\n")));

    /// <summary>O_DIRECT of a pipe.</summary>
    private const int PacketMode = 0x4000;

    private readonly int _read, _write;

    public unsafe ConsoleCopyTests()
    {
        var ends = stackalloc int[2];
        // SAFETY: the kernel writes two ints, on this frame.
        Assert.Equal(0, Libc.pipe2(ends, Libc.O_CLOEXEC));
        (_read, _write) = (ends[0], ends[1]);
    }

    public void Dispose() => Libc.close(_read);

    [Fact]
    public void Should_end_soon_where_the_host_has_what_is_not_shown_and_say_how_much_that_is()
    {
        var console = new ConsoleCopy(_write, TimeSpan.Zero);
        console.Start();
        console.Put(Written, mayMiss: true);
        console.Finish(mayMiss: true);

        var shown = ReadUntil("the log has them\n");
        var note = shown.IndexOf("\nfleet-init: ", StringComparison.Ordinal);
        Assert.InRange(note, 0, 128 << 10);
        Assert.Equal(Encoding.ASCII.GetString(Written, 0, note), shown[..note]);
        Assert.Equal($"\nfleet-init: {Written.Length - note} bytes of output are not shown here; the log has them\n", shown[note..]);
    }

    [Fact]
    public async Task Should_show_all_where_nobody_else_has_it()
    {
        var console = new ConsoleCopy(_write, TimeSpan.FromSeconds(30));
        console.Start();
        console.Put(Written, mayMiss: false);
        var reading = Task.Run(() => ReadUntil(null));
        console.Finish(mayMiss: false);
        Libc.close(_write);
        Assert.Equal(Encoding.ASCII.GetString(Written), await reading);
    }

    [Fact]
    public unsafe void Should_take_little_at_once_as_long_as_more_is_missed()
    {
        var ends = stackalloc int[2];
        // SAFETY: the kernel writes two ints, on this frame. What is written at once is read at once.
        Assert.Equal(0, Libc.pipe2(ends, Libc.O_CLOEXEC | PacketMode));
        var console = new ConsoleCopy(ends[1], TimeSpan.Zero);
        console.Put(Written, mayMiss: true);
        console.Put(Written, mayMiss: true);
        console.Start();

        var buffer = stackalloc byte[8192];
        // SAFETY: the buffer is on this frame, and its length is given.
        Assert.Equal(256, Libc.read(ends[0], buffer, 8192));
        Assert.Equal(4096, Libc.read(ends[0], buffer, 8192));
        Libc.close(ends[0]);
    }

    private unsafe string ReadUntil(string? last)
    {
        var all = new StringBuilder();
        var buffer = new byte[4096];
        while (last is null || !all.ToString().EndsWith(last, StringComparison.Ordinal))
        {
            nint count;
            // SAFETY: the buffer is pinned during the call and its own length is given.
            fixed (byte* bytes = buffer) count = Libc.read(_read, bytes, (nuint)buffer.Length);
            if (count <= 0) break;
            all.Append(Encoding.ASCII.GetString(buffer, 0, (int)count));
        }
        return all.ToString();
    }
}
