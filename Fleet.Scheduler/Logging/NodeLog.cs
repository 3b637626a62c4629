using System.Globalization;
using Serilog.Core;
using Serilog.Events;
using Serilog.Formatting.Display;

namespace Fleet.Scheduler.Logging;

/// <summary>One event of the log, as text.</summary>
/// <param name="Number">Counts the events of this process from 1.</param>
/// <param name="At">When.</param>
/// <param name="Level">How grave.</param>
/// <param name="Source">Who says it; empty: nobody in particular.</param>
/// <param name="Message">What, with the exception if there is one; cut where it is too long.</param>
public sealed record LoggedEvent(long Number, DateTimeOffset At, LogEventLevel Level, string Source, string Message);

/// <summary>
/// The newest events of a process's log, in memory, and the level from which on it logs. A logger feeds it as one of its sinks and is
/// controlled by <see cref="Level"/>. Thread-safe.
/// </summary>
public sealed class NodeLog : ILogEventSink
{
    /// <summary>A message that is longer is cut: with <see cref="Kept"/> it bounds the memory (typically below 1 MiB, at most 16).</summary>
    public const int MaxMessage = 4096;

    /// <summary>Some minutes of a busy node.</summary>
    public const int Kept = 2000;

    private static readonly MessageTemplateTextFormatter Form = new("{Message:lj}", CultureInfo.InvariantCulture);

    private readonly Lock _gate = new();
    private readonly LoggedEvent?[] _ring = new LoggedEvent?[Kept];
    private long _last;
    private TaskCompletionSource _next = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Events below it are dropped before they are made.</summary>
    public LoggingLevelSwitch Level { get; } = new(LogEventLevel.Information);

    /// <summary>Number of the newest event; 0: none yet.</summary>
    public long Last
    {
        get
        {
            lock (_gate)
                return _last;
        }
    }

    /// <inheritdoc/>
    public void Emit(LogEvent logEvent)
    {
        ArgumentNullException.ThrowIfNull(logEvent);
        using var text = new StringWriter(CultureInfo.InvariantCulture);
        Form.Format(logEvent, text);
        var message = text.ToString();
        if (logEvent.Exception is { } fault)
            message = $"{message}\n{fault}";
        var source = logEvent.Properties.TryGetValue("SourceContext", out var context) && context is ScalarValue { Value: string name } ? name : "";
        TaskCompletionSource next;
        lock (_gate)
        {
            _last++;
            _ring[_last % Kept] = new(_last, logEvent.Timestamp, logEvent.Level, source, message.Length <= MaxMessage ? message : message[..MaxMessage] + "…");
            next = _next;
            _next = new(TaskCreationOptions.RunContinuationsAsynchronously);
        }
        next.TrySetResult();
    }

    /// <summary>The events above a number that are still kept, oldest first, at most <paramref name="most"/> of them; what came first is given first.</summary>
    public IReadOnlyList<LoggedEvent> After(long number, int most)
    {
        lock (_gate)
        {
            var first = Math.Max(number + 1, _last - Kept + 1);
            first = Math.Max(first, 1);
            var events = new List<LoggedEvent>();
            for (var at = first; at <= _last && events.Count < most; at++)
                events.Add(_ring[at % Kept]!);
            return events;
        }
    }

    /// <summary>Completes when there is an event above the number.</summary>
    public Task ComesAsync(long number)
    {
        lock (_gate)
            return _last > number ? Task.CompletedTask : _next.Task;
    }
}
