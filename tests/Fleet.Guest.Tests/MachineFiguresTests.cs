using Fleet.Guest.Reporting;
using Fleet.Shared.GuestChannel;
using Xunit;

namespace Fleet.Guest.Tests;

public sealed class MachineFiguresTests
{
    [Fact]
    public void Should_read_the_kernels_words()
    {
        var figures = MachineFigures.Parse("MemTotal:         241512 kB\nMemFree:           50016 kB\nMemAvailable:     190712 kB\n"u8, "1.50 0.18 12.00 1/80 11206\n"u8);
        Assert.Equal(new FiguresPayload(241512, 190712, 150, 18, 1200, 80, HealthState.None, 0), figures);
        Assert.Equal(default, MachineFigures.Parse("MemTotal"u8, "x y"u8));
        var own = MachineFigures.Read(HealthState.Failing, 3);
        Assert.True(own.MemoryKib > 1024 && own.AvailableKib <= own.MemoryKib && own.Tasks > 0);
        Assert.Equal((HealthState.Failing, (ushort)3), (own.Health, own.HealthFailures));
    }

    [Fact]
    public void Should_come_through_and_be_believed_only_where_it_can_be()
    {
        var figures = new FiguresPayload(256 << 10, 100 << 10, 150, 20, 10, 90, HealthState.Passing, 1, 3);
        var payload = new byte[FiguresPayload.Bytes];
        figures.Write(payload);
        Assert.Equal(figures, FiguresPayload.Read(payload, 256));
        Assert.Null(FiguresPayload.Read(payload, 255));
        Assert.Null(FiguresPayload.Read(payload.AsSpan(1), 256));
        foreach (var absurd in new[] { figures with { AvailableKib = 257 << 10 }, figures with { Load5 = uint.MaxValue }, figures with { Tasks = uint.MaxValue }, figures with { Health = (HealthState)4 } })
        {
            absurd.Write(payload);
            Assert.Null(FiguresPayload.Read(payload, 256));
        }
    }
}
