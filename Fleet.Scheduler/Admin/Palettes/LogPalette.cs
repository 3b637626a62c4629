using System.Globalization;
using Fleet.Scheduler.Logging;
using Fleet.Shared.Admin;
using Serilog.Events;

namespace Fleet.Scheduler.Admin.Palettes;

/// <summary>The log of this process.</summary>
internal sealed class LogPalette : Palette
{
    /// <summary>Events that one look at the log takes out; a tail that falls behind by more than the log keeps says so.</summary>
    private const int Batch = 100;

    private static readonly TimeSpan KeepAlive = TimeSpan.FromSeconds(15);

    private static readonly Dictionary<string, LogEventLevel> Levels =
        new[] { LogEventLevel.Debug, LogEventLevel.Information, LogEventLevel.Warning, LogEventLevel.Error }.ToDictionary(Name);

    private static readonly ArgumentDefinition AtLeast =
        new("level", "Only events that are at least so grave", ["-l", "--level"]) { Choices = [.. Levels.Keys], Default = "debug" };

    public LogPalette() : base("log", "The log of this process")
    {
        Add("peek", "Print the newest events that are kept in memory", PeekAsync, Most("events", NodeLog.Kept, 20), AtLeast);
        Add(new CommandDefinition("tail", "Print new events as they come, until you leave", [AtLeast]) { Streams = true }, TailAsync);
        Add("show-level", "Say how grave an event must be to be logged", ShowLevelAsync);
        Add("set-level", "Change how grave an event must be to be logged, until the process ends", SetLevelAsync,
            new ArgumentDefinition("level", "The level", ["-l", "--level"]) { Choices = [.. Levels.Keys], Mandatory = true, Bare = true });
    }

    private static async Task PeekAsync(CommandCall call)
    {
        var least = Levels[call.Get("level")];
        var most = call.Number("most");
        var events = call.Node.Log.After(0, NodeLog.Kept).Where(one => one.Level >= least).TakeLast(most);
        foreach (var one in events)
            await PrintAsync(call, one);
    }

    private static async Task TailAsync(CommandCall call)
    {
        var least = Levels[call.Get("level")];
        var log = call.Node.Log;
        for (var seen = log.Last; ;)
        {
            try
            {
                await log.ComesAsync(seen).WaitAsync(KeepAlive, call.Node.Options.Clock, call.Cancellation);
            }
            catch (TimeoutException)
            {
                await call.Output.KeepAliveAsync();
            }
            foreach (var one in log.After(seen, Batch))
            {
                if (one.Number > seen + 1)
                    await call.Output.SayAsync($"… {one.Number - seen - 1} events are left out: they came faster than they were read.");
                seen = one.Number;
                if (one.Level >= least)
                    await PrintAsync(call, one);
            }
        }
    }

    private static async Task ShowLevelAsync(CommandCall call) => await call.Output.SheetAsync(("level", Now(call)));

    private static async Task SetLevelAsync(CommandCall call)
    {
        var before = Now(call);
        // Akka's own level stays at INFO: an actor keeps for its life the one that it was made under, and a node would never be as before.
        call.Node.Log.Level.MinimumLevel = Levels[call.Get("level")];
        await call.Output.SayAsync($"The log level of this process is {call.Get("level")} now, and was {before}.");
    }

    private static string Now(CommandCall call) => Name(call.Node.Log.Level.MinimumLevel);

    private static string Name(LogEventLevel level) => level.ToString().ToLowerInvariant();

    private static async ValueTask PrintAsync(CommandCall call, LoggedEvent one)
    {
        var lines = string.Create(CultureInfo.InvariantCulture, $"{one.At.UtcDateTime:HH:mm:ss.fff} {Name(one.Level)} {one.Source} {one.Message}");
        await call.Output.EntryAsync(lines, ("at", one.At), ("level", Name(one.Level)), ("source", one.Source), ("message", one.Message));
    }
}
