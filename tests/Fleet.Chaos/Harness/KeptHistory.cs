using System.Text.Json;
using System.Text.Json.Serialization;
using Fleet.Chaos.Checking;
using Google.Protobuf;

namespace Fleet.Chaos.Harness;

/// <summary>Writes down what the checker saw, beside the run logs, for whoever looks for the reason of a violation: a database is gone by then.</summary>
internal static class KeptHistory
{
    private static readonly JsonSerializerOptions Plain = new() { Converters = { new JsonStringEnumConverter() } };

    public static void Write(string folder, History history)
    {
        File.WriteAllLines(Path.Combine(folder, "journal.jsonl"), history.Journal.Select(stored => JsonSerializer.Serialize(new
        {
            stored.Order,
            stored.PersistenceId,
            stored.SequenceNumber,
            stored.AtMs,
            Event = stored.Event.Descriptor.Name,
            What = JsonSerializer.Deserialize<JsonElement>(JsonFormatter.Default.Format(stored.Event)),
        })));
        Lines("requests", history.Requests);
        Lines("silences", history.Silences);
        Lines("strikes", history.Strikes);
        Lines("outages", history.Outages);
        Lines("stalls", history.Stalls);
        Lines("sightings", history.Sightings);
        Lines("recounts", history.Recounts);
        Lines("final", history.Final);

        void Lines<T>(string name, IReadOnlyList<T> rows) =>
            File.WriteAllLines(Path.Combine(folder, $"{name}.jsonl"), rows.Select(row => JsonSerializer.Serialize(row, Plain)));
    }
}
