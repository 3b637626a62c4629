using System.Data;
using Microsoft.Data.Sqlite;

namespace Fleet.Scheduler.Journal;

/// <summary>
/// A connection to the journal's SQLite file that is open only while it holds the gate: one at a time in this process.
/// </summary>
/// <remarks>
/// Two reasons, both measured. Microsoft.Data.Sqlite's asynchronous methods are synchronous, so the journal's write pipeline
/// always looks idle and never gathers a batch: one row and one fsync per event. Waiting for the gate is truly asynchronous,
/// so events gather behind it and one commit carries hundreds. And a reader beside a writer can meet SQLITE_BUSY, which the
/// provider answers with long sleeps; behind the gate nobody is ever busy.
/// </remarks>
internal sealed class GatedSqliteConnection(string connectionString, SemaphoreSlim gate) : SqliteConnection(connectionString)
{
    private bool _holdsGate;

    public override void Open()
    {
        if (State == ConnectionState.Open)
            return;
        gate.Wait();
        OpenHoldingGate();
    }

    public override async Task OpenAsync(CancellationToken cancellationToken)
    {
        if (State == ConnectionState.Open)
            return;
        await gate.WaitAsync(cancellationToken).ConfigureAwait(false);
        // Give the caller back its thread even when the gate was free: the batch gathers while we write.
        await Task.Yield();
        OpenHoldingGate();
    }

    private void OpenHoldingGate()
    {
        _holdsGate = true;
        try
        {
            base.Open();
            using var pragma = CreateCommand();
            pragma.CommandText = SqliteJournal.ConnectionPragmas;
            pragma.ExecuteNonQuery();
        }
        catch
        {
            Close();
            throw;
        }
    }

    public override void Close()
    {
        try
        {
            base.Close();
        }
        finally
        {
            LeaveGate();
        }
    }

    protected override void Dispose(bool disposing)
    {
        try
        {
            base.Dispose(disposing);
        }
        finally
        {
            LeaveGate();
        }
    }

    private void LeaveGate()
    {
        if (!_holdsGate)
            return;
        _holdsGate = false;
        gate.Release();
    }
}
