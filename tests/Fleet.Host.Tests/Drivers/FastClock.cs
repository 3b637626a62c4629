namespace Fleet.Host.Tests.Drivers;

/// <summary>Real time, so many times as fast.</summary>
internal sealed class FastClock(int factor) : TimeProvider
{
    public override long GetTimestamp() => System.GetTimestamp() * factor;

    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period) =>
        System.CreateTimer(callback, state, Scaled(dueTime), Scaled(period));

    private TimeSpan Scaled(TimeSpan time) => time > TimeSpan.Zero ? time / factor : time;
}
