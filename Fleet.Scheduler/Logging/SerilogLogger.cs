using Akka.Actor;
using Akka.Actor.Setup;
using Akka.Dispatch;
using Akka.Event;
using SerilogLevel = Serilog.Events.LogEventLevel;

namespace Fleet.Scheduler.Logging;

/// <summary>Carries the process's Serilog logger into the actor system.</summary>
internal sealed class SerilogSetup(Serilog.ILogger log) : Setup
{
    public Serilog.ILogger Log { get; } = log;
}

/// <summary>Hands what actors log to Serilog, with the source as a property, so that one log tells the whole story.</summary>
internal sealed class SerilogLogger : UntypedActor, IRequiresMessageQueue<ILoggerMessageQueueSemantics>
{
    private readonly Serilog.ILogger _log = Context.System.Settings.Setup.Get<SerilogSetup>() is { HasValue: true } setup
        ? setup.Value.Log
        : Serilog.Log.Logger;

    private string? _last;

    protected override void OnReceive(object message)
    {
        switch (message)
        {
            case InitializeLogger:
                Sender.Tell(new LoggerInitialized());
                break;
            case LogEvent entry:
                Write(entry);
                break;
            default:
                Unhandled(message);
                break;
        }
    }

    /// <summary>Akka's own parts say the same to each of many peers: once in a row is enough.</summary>
    private bool IsRepeated(LogEvent entry)
    {
        if (entry.Cause is not null || entry.LogClass.Assembly.GetName().Name?.StartsWith("Akka", StringComparison.Ordinal) != true)
        {
            _last = null;
            return false;
        }
        var text = $"{entry.LogSource} {entry.Message}";
        var repeated = text == _last;
        _last = text;
        return repeated;
    }

    /// <summary>The class that says it; where Akka names none, what it names instead: <c>Cluster</c> of <c>Cluster (akka://fleet)</c>.</summary>
    private static string SourceOf(LogEvent entry)
    {
        if (entry.LogClass != typeof(DummyClassForStringSources))
            return entry.LogClass.Name;
        var name = entry.LogSource.Split('(', 2)[0].TrimEnd().Split('/')[^1];
        return name.Length > 0 ? name : entry.LogSource;
    }

    private void Write(LogEvent entry)
    {
        var level = entry.LogLevel() switch
        {
            LogLevel.DebugLevel => SerilogLevel.Debug,
            LogLevel.InfoLevel => SerilogLevel.Information,
            LogLevel.WarningLevel => SerilogLevel.Warning,
            _ => SerilogLevel.Error,
        };
        if (!_log.IsEnabled(level) || IsRepeated(entry))
            return;
        var log = _log
            .ForContext("SourceContext", SourceOf(entry))
            .ForContext("Actor", entry.LogSource);
        // The template and its values go through as they are, so that {VmId} stays a property.
        if (entry.Message is LogMessage template)
            log.Write(level, entry.Cause, template.Format, template.Parameters().ToArray());
        else
            log.Write(level, entry.Cause, "{Message:l}", entry.Message?.ToString() ?? "");
    }
}
