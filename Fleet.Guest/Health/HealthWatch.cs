using Fleet.Shared.GuestChannel;

namespace Fleet.Guest.Health;

/// <summary>Checks again and again, on a thread of its own, until the microVM is unhealthy, and says so once.</summary>
/// <param name="check">When, and what counts.</param>
/// <param name="probe">Makes one check; null: it passed.</param>
/// <param name="unhealthy">Told what was wrong last.</param>
/// <param name="changed">Called when <see cref="State"/> is another.</param>
internal sealed class HealthWatch(HealthCheck check, Func<string?> probe, Action<string> unhealthy, Action changed)
{
    private int _state = (int)HealthState.Starting << 16;

    /// <summary>How it goes, and how many checks failed in a row. From any thread.</summary>
    public (HealthState State, ushort Failures) State => Volatile.Read(ref _state) is var state ? ((HealthState)(state >> 16), (ushort)state) : default;

    public void Start() => new Thread(Watch, 256 * 1024) { IsBackground = true, Name = "health" }.Start();

    private void Watch()
    {
        var began = Environment.TickCount64;
        var record = new HealthRecord(check);
        while (true)
        {
            Thread.Sleep(check.Interval);
            var problem = probe();
            var isOver = record.Take(problem, TimeSpan.FromMilliseconds(Environment.TickCount64 - began));
            // In its start period it is neither, until it passes for the first time.
            var state = problem is null ? HealthState.Passing : record.Failures > 0 || State.State != HealthState.Starting ? HealthState.Failing : HealthState.Starting;
            var packed = ((int)state << 16) | record.Failures;
            if (Interlocked.Exchange(ref _state, packed) != packed) changed();
            if (!isOver) continue;
            unhealthy(problem!);
            return;
        }
    }
}
