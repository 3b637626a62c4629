using System.Collections.Concurrent;
using System.Globalization;
using Serilog;
using Serilog.Core;
using Serilog.Events;

namespace Fleet.Host.Tests.Agent;

/// <summary>What an agent logged, as lines.</summary>
internal sealed class LogLines : ILogEventSink
{
    private readonly ConcurrentQueue<string> _lines = new();

    public LogLines() => Log = new LoggerConfiguration().MinimumLevel.Debug().WriteTo.Sink(this).CreateLogger();

    public ILogger Log { get; }

    public IReadOnlyCollection<string> All => _lines;

    public void Emit(LogEvent logEvent) =>
        _lines.Enqueue($"{logEvent.Timestamp:HH:mm:ss.fff} {logEvent.Level} {logEvent.RenderMessage(CultureInfo.InvariantCulture)} {logEvent.Exception?.Message}");

    public override string ToString() => string.Join('\n', _lines);
}
