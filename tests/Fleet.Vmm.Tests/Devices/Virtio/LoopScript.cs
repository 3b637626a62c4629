using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Tests.Devices.Virtio;

/// <summary>Steps on an event loop: each is done when its time has come, one behind the other.</summary>
internal static class LoopScript
{
    public static void Follow(EventLoop loop, params (Func<bool> When, Action Then)[] steps)
    {
        var next = 0;
        using var look = new LoopTimer(loop, () =>
        {
            while (next < steps.Length && steps[next].When())
            {
                steps[next++].Then();
            }

            if (next == steps.Length)
            {
                loop.Exit(0);
            }
        });
        look.Start(TimeSpan.FromMilliseconds(1), TimeSpan.FromMilliseconds(1));
        using var giveUp = new LoopTimer(loop, () => throw new TimeoutException($"step {next} was not reached within 20 s"));
        giveUp.Start(TimeSpan.FromSeconds(20), TimeSpan.Zero);
        loop.Run();
    }
}
