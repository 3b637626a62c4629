using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Tests.RateLimiting;

public class RateLimiterTests
{
    private readonly SetClock _clock = new();

    [Fact]
    public void Should_take_from_both_buckets_or_from_none()
    {
        var limiter = new RateLimiter(new LimiterSettings(new BucketSettings(1000, 1000, 0), new BucketSettings(10, 1000, 0)), _clock);
        Assert.True(limiter.TryTake(900, out _));
        for (var i = 0; i < 20; i++)
        {
            Assert.False(limiter.TryTake(200, out var wait));
            Assert.Equal(TimeSpan.FromMilliseconds(100), wait);
        }

        // Twenty refusals for want of bytes cost no operation.
        for (var i = 0; i < 9; i++)
        {
            Assert.True(limiter.TryTake(1, out _));
        }

        Assert.False(limiter.TryTake(0, out var forOperation));
        Assert.Equal(TimeSpan.FromMilliseconds(100), forOperation);
    }

    [Fact]
    public void Should_count_what_passed_and_what_waited()
    {
        var limiter = new RateLimiter(new LimiterSettings(new BucketSettings(100, 100, 0), null), _clock);
        Assert.True(limiter.TryTake(100, out _));
        Assert.False(limiter.TryTake(50, out var wait));
        _clock.Now += wait / 2;
        Assert.False(limiter.TryTake(50, out wait));
        _clock.Now += wait;
        Assert.True(limiter.TryTake(50, out _));
        Assert.Equal((1ul, 2ul, 150ul), (limiter.Throttled, limiter.PassedOperations, limiter.PassedBytes));
        Assert.Equal((ulong)TimeSpan.FromMilliseconds(50).Ticks, limiter.ThrottledTime);
    }

    [Fact]
    public void Should_replace_add_and_take_away_buckets()
    {
        var limiter = new RateLimiter(new LimiterSettings(new BucketSettings(100, 100, 0), null), _clock);
        Assert.True(limiter.TryTake(100, out _));
        limiter.Update(new LimiterSettings(null, new BucketSettings(5, 100, 0)));
        Assert.False(limiter.TryTake(1, out _));
        limiter.Update(new LimiterSettings(new BucketSettings(200, 100, 0), null));
        Assert.True(limiter.TryTake(200, out _));
        limiter.Update(new LimiterSettings(new BucketSettings(0, 100, 0), new BucketSettings(5, 0, 0)));
        for (var i = 0; i < 100; i++)
        {
            Assert.True(limiter.TryTake(uint.MaxValue, out _));
        }

        Assert.Equal(new LimiterSettings(null, null), limiter.Settings);
    }

    [Fact]
    public void Should_not_allocate()
    {
        var limiter = new RateLimiter(new LimiterSettings(new BucketSettings(10_000, 10, 100), new BucketSettings(5, 10, 0)), _clock);
        _ = limiter.TryTake(1, out _);
        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < 1000; i++)
        {
            _ = limiter.TryTake(100, out _);
            _clock.Now += TimeSpan.FromMilliseconds(1);
        }

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }
}
