namespace Fleet.Guest.Health;

/// <summary>Checks again and again, on a thread of its own, until the microVM is unhealthy, and says so once.</summary>
/// <param name="check">When, and what counts.</param>
/// <param name="probe">Makes one check; null: it passed.</param>
/// <param name="unhealthy">Told what was wrong last.</param>
internal sealed class HealthWatch(HealthCheck check, Func<string?> probe, Action<string> unhealthy)
{
    public void Start() => new Thread(Watch, 256 * 1024) { IsBackground = true, Name = "health" }.Start();

    private void Watch()
    {
        var began = Environment.TickCount64;
        var record = new HealthRecord(check);
        while (true)
        {
            Thread.Sleep(check.Interval);
            var problem = probe();
            if (!record.Take(problem, TimeSpan.FromMilliseconds(Environment.TickCount64 - began))) continue;
            unhealthy(problem!);
            return;
        }
    }
}
