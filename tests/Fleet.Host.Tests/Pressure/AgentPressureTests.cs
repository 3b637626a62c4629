using Fleet.Host.Tests.Agent;
using Fleet.Host.Tests.Link;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Tests.Pressure;

/// <summary>What an agent does and tells when its machine is short of something, by files of the kernel's form.</summary>
public sealed class AgentPressureTests : AgentTest
{
    private static readonly TimeSpan Tick = TimeSpan.FromSeconds(2);

    private readonly ManualClock _clock = new();
    private ulong _asked = 100;

    [Fact]
    public async Task Should_tell_what_it_does_when_memory_is_scarce_and_when_that_is_over()
    {
        using var machine = new RecordedMachine();
        await using var agent = await StartAsync(clock: _clock, proc: machine.Folder);
        var stream = await Scheduler.NextAsync();
        Assert.Equal(new PressureReport { Cpu = PressureRung.Calm, Memory = PressureRung.Calm }, await NextAsync(stream, null));

        machine.MemoryAvailable(0.03);
        var told = await NextAsync(stream, one => one.Memory == PressureRung.Closed);
        Assert.Equal(PressureRung.Calm, told.Cpu);
        Assert.Contains("3% of the memory is available", told.Why, StringComparison.Ordinal);
        await NextAsync(stream, one => one.Memory == PressureRung.Reclaim);
        machine.MemoryAvailable(0.5);
        await NextAsync(stream, one => one is { Memory: PressureRung.Closed, Why.Length: > 0 });
        await NextAsync(stream, one => one is { Memory: PressureRung.Calm, Why: "" });

        // Everything that runs waits for memory, however much of it is said to be available.
        machine.StallsAll();
        await NextAsync(stream, one => one.Memory == PressureRung.Closed, () => machine.StallsAll());
    }

    [Fact]
    public async Task Should_do_nothing_when_it_is_not_to_react()
    {
        using var machine = new RecordedMachine();
        machine.MemoryAvailable(0.01);
        await using var agent = await StartAsync(clock: _clock, proc: machine.Folder, reacts: false);
        var stream = await Scheduler.NextAsync();
        for (var i = 0; i < 20; i++)
            await TickAsync(stream, message => Assert.Null(message.Pressure));
    }

    /// <summary>Lets the clock go on until a word comes that is wanted; null: any.</summary>
    private async Task<PressureReport> NextAsync(AgentStream stream, Func<PressureReport, bool>? wanted, Action? each = null)
    {
        for (var i = 0; i < 200; i++)
        {
            PressureReport? found = null;
            each?.Invoke();
            await TickAsync(stream, message => found = message.Pressure is { } told && wanted?.Invoke(told) != false ? told : found);
            if (found is not null)
                return found;
        }
        throw new Xunit.Sdk.XunitException("the word did not come");
    }

    private async Task TickAsync(AgentStream stream, Action<HostMessage> heard)
    {
        _clock.Advance(Tick);
        // The answer to this tells that the tick was seen before the clock goes on.
        var epoch = ++_asked;
        await stream.SendAsync(Stop(epoch));
        await stream.ExpectAsync(message =>
        {
            heard(message);
            return message.Report?.Epoch == epoch;
        });
    }
}

/// <summary>The kernel's files of a machine that does not exist.</summary>
internal sealed class RecordedMachine : IDisposable
{
    private ulong _stalledUs;

    public RecordedMachine()
    {
        Directory.CreateDirectory(Path.Combine(Folder, "pressure"));
        Write("stat", "cpu  100 20 30 800 30 5 5 10 7 3\ncpu0 1 1\ncpu1 1 1\nintr 5\n");
        MemoryAvailable(0.5);
        Stall();
    }

    public string Folder { get; } = Directory.CreateTempSubdirectory("fleet-proc-").FullName;

    public void MemoryAvailable(double share) =>
        Write("meminfo", $"MemTotal:       10000000 kB\nMemFree:          10000 kB\nMemAvailable:   {(int)(10_000_000 * share)} kB\n");

    /// <summary>Ten seconds more.</summary>
    public void StallsAll()
    {
        _stalledUs += 10_000_000;
        Stall();
    }

    public void Dispose() => Directory.Delete(Folder, true);

    private void Stall() => Write("pressure/memory", $"some avg10=0.00 avg60=0.00 avg300=0.00 total={_stalledUs}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={_stalledUs}\n");

    // As a whole: the agent never reads half a file.
    private void Write(string name, string text)
    {
        var path = Path.Combine(Folder, name);
        File.WriteAllText(path + ".new", text);
        File.Move(path + ".new", path, overwrite: true);
    }
}
