using Fleet.Scheduler.Admin;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Logging;
using Fleet.Scheduler.Tests.Api;
using Serilog;
using Serilog.Events;
using Xunit;

namespace Fleet.Scheduler.Tests.Admin;

public sealed class NodeLogTests
{
    private readonly NodeLog _kept = new();
    private readonly ILogger _log;

    public NodeLogTests() => _log = new LoggerConfiguration().MinimumLevel.ControlledBy(_kept.Level).WriteTo.Sink(_kept).CreateLogger();

    [Fact]
    public void Should_keep_the_newest_and_forget_what_is_older()
    {
        for (var i = 1; i <= NodeLog.Kept + 5; i++)
            _log.Information("event {Number} of {Name}", i, "box");
        var all = _kept.After(0, int.MaxValue);
        Assert.Equal(NodeLog.Kept, all.Count);
        Assert.Equal((6, "event 6 of box"), (all[0].Number, all[0].Message));
        Assert.Equal((NodeLog.Kept + 5, _kept.Last), (all[^1].Number, all[^1].Number));
        Assert.Equal([7, 8], _kept.After(6, 2).Select(one => one.Number));
        Assert.Empty(_kept.After(_kept.Last, 10));
    }

    [Fact]
    public void Should_cut_what_is_too_long_and_tell_source_and_exception()
    {
        _log.ForContext("SourceContext", "HostActor").Error(new InvalidOperationException("broken"), "It is {Text}", new string('x', 10));
        _log.Information("{Text:l}", new string('y', NodeLog.MaxMessage * 2));
        var all = _kept.After(0, 10);
        Assert.Equal(("HostActor", LogEventLevel.Error), (all[0].Source, all[0].Level));
        Assert.StartsWith("It is xxxxxxxxxx\nSystem.InvalidOperationException: broken", all[0].Message, StringComparison.Ordinal);
        Assert.Equal(NodeLog.MaxMessage + 1, all[1].Message.Length);
    }

    [Fact]
    public async Task Should_name_who_speaks_in_Akka_and_hear_the_same_once_in_a_row()
    {
        var setup = Akka.Actor.BootstrapSetup.Create().WithConfig("akka { loglevel = INFO, stdout-loglevel = OFF, loggers = [\"Fleet.Scheduler.Logging.SerilogLogger, Fleet.Scheduler\"] }")
            .And(new SerilogSetup(_log));
        var actors = Akka.Actor.ActorSystem.Create("logs", setup);
        try
        {
            foreach (var said in new[] { "gossip", "gossip", "gossip", "news", "gossip" })
                actors.EventStream.Publish(new Akka.Event.Info("Cluster (akka://logs)", typeof(Akka.Event.DummyClassForStringSources), said));
            // Of our own actors each word counts.
            for (var i = 0; i < 2; i++)
                actors.EventStream.Publish(new Akka.Event.Info("vm-1", typeof(NodeLogTests), "started"));
            IEnumerable<(string Source, string Text)> Heard() => _kept.After(0, 100).Where(one => one.Source is "Cluster" or nameof(NodeLogTests) || one.Source.StartsWith("Dummy", StringComparison.Ordinal)).Select(one => (one.Source, one.Message));
            await ApiUnderTest.UntilAsync(() => Heard().Count(one => one.Text == "started") == 2);
            Assert.Equal([("Cluster", "gossip"), ("Cluster", "news"), ("Cluster", "gossip"), (nameof(NodeLogTests), "started"), (nameof(NodeLogTests), "started")], Heard());
        }
        finally
        {
            await actors.Terminate();
        }
    }

    [Fact]
    public async Task Should_be_tailed_with_signs_of_life_while_nothing_happens()
    {
        var clock = new ManualClock();
        var console = new AdminConsole(
            new AdminContext
            {
                Actors = null!,
                Placement = Akka.Actor.ActorRefs.Nobody,
                Api = null!,
                Events = null!,
                Options = new CellOptions { DataDirectory = "", Clock = clock },
                Log = _kept,
                StartedAt = default,
                LinkEndpoint = new(System.Net.IPAddress.Loopback, 0),
            },
            Microsoft.Extensions.Logging.Abstractions.NullLogger.Instance);
        var frames = new System.Collections.Concurrent.ConcurrentQueue<CommandFrame>();
        var output = new CommandOutput(
            frame =>
            {
                frames.Enqueue(frame);
                return ValueTask.CompletedTask;
            },
            forPrograms: false, streams: true);
        using var gone = new CancellationTokenSource();
        var tail = console.RunAsync(console.Parse(["log", "tail"]), "test", output, gone.Token);
        await ApiUnderTest.UntilAsync(() => clock.HasTimer(TimeSpan.FromSeconds(15)));
        clock.Advance(TimeSpan.FromSeconds(15));
        await ApiUnderTest.UntilAsync(() => frames.Count == 1);
        Assert.Equal(default, frames.Single());
        _log.Information("something");
        await ApiUnderTest.UntilAsync(() => frames.Count == 2);
        Assert.Contains("something", frames.Last().Text, StringComparison.Ordinal);
        await gone.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => tail);
    }

    [Fact]
    public void Should_drop_what_is_below_the_level()
    {
        _log.Debug("one");
        _kept.Level.MinimumLevel = LogEventLevel.Debug;
        _log.Debug("two");
        Assert.Equal("two", Assert.Single(_kept.After(0, 10)).Message);
    }

    [Fact]
    public async Task Should_wake_whoever_waits_for_an_event()
    {
        var comes = _kept.ComesAsync(0);
        Assert.False(comes.IsCompleted);
        _log.Information("one");
        await comes.WaitAsync(TimeSpan.FromSeconds(20));
        Assert.True(_kept.ComesAsync(0).IsCompleted);
        Assert.False(_kept.ComesAsync(1).IsCompleted);
    }

    [Fact]
    public async Task Should_number_events_of_many_threads_without_gaps()
    {
        await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => Task.Run(() =>
        {
            for (var i = 0; i < 400; i++)
                _log.Information("x");
        })));
        Assert.Equal(Enumerable.Range(1, 1600).Select(at => (long)at), _kept.After(0, int.MaxValue).Select(one => one.Number));
    }
}
