using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;

namespace Fleet.Scheduler.Tests.Api;

/// <summary>Keeps what is logged, and what of it is an error, for tests to look at.</summary>
internal sealed class FaultLog : ILoggerFactory, ILogger
{
    public ConcurrentQueue<string> Faults { get; } = new();

    public ConcurrentQueue<string> Lines { get; } = new();

    public ILogger CreateLogger(string categoryName) => this;

    public void AddProvider(ILoggerProvider provider) => throw new NotSupportedException();

    public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => logLevel >= LogLevel.Information;

    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        Lines.Enqueue(formatter(state, exception));
        if (logLevel >= LogLevel.Error)
            Faults.Enqueue($"{formatter(state, exception)} {exception}");
    }

    public void Dispose()
    {
    }
}
