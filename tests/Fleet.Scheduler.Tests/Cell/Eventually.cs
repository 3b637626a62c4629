using System.Diagnostics;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>Waits for what must come, within a bound.</summary>
internal static class Eventually
{
    public static readonly TimeSpan Bound = TimeSpan.FromSeconds(20);

    public static Task TrueAsync(Func<bool> condition, Func<string>? otherwise = null) =>
        TrueAsync(() => Task.FromResult(condition()), otherwise);

    public static async Task TrueAsync(Func<Task<bool>> condition, Func<string>? otherwise = null)
    {
        var watch = Stopwatch.StartNew();
        while (!await condition())
        {
            if (watch.Elapsed > Bound)
                throw new Xunit.Sdk.XunitException(otherwise?.Invoke() ?? "It did not come true in time.");
            await Task.Delay(10);
        }
    }
}
