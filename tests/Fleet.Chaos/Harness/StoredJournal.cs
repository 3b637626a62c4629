using System.Data.Common;
using Fleet.Chaos.Checking;
using Fleet.Scheduler.Journal;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Chaos.Harness;

/// <summary>Reads the events out of a cell's journal, SQLite or PostgreSQL, as they lie there.</summary>
internal static class StoredJournal
{
    private static readonly Dictionary<string, MessageParser> Parsers = CellSerializer.Known.ToDictionary(
        known => known.Value, known => (MessageParser)known.Key.GetProperty("Parser")!.GetValue(null)!);

    /// <param name="connection">Open.</param>
    /// <param name="bootMinusUnixMs">What to add to a wall clock's time to have it on the boot clock.</param>
    public static IReadOnlyList<StoredEvent> Read(DbConnection connection, long bootMinusUnixMs)
    {
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

        return JournalClock.Straighten(events);
    }
}
