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

    private void Write(LogEvent entry)
    {
        var level = entry.LogLevel() switch
        {
            LogLevel.DebugLevel => SerilogLevel.Debug,
            LogLevel.InfoLevel => SerilogLevel.Information,
            LogLevel.WarningLevel => SerilogLevel.Warning,
            _ => SerilogLevel.Error,
        };
        if (!_log.IsEnabled(level))
            return;
        var log = _log
            .ForContext("SourceContext", entry.LogClass.Name)
            .ForContext("Actor", entry.LogSource);
        // The template and its values go through as they are, so that {VmId} stays a property.
        if (entry.Message is LogMessage template)
            log.Write(level, entry.Cause, template.Format, template.Parameters().ToArray());
        else
            log.Write(level, entry.Cause, "{Message:l}", entry.Message?.ToString() ?? "");
    }
}
