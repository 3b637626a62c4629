using System.Text.Json;
using Fleet.Chaos.Checking;
using Fleet.Chaos.Harness;
using Fleet.Chaos.Tests.Checking;
using Xunit;

namespace Fleet.Chaos.Tests.Harness;

public sealed class KeptHistoryTests
{
    [Fact]
    public void Should_write_down_everything_that_a_violation_may_come_from()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-kept-").FullName;
        try
        {
            var story = new Story().Host("a").Host("b").Create("one").Place("one", "a").After(3_000).See("vm/one", "x", 1_000_000).Outage(1_000).Lose("a", dead: true).Place("one", "b");
            story.Recounts.Add(new("a", 1_002_000));
            var history = story.Tell();
            KeptHistory.Write(folder, history);
            var journal = Read("journal");
            Assert.Equal(history.Journal.Count, journal.Count);
            Assert.Contains(journal, line => line.GetProperty("Event").GetString() == "VmPlaced" && line.GetProperty("PersistenceId").GetString() == "vm/one" && line.GetProperty("What").GetProperty("epoch").GetString() == "2");
            Assert.Equal("x", Assert.Single(Read("sightings")).GetProperty("Process").GetString());
            Assert.Equal("PowerOff", Assert.Single(Read("strikes")).GetProperty("Kind").GetString());
            Assert.Equal((history.Requests.Count, 1, 1, 1, 0, 1), (Read("requests").Count, Read("silences").Count, Read("outages").Count, Read("recounts").Count, Read("stalls").Count, Read("final").Count));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }

        List<JsonElement> Read(string name) => [.. File.ReadLines(Path.Combine(folder, $"{name}.jsonl")).Select(line => JsonSerializer.Deserialize<JsonElement>(line))];
    }
}
