using System.Text.Json;
using Fleet.Vmm.Fencing;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;

namespace Fleet.Vmm.Tests.Machines;

/// <summary>What a VMM writes of when its guest ran.</summary>
public sealed class RunLogTests : IDisposable
{
    private const string Label = "\"vm\":\"vm-1\",\"epoch\":7";
    private const ulong Long = 3_600_000;

    private readonly string _file = Path.GetTempFileName();

    public void Dispose() => File.Delete(_file);

    private static ulong NowMs => (ulong)(KernelClock.BootNow / 1_000_000);

    [SkippableFact]
    public void Should_tell_when_the_guest_ran_and_that_it_stood_when_paused_and_without_a_lease()
    {
        var lease = new Lease();
        using var loop = new EventLoop();
        var began = NowMs;
        RunLog? log = null;
        using (var run = new MachineRun(ElfImage.Linux64(GuestPrograms.Spin), vcpus: 2, change: settings => settings with { Lease = lease }, runLog: on => log = new RunLog(_file, Label, on, lease)))
        {
            run.Machine.Start(paused: true);
            Assert.Empty(Lines());
            run.Machine.Resume();
            run.Machine.Pause();
            run.Machine.Resume();
            lease.Extend(new(NowMs + 1200, NowMs + Long));
            run.Machine.ObserveLease();
            run.Poll(() =>
            {
                if (run.Warnings.Count == 0)
                {
                    return false;
                }

                run.Machine.Stop();
                return true;
            });
            Assert.Equal(MachineEndKind.Stopped, run.RunToEnd(started: true).Kind);
        }

        var lines = Lines();
        log!.Dispose();
        var events = lines.ConvertAll(line => line.GetProperty("event").GetString());
        var alive = events.Count(happened => happened == "alive");
        Assert.InRange(alive, 1, 4);
        Assert.Equal(["run", "stand", "run", .. Enumerable.Repeat("alive", alive), "stand", "end"], events);
        Assert.All(lines, line => Assert.Equal(("vm-1", 7), (line.GetProperty("vm").GetString(), line.GetProperty("epoch").GetInt32())));
        var times = lines.Select(line => line.GetProperty("boot_ms").GetUInt64()).ToList();
        Assert.Equal(times.Order(), times);
        Assert.True(times[0] >= began && times[^1] <= NowMs);

        // Not before every vCPU was stopped, and these are not stopped before.
        Assert.InRange(times[^2], (ulong)(lease.LapsesAt / 1_000_000), ulong.MaxValue);
    }

    /// <summary>As after a stop of the whole process: the loop finds both at once, and what it says first must hold.</summary>
    [Fact]
    public void Should_not_say_that_a_guest_is_alive_whose_lease_has_lapsed_though_nobody_has_seen_it()
    {
        var lease = new Lease();
        using var loop = new EventLoop();
        using var log = new RunLog(_file, Label, loop, lease);
        using var end = new LoopTimer(loop, () => loop.Exit(0));
        end.Start(TimeSpan.FromMilliseconds(1200), TimeSpan.Zero);
        log.Run();
        lease.Extend(new(NowMs - 1, NowMs + Long));
        loop.Run();
        Assert.Equal(["run"], Lines().Select(line => line.GetProperty("event").GetString()));
    }

    [Fact]
    public void Should_say_nothing_of_a_guest_that_never_ran()
    {
        using var loop = new EventLoop();
        using var log = new RunLog(_file, Label, loop, new Lease());
        log.Stand();
        log.End();
        Assert.Empty(Lines());
    }

    private List<JsonElement> Lines() => [.. File.ReadLines(_file).Select(line => JsonDocument.Parse(line).RootElement)];
}
