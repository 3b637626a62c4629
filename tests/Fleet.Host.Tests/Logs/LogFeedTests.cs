using Fleet.Host.Guests;
using Fleet.Host.Logs;
using Fleet.Host.Tests.Agent;
using Fleet.Shared.Contracts;
using Fleet.Shared.GuestChannel;
using Xunit;

namespace Fleet.Host.Tests.Logs;

/// <summary>A guest that writes more than its host takes.</summary>
public sealed class LogFeedTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-log-").FullName;
    private readonly ManualClock _clock = new();

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>What room a guest gets beyond what it begins with, by what it says that it takes.</summary>
    [Theory]
    [InlineData(0, 0)]
    [InlineData(1, 0)]
    [InlineData(2, 1)]
    [InlineData(3, 2)]
    [InlineData(255, 2)]
    public void Should_give_a_guest_that_takes_it_more_room_once(byte says, int more)
    {
        using var writer = LogWriter.Open(_folder, _clock);
        var credits = new List<int>();
        var feed = new LogFeed(writer, _ => TimeSpan.Zero, _clock, (_, _, payload) => credits.Add(BitConverter.ToInt32(payload)), why => Assert.Fail(why), _ => { }) { Number = 1 };
        feed.Open();
        feed.Take(FrameType.Started, default);
        var payload = new byte[FiguresPayload.Bytes];
        (default(FiguresPayload) with { LogWindows = says }).Write(payload);
        for (var i = 0; i < 2; i++)
        {
            feed.Take(FrameType.Figures, payload);
            feed.GiveRoom();
        }

        var taken = StreamLedger.Cost(FrameType.Figures, payload.Length);
        Assert.Equal(more > 0 ? [more * StreamLedger.OutputWindow, taken, taken] : [taken, taken], credits);
        Assert.False(feed.Over.Task.IsCompleted);
    }

    [Fact]
    public void Should_take_100_MB_that_come_at_once_at_its_own_pace_lose_nothing_and_keep_the_newest()
    {
        const long all = 100_000_000;
        using var writer = LogWriter.Open(_folder, _clock);
        var guest = new StreamLedger(ofLog: true);
        var pace = new LogPace(_clock).NewVm();
        // When each piece is given back; on another thread, for which this one waits.
        var due = new Queue<DateTimeOffset>();
        int toCome = 0, given = 0;
        var feed = new LogFeed(writer, Paced, _clock, GivenBack, why => Assert.Fail(why), _ => { }) { Number = 1 };
        guest.ToGuest(FrameType.Open, feed.Open());
        Say(FrameType.Started, default);
        var piece = new byte[Frame.MaxPayload];
        var began = _clock.GetUtcNow();
        for (long sent = 0; sent < all;)
        {
            var next = piece.AsMemory(0, (int)Math.Min(piece.Length, all - sent));
            if (guest.OutputLeft < StreamLedger.Cost(FrameType.Output, next.Length))
            {
                // The host takes no more now; the command waits.
                toCome = Volatile.Read(ref given);
                _clock.Advance(due.Peek() - _clock.GetUtcNow());
                while (due.TryPeek(out var at) && at <= _clock.GetUtcNow()) (_, toCome) = (due.Dequeue(), toCome + 1);
                Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref given) == toCome, TimeSpan.FromSeconds(20)));
                continue;
            }
            Say(FrameType.Output, next);
            sent += next.Length;
            feed.GiveRoom();
        }

        Assert.False(feed.Over.Task.IsCompleted);
        var extent = LogCursor.Extent(_folder)!;
        Assert.Equal(((ulong)all, 0UL), (extent.End, extent.LostBytes));
        Assert.InRange(new DirectoryInfo(_folder).GetFiles().Sum(file => file.Length), 12 << 20, LogSegments.MostSegments * LogSegments.SegmentBytes + Frame.MaxPayload);
        var atMost = StreamLedger.Cost(FrameType.Output, piece.Length) / (double)piece.Length * all / LogPace.PerVm;
        Assert.InRange((_clock.GetUtcNow() - began).TotalSeconds, atMost - 1.1, atMost + 0.1);

        TimeSpan Paced(int cost)
        {
            var wait = pace(cost);
            // A delay is of whole milliseconds, and of none it is over at once.
            if (wait >= TimeSpan.FromMilliseconds(1)) due.Enqueue(_clock.GetUtcNow() + TimeSpan.FromMilliseconds((long)wait.TotalMilliseconds));
            return wait;
        }

        void GivenBack(LogFeed _, FrameType type, byte[] payload)
        {
            lock (guest) Assert.Null(guest.ToGuest(type, payload));
            Interlocked.Increment(ref given);
        }

        void Say(FrameType type, ReadOnlyMemory<byte> payload)
        {
            Assert.Null(guest.FromGuest(type, payload.Span));
            feed.Take(type, payload);
        }
    }
}
