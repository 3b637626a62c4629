using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Vms;
using Fleet.Shared.Contracts;
using Google.Protobuf;
using Microsoft.Data.Sqlite;
using Microsoft.Extensions.Logging;

namespace Fleet.Scheduler.Projection;

/// <summary>
/// The one writer of the view. A batch of events and the offset it ends at are one transaction, so that every event
/// counts exactly once however the process ends. What the tables hold depends on the events only, never on where one
/// batch ended and the next began. Not thread-safe.
/// </summary>
internal sealed class ViewWriter : IDisposable
{
    private readonly SqliteConnection _connection;
    private readonly int _changesKept;
    private readonly ILogger _log;
    private readonly Dictionary<string, SqliteCommand> _commands = [];
    private readonly long _changeBytesKept;
    private long _changes;
    private long _changeBytes;
    private long _bytesWritten;

    /// <param name="connectionString">The view's file.</param>
    /// <param name="changesKept">Entries of the change log that are kept.</param>
    /// <param name="changeBytesKept">Bytes of records in it that are kept, whichever comes first.</param>
    /// <param name="log">Hears of events that fit nowhere.</param>
    public ViewWriter(string connectionString, int changesKept, long changeBytesKept, ILogger log)
    {
        _changesKept = changesKept;
        _changeBytesKept = changeBytesKept;
        _log = log;
        _connection = new SqliteConnection(connectionString);
        try
        {
            _connection.Open();
            Execute(ViewSchema.Pragmas);
            Execute(ViewSchema.Create);
            if (Meta("format") is var format && format != ViewSchema.Format)
            {
                if (format != 0)
                    _log.LogWarning("The view has format {Found}, this program writes {Wanted}: it is built anew from the journal", format, ViewSchema.Format);
                BeginAnew();
            }
            Offset = Meta("offset");
            _changes = (long)Scalar(ViewSchema.CountChanges)!;
            _changeBytes = (long)Scalar(ViewSchema.SumChanges)!;
        }
        catch
        {
            // The pool would keep the broken file open.
            _connection.Dispose();
            SqliteConnection.ClearPool(_connection);
            throw;
        }
    }

    /// <summary>The last event that is in the view; 0 when there is none.</summary>
    public long Offset { get; private set; }

    /// <summary>Whether that is the last event that is in the view; of a view that does not say so, as earlier versions wrote it, any event is.</summary>
    public bool EndsWith(JournalEvent? found) => found is not null && (Meta("mark") is var mark && (mark == 0 || mark == MarkOf(found)));

    /// <summary>Forgets everything.</summary>
    public void BeginAnew()
    {
        Execute(ViewSchema.Drop);
        Execute(ViewSchema.Create);
        SetMeta("format", ViewSchema.Format, null);
        (Offset, _changes, _changeBytes) = (0, 0, 0);
    }

    // Events say when they happened: no two are the same.
    private static long MarkOf(JournalEvent entry)
    {
        var id = Encoding.UTF8.GetBytes($"{entry.PersistenceId}/{entry.SequenceNr}/");
        return BinaryPrimitives.ReadInt64LittleEndian(SHA256.HashData([.. id, .. entry.Event.ToByteArray()])) | 1;
    }

    /// <summary>
    /// Takes in the events, which rise in offset; those that the view already has are passed over.
    /// </summary>
    /// <exception cref="ProjectionGapException">An event of the middle is missing. Nothing of the batch is kept.</exception>
    public Applied Apply(IReadOnlyList<JournalEvent> events)
    {
        using var transaction = _connection.BeginTransaction(deferred: false);
        var batch = new Batch();
        var offset = Offset;
        var added = 0L;
        _bytesWritten = 0;
        foreach (var entry in events)
        {
            if (entry.Offset <= offset)
                continue;
            offset = entry.Offset;
            if (entry.PersistenceId.StartsWith(PersistenceIds.VmPrefix, StringComparison.Ordinal))
                added += ApplyVm(batch, entry, entry.PersistenceId[PersistenceIds.VmPrefix.Length..], transaction);
            else if (entry.PersistenceId.StartsWith(PersistenceIds.HostPrefix, StringComparison.Ordinal))
                added += ApplyHost(batch, entry, entry.PersistenceId[PersistenceIds.HostPrefix.Length..], transaction);
        }
        foreach (var (id, row) in batch.Vms)
            StoreVm(id, row, transaction);
        foreach (var (id, row) in batch.Hosts)
            StoreHost(id, row, transaction);
        var surplus = Math.Max(0, _changes + added - _changesKept);
        var bytes = _changeBytes + _bytesWritten;
        // Large records: a quarter goes at once, since what went is counted anew over all that stay.
        if (bytes > _changeBytesKept)
            surplus = Math.Max(surplus, (_changes + added + 3) / 4);
        if (surplus > 0)
            Compact(surplus, transaction);
        if (bytes > _changeBytesKept)
            bytes = (long)Scalar(ViewSchema.SumChanges, transaction)!;
        if (offset > Offset)
        {
            SetMeta("offset", offset, transaction);
            SetMeta("mark", MarkOf(events[^1]), transaction);
        }
        transaction.Commit();

        Offset = offset;
        _changes += added - surplus;
        _changeBytes = bytes;
        return new(offset, batch.Versions, batch.Deleted);
    }

    public void Dispose()
    {
        foreach (var command in _commands.Values)
            command.Dispose();
        _connection.Dispose();
    }

    private int ApplyVm(Batch batch, JournalEvent entry, string id, SqliteTransaction transaction)
    {
        // With its first event a microVM is new.
        if (!batch.Vms.TryGetValue(id, out var row) && entry.SequenceNr > 1)
            row = Read(ViewSchema.ReadVm, id, VmRecord.Parser, transaction);
        if (row.Record is null && entry.SequenceNr != 1)
        {
            // Deleted ends a microVM's story; a late word about it changes nothing that anybody can see.
            _log.LogDebug("Event {SequenceNr} of {VmId} came after it was deleted", entry.SequenceNr, id);
            return 0;
        }
        CheckOrder(entry, row.SequenceNr);
        var record = VmFold.Apply(row.Record, entry.Event);
        batch.Vms[id] = new(entry.SequenceNr, record.State == VmState.Deleted ? null : record, row.Stored);
        batch.Versions[entry.PersistenceId] = record.Version;
        if (record.State == VmState.Deleted)
            batch.Deleted.Add(id);
        WriteChange(entry.Offset, ChangeKind.Vm, id, record.Spec?.Tenant ?? "", record, transaction);
        return 1;
    }

    private int ApplyHost(Batch batch, JournalEvent entry, string id, SqliteTransaction transaction)
    {
        if (!batch.Hosts.TryGetValue(id, out var row))
            row = Read(ViewSchema.ReadHost, id, HostRecord.Parser, transaction);
        CheckOrder(entry, row.SequenceNr);
        var record = HostFold.Apply(row.Record, entry.Event);
        // A removed host keeps its row, unseen: when it comes back its events go on counting.
        batch.Hosts[id] = new(entry.SequenceNr, record, row.Stored);
        batch.Versions[entry.PersistenceId] = record.Version;
        WriteChange(entry.Offset, ChangeKind.Host, id, "", record, transaction);
        return 1;
    }

    private static void CheckOrder(JournalEvent entry, long last)
    {
        if (entry.SequenceNr != last + 1)
            throw new ProjectionGapException(
                $"Event {entry.SequenceNr} of {entry.PersistenceId} at offset {entry.Offset} follows event {last}: the feed left some out.");
    }

    private void StoreVm(string id, Row<VmRecord> row, SqliteTransaction transaction)
    {
        // Labels never change after creation: they are written with the first row and go with the last.
        if (row.Record is not { } record)
        {
            if (!row.Stored)
                return;
            Run(ViewSchema.DeleteVm, transaction, ("@id", id));
            Run(ViewSchema.DeleteLabels, transaction, ("@vm_id", id));
            return;
        }
        Run(ViewSchema.WriteVm, transaction, ("@id", id), ("@name", record.Spec?.Name ?? ""), ("@tenant", record.Spec?.Tenant ?? ""), ("@state", (int)record.State),
            ("@host", record.Host), ("@sequence_nr", row.SequenceNr), ("@record", record.ToByteArray()));
        if (row.Stored || record.Spec is null)
            return;
        foreach (var (label, value) in record.Spec.Labels)
            Run(ViewSchema.WriteLabel, transaction, ("@vm_id", id), ("@label", label), ("@value", value));
    }

    private void StoreHost(string id, Row<HostRecord> row, SqliteTransaction transaction) =>
        Run(ViewSchema.WriteHost, transaction, ("@id", id), ("@state", (int)row.Record!.State),
            ("@sequence_nr", row.SequenceNr), ("@record", row.Record.ToByteArray()));

    private void WriteChange(long position, ChangeKind kind, string id, string tenant, IMessage record, SqliteTransaction transaction)
    {
        var bytes = record.ToByteArray();
        _bytesWritten += bytes.Length;
        Run(ViewSchema.WriteChange, transaction, ("@position", position), ("@kind", (int)kind), ("@id", id), ("@tenant", tenant), ("@record", bytes));
    }

    private void Compact(long surplus, SqliteTransaction transaction)
    {
        var last = (long)Scalar(ViewSchema.NthOldestChange, transaction, ("@skip", surplus - 1))!;
        Run(ViewSchema.DeleteChanges, transaction, ("@position", last));
        SetMeta("compacted", last, transaction);
    }

    private Row<T> Read<T>(string sql, string id, MessageParser<T> parser, SqliteTransaction transaction)
        where T : class, IMessage<T>
    {
        using var reader = Prepare(sql, transaction, [("@id", id)]).ExecuteReader();
        return reader.Read() ? new(reader.GetInt64(0), parser.ParseFrom(reader.GetFieldValue<byte[]>(1)), true) : new(0, null, false);
    }

    private long Meta(string name) => Scalar(ViewSchema.ReadMeta, null, ("@name", name)) is long value ? value : 0;

    private void SetMeta(string name, long value, SqliteTransaction? transaction) =>
        Run(ViewSchema.WriteMeta, transaction, ("@name", name), ("@value", value));

    private void Execute(string script)
    {
        using var command = new SqliteCommand(script, _connection);
        command.ExecuteNonQuery();
    }

    private object? Scalar(string sql, SqliteTransaction? transaction = null, params ReadOnlySpan<(string, object)> values) =>
        Prepare(sql, transaction, values).ExecuteScalar();

    private void Run(string sql, SqliteTransaction? transaction, params ReadOnlySpan<(string, object)> values) =>
        Prepare(sql, transaction, values).ExecuteNonQuery();

    private SqliteCommand Prepare(string sql, SqliteTransaction? transaction, ReadOnlySpan<(string Name, object Value)> values)
    {
        if (!_commands.TryGetValue(sql, out var command))
        {
            _commands[sql] = command = new SqliteCommand(sql, _connection);
            foreach (var (name, value) in values)
                command.Parameters.AddWithValue(name, value);
        }
        command.Transaction = transaction;
        for (var at = 0; at < values.Length; at++)
            command.Parameters[at].Value = values[at].Value;
        return command;
    }

    /// <summary>A row as the batch sees it; without a record it is deleted or was never there.</summary>
    private readonly record struct Row<T>(long SequenceNr, T? Record, bool Stored) where T : class;

    private sealed class Batch
    {
        public Dictionary<string, Row<VmRecord>> Vms { get; } = [];
        public Dictionary<string, Row<HostRecord>> Hosts { get; } = [];
        public Dictionary<string, ulong> Versions { get; } = [];
        public List<string> Deleted { get; } = [];
    }
}

/// <summary>The feed left an event out: the view would be wrong from here on.</summary>
internal sealed class ProjectionGapException(string message) : Exception(message);
