using Fleet.Vmm.Api;
using Fleet.Vmm.Linux;
using Xunit;

namespace Fleet.Vmm.Tests.Api;

public sealed class VmmLogTests
{
    [Fact]
    public void Should_write_Firecrackers_line()
    {
        using var files = new ScratchDirectory();
        var path = files.File("log");
        using var log = new VmmLog("vm-1", new FixedClock());
        log.Configure(new LoggerConfig(path, LogLevel.Warn, true, false));
        log.Info("not this");
        log.Warn("this");
        log.Configure(new LoggerConfig(null, LogLevel.Off, null, null));
        log.Error("nor this");
        Assert.Equal("2026-01-02T03:04:05.678901200 [vm-1:main:WARN] this\n", File.ReadAllText(path));
    }

    [Fact]
    public void Should_cut_off_what_is_too_long_for_a_pipe()
    {
        using var files = new ScratchDirectory();
        var path = files.File("log");
        using var log = new VmmLog("vm-1", new FixedClock());
        log.Configure(new LoggerConfig(path, LogLevel.Info, false, false));
        log.Info(new string('\u00e9', 5000));
        log.Info("next");
        var lines = File.ReadAllLines(path);
        Assert.Equal(2, lines.Length);
        Assert.InRange(System.Text.Encoding.UTF8.GetByteCount(lines[0]), 4090, 4095);
        Assert.EndsWith("] next", lines[1], StringComparison.Ordinal);
    }

    [Fact]
    public void Should_drop_and_count_when_a_fifo_is_full()
    {
        using var files = new ScratchDirectory();
        var fifo = files.File("fifo");
        Assert.Equal(0, Native.mkfifo(fifo, 0x180));
        using var log = new VmmLog("vm-1", new FixedClock());
        log.Configure(new LoggerConfig(fifo, LogLevel.Info, false, false));
        for (var i = 0; i < 100; i++)
        {
            log.Info(new string('x', 3000));
        }

        Assert.InRange(log.Missed, 1ul, 99ul);
    }

    [Fact]
    public void Should_drop_and_count_a_flood_and_go_on_afterwards()
    {
        using var files = new ScratchDirectory();
        var path = files.File("log");
        var clock = new FixedClock();
        using var log = new VmmLog("vm-1", clock);
        log.Configure(new LoggerConfig(path, LogLevel.Info, false, false));
        for (var i = 0; i < 700; i++)
        {
            log.Info("x");
        }

        Assert.Equal(200ul, log.Missed);
        clock.Advance(TimeSpan.FromSeconds(5));
        log.Info("x");
        Assert.Equal(501, File.ReadAllLines(path).Length);
    }

    [Fact]
    public void Should_not_let_a_guest_hide_what_the_host_did()
    {
        using var files = new ScratchDirectory();
        var path = files.File("log");
        using var log = new VmmLog("vm-1", new FixedClock());
        log.Configure(new LoggerConfig(path, LogLevel.Info, false, false));
        for (var i = 0; i < 700; i++)
        {
            log.WarnOfGuest("broken");
        }

        log.Info("paused");
        Assert.Equal((600ul, 101), (log.Missed, File.ReadAllLines(path).Length));
    }

    [Fact]
    public void Should_keep_the_old_sink_when_the_new_one_fails()
    {
        using var files = new ScratchDirectory();
        var path = files.File("log");
        using var log = new VmmLog("vm-1", new FixedClock());
        log.Configure(new LoggerConfig(path, LogLevel.Info, false, false));
        Assert.Throws<SystemCallException>(() => log.Configure(new LoggerConfig("/no/such/dir/log", LogLevel.Off, true, true)));
        log.Info("still here");
        Assert.EndsWith("[vm-1:main] still here\n", File.ReadAllText(path), StringComparison.Ordinal);
    }

    private sealed class FixedClock : TimeProvider
    {
        private TimeSpan _elapsed;

        public override long TimestampFrequency => TimeSpan.TicksPerSecond;

        public void Advance(TimeSpan time) => _elapsed += time;

        public override DateTimeOffset GetUtcNow() => new DateTimeOffset(2026, 1, 2, 3, 4, 5, TimeSpan.Zero).AddTicks(6789012) + _elapsed;

        public override long GetTimestamp() => _elapsed.Ticks;
    }
}
