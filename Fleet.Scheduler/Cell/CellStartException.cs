namespace Fleet.Scheduler.Cell;

/// <summary>The cell can't start; the message says why and what to do.</summary>
public sealed class CellStartException(string message, Exception? inner = null) : Exception(message, inner);
