namespace Fleet.Scheduler.Tests.Cell;

/// <summary>The machine's clock, which can jump ahead without a timer going off meanwhile: what a process sees that was stopped.</summary>
internal sealed class JumpingClock : TimeProvider
{
    private long _ahead;

    public void Jump(TimeSpan by) => Interlocked.Add(ref _ahead, by.Ticks * (TimestampFrequency / TimeSpan.TicksPerSecond));

    public override long GetTimestamp() => base.GetTimestamp() + Interlocked.Read(ref _ahead);
}
