using Fleet.Chaos.Checking;
using Fleet.Scheduler.Journal;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Microsoft.Data.Sqlite;

namespace Fleet.Chaos.Harness;

/// <summary>Reads the events out of a scheduler's SQLite journal, as they lie there.</summary>
internal static class JournalFile
{
    private static readonly Dictionary<string, MessageParser> Parsers = CellSerializer.Known.ToDictionary(
        known => known.Value, known => (MessageParser)known.Key.GetProperty("Parser")!.GetValue(null)!);

    /// <param name="file">The journal.</param>
    /// <param name="bootMinusUnixMs">What to add to a wall clock's time to have it on the boot clock.</param>
    public static IReadOnlyList<StoredEvent> Read(string file, long bootMinusUnixMs)
    {
        using var connection = new SqliteConnection(new SqliteConnectionStringBuilder { DataSource = file, Pooling = false }.ToString());
        connection.Open();
        using var command = connection.CreateCommand();
        command.CommandText = "select ordering, persistence_id, sequence_number, manifest, message from journal "
            + "where persistence_id like 'vm/%' or persistence_id like 'host/%' order by ordering";
        using var rows = command.ExecuteReader();
        var events = new List<StoredEvent>();
        while (rows.Read())
        {
            var stored = Parsers[rows.GetString(3)].ParseFrom((byte[])rows.GetValue(4));
            var at = stored.Descriptor.FindFieldByName("at")?.Accessor.GetValue(stored) as Timestamp;
            events.Add(new(rows.GetInt64(0), rows.GetString(1), rows.GetInt64(2), stored, (at?.ToDateTimeOffset().ToUnixTimeMilliseconds() ?? 0) + bootMinusUnixMs));
        }

        return events;
    }
}
