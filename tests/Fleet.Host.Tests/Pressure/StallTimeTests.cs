using Fleet.Host.Pressure;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Tests.Pressure;

public sealed class StallTimeTests
{
    private const string Recorded =
        "some avg10=1.65 avg60=9.17 avg300=31.25 total=10981511751\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=181568456\n";

    private static StallTime Time(int some, int full = 0) => new(TimeSpan.FromMilliseconds(some), TimeSpan.FromMilliseconds(full));

    [Fact]
    public void Should_read_the_kernels_totals()
    {
        Assert.Equal(new StallTime(TimeSpan.FromMicroseconds(10981511751), TimeSpan.FromMicroseconds(181568456)), StallTime.Parse(Recorded));
        // Linux before 5.13 has no line "full" for CPU.
        Assert.Equal(Time(5), StallTime.Parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=5000\n"));
    }

    [Theory]
    [InlineData("")]
    [InlineData("some")]
    [InlineData("some avg10=0.00 avg60=0.00 avg300=0.00")]
    [InlineData("some avg10=0.00 total=-5")]
    [InlineData("some avg10=0.00 total=5 more=6")]
    [InlineData("some avg10=0.00 total=18446744073709551615")]
    [InlineData("some avg10=0.00 total=99999999999999999999")]
    [InlineData("full avg10=0.00 avg60=0.00 avg300=0.00 total=5")]
    [InlineData("some avg10=0.00 total=5\nnonsense\n")]
    public void Should_not_believe_anything_else(string text) => Assert.Null(StallTime.Parse(text));

    [Fact]
    public void Should_not_read_what_is_longer_than_the_kernels_file() => Assert.Null(StallTime.Parse(Recorded + new string(' ', 2000)));

    [Fact]
    public void Should_tell_shares_of_the_time_between_two_readings()
    {
        var before = new Stalls(Time(100), Time(200, 100), null);
        var shares = new Stalls(Time(600), Time(5200, 100), Time(50)).Since(before, TimeSpan.FromSeconds(1));
        Assert.Equal(new StallShares(0.5, 1, 0, null, null), shares);
        Assert.Equal(new StallFigures { CpuSome = 500, MemorySome = 1000 }, shares.ToFigures());
        // Counted anew: another group or boot.
        Assert.Null(new Stalls(Time(50), null, null).Since(before, TimeSpan.FromSeconds(1)).CpuSome);
        Assert.Null(default(Stalls).Since(default, TimeSpan.FromSeconds(1)).ToFigures());
    }

    [SkippableFact]
    public void Should_read_this_machines()
    {
        Skip.IfNot(File.Exists("/proc/pressure/cpu"), "this kernel has no PSI, or was booted without it");
        var first = Stalls.OfMachine();
        Assert.True(first is { Cpu: not null, Memory: not null, Io: not null });
        Assert.InRange(Stalls.OfMachine().Since(first, TimeSpan.FromSeconds(1)).CpuSome!.Value, 0, 1);
        Assert.True(PressureProbe.Look().IsTold);
    }

    [Fact]
    public void Should_say_that_a_machine_does_not_tell()
    {
        var (told, detail) = PressureProbe.Describe(default);
        Assert.False(told);
        Assert.Contains("psi=1", detail, StringComparison.Ordinal);
        Assert.Null(StallTime.Read("/proc/pressure/no-such-file"));
    }
}
