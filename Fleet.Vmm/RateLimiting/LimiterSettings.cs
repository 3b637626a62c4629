namespace Fleet.Vmm.RateLimiting;

/// <summary>One budget of tokens: bytes, or operations.</summary>
/// <param name="Size">Tokens that it holds at most, and at first.</param>
/// <param name="RefillMilliseconds">Time in which an empty one is full again.</param>
/// <param name="OneTimeBurst">Tokens on top, once.</param>
internal readonly record struct BucketSettings(ulong Size, ulong RefillMilliseconds, ulong OneTimeBurst)
{
    /// <summary>A size or a time of none is the API's word for "no limit".</summary>
    public bool Limits => Size > 0 && RefillMilliseconds > 0;
}

/// <summary>What a limiter is made of; a bucket that is null limits nothing.</summary>
internal sealed record LimiterSettings(BucketSettings? Bandwidth, BucketSettings? Operations)
{
    /// <summary>These settings with the buckets of an update: one that is not said stays, one that does not limit goes.</summary>
    public LimiterSettings With(LimiterSettings update) =>
        new(update.Bandwidth ?? Bandwidth, update.Operations ?? Operations);
}
