using System.Data;
using Fleet.Scheduler.Cell;
using Google.Protobuf;
using Microsoft.Data.Sqlite;

namespace Fleet.Scheduler.Projection;

/// <summary>Reads the view: one consistent picture per call. Thread-safe; every call takes a pooled connection.</summary>
internal sealed class ViewReader(string connectionString)
{
    /// <summary>Bytes of records after which a page ends, however few it holds: a spec may be large, and many callers read at once.</summary>
    public const int MostBytes = 4 << 20;

    /// <summary>The version that the view shows of a microVM or a host, by its persistence id; 0: none.</summary>
    public ulong VersionOf(string persistenceId)
    {
        var isVm = persistenceId.StartsWith(PersistenceIds.VmPrefix, StringComparison.Ordinal);
        using var connection = Open();
        using var command = new SqliteCommand(isVm ? ViewSchema.ReadVm : ViewSchema.ReadHost, connection);
        command.Parameters.AddWithValue("@id", persistenceId[(isVm ? PersistenceIds.VmPrefix : PersistenceIds.HostPrefix).Length..]);
        using var reader = command.ExecuteReader();
        if (!reader.Read())
            return 0;
        var record = reader.GetFieldValue<byte[]>(1);
        return isVm ? VmRecord.Parser.ParseFrom(record).Version : HostRecord.Parser.ParseFrom(record).Version;
    }

    /// <summary>One page of microVMs whose ids are above <paramref name="after"/>.</summary>
    public Page<VmRecord> ListVms(VmFilter filter, string after, int size) =>
        List(ViewSchema.ListVms(filter.States.Count, filter.Host is not null, filter.Labels.Count, filter.Tenant is not null), after, size, VmRecord.Parser, command =>
        {
            for (var i = 0; i < filter.States.Count; i++)
                command.Parameters.AddWithValue($"@state{i}", (int)filter.States[i]);
            if (filter.Tenant is not null)
                command.Parameters.AddWithValue("@tenant", filter.Tenant);
            if (filter.Host is not null)
                command.Parameters.AddWithValue("@host", filter.Host);
            for (var i = 0; i < filter.Labels.Count; i++)
            {
                command.Parameters.AddWithValue($"@label{i}", filter.Labels[i].Key);
                command.Parameters.AddWithValue($"@value{i}", filter.Labels[i].Value);
            }
        });

    /// <summary>One page of hosts whose ids are above <paramref name="after"/>; removed hosts are left out.</summary>
    public Page<HostRecord> ListHosts(string after, int size) =>
        List(ViewSchema.ListHosts, after, size, HostRecord.Parser,
            command => command.Parameters.AddWithValue("@removed", (int)HostState.Removed));

    /// <summary>The change log above <paramref name="after"/>, at most <paramref name="limit"/> entries; null means from the oldest that is kept.
    /// With <paramref name="tenant"/> those of its microVMs alone.</summary>
    public ChangeSlice Changes(long? after, int limit, string? tenant = null)
    {
        using var connection = Open();
        using var transaction = connection.BeginTransaction(IsolationLevel.Serializable, deferred: true);
        var index = Meta(connection, transaction, "offset");
        var compacted = Meta(connection, transaction, "compacted");
        var from = after ?? compacted;
        if (from < compacted || from > index)
            return new([], index, compacted, Outside: true);
        using var command = new SqliteCommand(tenant is null ? ViewSchema.ReadChanges : ViewSchema.ReadTenantChanges, connection, transaction);
        if (tenant is not null)
            command.Parameters.AddWithValue("@tenant", tenant);
        command.Parameters.AddWithValue("@after", from);
        command.Parameters.AddWithValue("@limit", limit);
        using var reader = command.ExecuteReader();
        var changes = new List<Change>();
        var bytes = 0;
        while (bytes < MostBytes && reader.Read())
        {
            var kind = (ChangeKind)reader.GetInt32(1);
            var record = reader.GetFieldValue<byte[]>(3);
            bytes += record.Length;
            changes.Add(new(reader.GetInt64(0), kind, reader.GetString(2),
                kind == ChangeKind.Vm ? VmRecord.Parser.ParseFrom(record) : null,
                kind == ChangeKind.Host ? HostRecord.Parser.ParseFrom(record) : null));
        }
        return new(changes, changes.Count == limit || bytes >= MostBytes ? changes[^1].Index : index, compacted, Outside: false);
    }

    /// <summary>The names of all microVMs that exist, and whose they are, read as they are asked for.</summary>
    public IEnumerable<(string Name, string VmId, string Tenant)> Names()
    {
        using var connection = Open();
        using var command = new SqliteCommand(ViewSchema.ListNames, connection);
        using var reader = command.ExecuteReader();
        while (reader.Read())
            yield return (reader.GetString(0), reader.GetString(1), reader.GetString(2));
    }

    private Page<T> List<T>(string sql, string after, int size, MessageParser<T> parser, Action<SqliteCommand> bind)
        where T : IMessage<T>
    {
        using var connection = Open();
        using var transaction = connection.BeginTransaction(IsolationLevel.Serializable, deferred: true);
        var index = Meta(connection, transaction, "offset");
        using var command = new SqliteCommand(sql, connection, transaction);
        command.Parameters.AddWithValue("@after", after);
        command.Parameters.AddWithValue("@limit", size + 1);
        bind(command);
        using var reader = command.ExecuteReader();
        var items = new List<T>();
        string? last = null;
        var bytes = 0;
        while (reader.Read())
        {
            if (items.Count == size || bytes >= MostBytes)
                return new(items, last, index);
            var record = reader.GetFieldValue<byte[]>(1);
            bytes += record.Length;
            items.Add(parser.ParseFrom(record));
            last = reader.GetString(0);
        }
        return new(items, null, index);
    }

    private SqliteConnection Open()
    {
        var connection = new SqliteConnection(connectionString);
        connection.Open();
        return connection;
    }

    private static long Meta(SqliteConnection connection, SqliteTransaction transaction, string name)
    {
        using var command = new SqliteCommand(ViewSchema.ReadMeta, connection, transaction);
        command.Parameters.AddWithValue("@name", name);
        return command.ExecuteScalar() is long value ? value : 0;
    }
}
