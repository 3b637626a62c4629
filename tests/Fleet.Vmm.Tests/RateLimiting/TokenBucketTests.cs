using CsCheck;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Tests.RateLimiting;

public class TokenBucketTests
{
    private const long Millisecond = TimeSpan.TicksPerMillisecond;

    [Fact]
    public void Should_give_what_it_holds_and_then_what_time_brings()
    {
        var bucket = new TokenBucket(new BucketSettings(100, 1000, 0), 0);
        Assert.True(Try(bucket, 60, 0));
        Assert.True(Try(bucket, 40, 0));
        Assert.False(bucket.Admits(10, 0, out var ready));
        Assert.Equal(100 * Millisecond, ready);
        Assert.False(bucket.Admits(10, ready - 1, out var still));
        Assert.Equal(ready, still);
        Assert.True(Try(bucket, 10, ready));
        Assert.False(Try(bucket, 1, ready));
    }

    [Fact]
    public void Should_live_on_the_burst_first_and_only_once()
    {
        var bucket = new TokenBucket(new BucketSettings(100, 1000, 250), 0);
        Assert.True(Try(bucket, 200, 0));
        Assert.True(Try(bucket, 150, 0));
        Assert.False(Try(bucket, 1, 0));
        Assert.True(Try(bucket, 100, 1000 * Millisecond));
        Assert.False(Try(bucket, 1, 1000 * Millisecond));
    }

    [Fact]
    public void Should_let_a_request_pass_that_is_larger_than_itself_and_have_it_paid_for()
    {
        var bucket = new TokenBucket(new BucketSettings(100, 1000, 0), 0);
        Assert.True(Try(bucket, 350, 0));
        Assert.False(bucket.Admits(1, 0, out var ready));

        // The time that pays for it does not fill the bucket too.
        Assert.Equal(2510 * Millisecond, ready);
        Assert.False(Try(bucket, 1, ready - 1));
        Assert.True(Try(bucket, 1, ready));
    }

    [Fact]
    public void Should_not_lose_what_comes_while_a_timer_is_late()
    {
        var bucket = new TokenBucket(new BucketSettings(1, 1, 0), 0);
        Assert.True(Try(bucket, 1, 0));
        var now = 0L;
        for (var i = 1; i <= 1000; i++)
        {
            Assert.False(bucket.Admits(1, now, out var ready));
            Assert.Equal(i * Millisecond, ready);
            now = ready + (Millisecond / 3);
            Assert.True(Try(bucket, 1, now));
        }

        // But a bucket that nobody waits at is full and no more.
        now += 50 * Millisecond;
        Assert.True(Try(bucket, 1, now));
        Assert.False(Try(bucket, 1, now));
    }

    [Fact]
    public void Should_hold_no_more_than_its_size_however_long_nobody_asks()
    {
        var bucket = new TokenBucket(new BucketSettings(100, 1000, 0), 0);
        Assert.True(Try(bucket, 100, 0));
        Assert.True(Try(bucket, 100, 3_600_000 * Millisecond));
        Assert.False(Try(bucket, 1, 3_600_000 * Millisecond));
    }

    /// <summary>Over any time it gives size and burst at the start and the rate from then on, and one who asks when told to gets nearly all of it.</summary>
    [Fact]
    public void Should_keep_the_rate_whatever_is_asked()
    {
        var sizes = Gen.OneOf(Gen.ULong[1, 100], Gen.ULong[1000, 10_000_000], Gen.ULong[1, ulong.MaxValue]);
        Gen.Select(sizes, Gen.OneOf(Gen.ULong[1, 5], Gen.ULong[10, 100_000], Gen.ULong[1, 1_000_000_000_000]), Gen.ULong[0, 1000], Gen.ULong[1, 5000].Array[50, 300])
            .Sample(
                (size, refill, burst, requests) =>
                {
                    var bucket = new TokenBucket(new BucketSettings(size, refill, burst), 0);
                    var now = 0L;
                    UInt128 taken = 0;
                    foreach (var request in requests)
                    {
                        if (!bucket.Admits(request, now, out var ready))
                        {
                            Assert.True(ready > now);
                            if (ready > long.MaxValue / 8)
                            {
                                // Some thousand years: times are cut off there.
                                return;
                            }

                            now = ready;
                            Assert.True(bucket.Admits(request, now, out _));
                        }

                        bucket.Take(request);
                        taken += request;
                        // Tokens so far, in units of 1/refill ticks; the last request may be larger than the bucket.
                        var perTick = (UInt128)refill * (ulong)Millisecond;
                        var allowed = ((UInt128)size + burst) * perTick + (UInt128)(ulong)now * size + (UInt128)request * perTick;
                        Assert.True(taken * perTick <= allowed, $"{taken} of {allowed / perTick} at {now}");
                    }

                    // A tick is lost by rounding at each request at most.
                    var fair = Math.Max(0, (double)taken - size - burst) * refill * Millisecond / size;
                    Assert.True(now <= (fair * 1.000001) + requests.Length, $"{now} for {fair}");
                },
                iter: 2_000);
    }

    private static bool Try(TokenBucket bucket, ulong tokens, long now)
    {
        if (!bucket.Admits(tokens, now, out _))
        {
            return false;
        }

        bucket.Take(tokens);
        return true;
    }
}
