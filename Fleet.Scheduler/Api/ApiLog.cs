using Microsoft.Extensions.Logging;

namespace Fleet.Scheduler.Api;

/// <summary>What the API logs.</summary>
internal static partial class ApiLog
{
    [LoggerMessage(Level = LogLevel.Information, Message = "{Method} {Path} of {Peer} by {Who} answered {Outcome} in {Milliseconds} ms, request {RequestId}")]
    public static partial void LogAnswered(this ILogger log, string method, string path, string peer, string who, string outcome, long milliseconds, string requestId);

    [LoggerMessage(Level = LogLevel.Debug, Message = "{Method} {Path} of {Peer} by {Who} answered {Outcome} in {Milliseconds} ms, request {RequestId}")]
    public static partial void LogRead(this ILogger log, string method, string path, string peer, string who, string outcome, long milliseconds, string requestId);

    [LoggerMessage(Level = LogLevel.Error, Message = "{Method} {Path} failed, request {RequestId}")]
    public static partial void LogFault(this ILogger log, Exception fault, string method, string path, string requestId);

    [LoggerMessage(Level = LogLevel.Warning, Message = "{Method} {Path} of {Peer} was refused: {Code}, {Reason}")]
    public static partial void LogRefused(this ILogger log, string method, string path, string peer, string code, string reason);

    [LoggerMessage(Level = LogLevel.Warning, Message = "The console or log of {VmId} broke off: {Code}, {Detail}")]
    public static partial void LogConsoleLost(this ILogger log, string vmId, string code, string detail);
}
