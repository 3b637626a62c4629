namespace Fleet.Scheduler.Simulation;

/// <summary>A recorded trace that can't be used; the message says where and why.</summary>
/// <param name="code"><see cref="NotFound"/>, <see cref="Malformed"/> or <see cref="TooLarge"/>.</param>
public sealed class TraceException(string code, string message) : Exception(message)
{
    public const string NotFound = "trace_not_found";
    public const string Malformed = "trace_malformed";
    public const string TooLarge = "trace_too_large";

    public string Code { get; } = code;
}
