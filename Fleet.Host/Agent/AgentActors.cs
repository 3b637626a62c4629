using Akka.Actor;
using Akka.Actor.Setup;
using Akka.Configuration;
using Akka.Dispatch;
using Akka.Event;
using SerilogLevel = Serilog.Events.LogEventLevel;

namespace Fleet.Host.Agent;

/// <summary>The set-up of the agent's actor system: hocon/host.conf, and the agent's own log.</summary>
internal static class AgentActors
{
    public static ActorSystemSetup Setup(Serilog.ILogger log)
    {
        using var stream = typeof(AgentActors).Assembly.GetManifestResourceStream("host.conf")
            ?? throw new InvalidOperationException("host.conf is not in the assembly.");
        using var reader = new StreamReader(stream);
        return BootstrapSetup.Create().WithConfig(ConfigurationFactory.ParseString(reader.ReadToEnd())).And(new AgentLogSetup(log));
    }
}

/// <summary>Carries the agent's log into its actor system.</summary>
internal sealed class AgentLogSetup(Serilog.ILogger log) : Setup
{
    public Serilog.ILogger Log { get; } = log;
}

/// <summary>What Akka itself has to say (faults of actors, dead letters of note) goes where the agent's own words go.</summary>
internal sealed class AgentLogger : UntypedActor, IRequiresMessageQueue<ILoggerMessageQueueSemantics>
{
    private readonly Serilog.ILogger _log = Context.System.Settings.Setup.Get<AgentLogSetup>() is { HasValue: true } setup
        ? setup.Value.Log
        : Serilog.Core.Logger.None;

    protected override void OnReceive(object message)
    {
        switch (message)
        {
            case InitializeLogger:
                Sender.Tell(new LoggerInitialized());
                break;
            case LogEvent entry:
                _log.ForContext("SourceContext", entry.LogClass.FullName)
                    .ForContext("Actor", entry.LogSource)
                    .Write(LevelOf(entry), entry.Cause, "{Message:l}", entry.Message?.ToString() ?? "");
                break;
            default:
                Unhandled(message);
                break;
        }
    }

    private static SerilogLevel LevelOf(LogEvent entry) => entry.LogLevel() switch
    {
        LogLevel.DebugLevel => SerilogLevel.Debug,
        LogLevel.InfoLevel => SerilogLevel.Information,
        LogLevel.WarningLevel => SerilogLevel.Warning,
        _ => SerilogLevel.Error,
    };
}
