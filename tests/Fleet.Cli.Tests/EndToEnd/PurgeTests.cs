using System.Text.Json.Nodes;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary><c>fleet down --purge</c>, as far as files go.</summary>
public sealed class PurgeTests
{
    [Fact]
    public async Task Should_remove_all_that_is_fleets_and_nothing_else_once_no_microvm_is_left()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var id = (await fleet.CreateAsync(new JsonObject { ["driver"] = "simulated" })).GetProperty("id").GetString()!;
        await fleet.WaitForAsync(id, "running");
        fleet.Kill();

        // By its files alone it is found again.
        string[] purge = ["down", "--purge", "--data", fleet.Data];
        var (exit, _, error) = await fleet.CliAsync(purge);
        Assert.Equal(4, exit);
        Assert.Contains("1 microVM goes on", error, StringComparison.Ordinal);
        Assert.Contains("vms_left", error, StringComparison.Ordinal);

        // A cache that is shared by a link, and what somebody else put there.
        var (shared, notes) = (Path.Combine(fleet.Files, "shared"), Path.Combine(fleet.Data, "notes"));
        Directory.CreateDirectory(shared);
        Directory.Delete(Path.Combine(fleet.Data, "cache"), recursive: true);
        Directory.CreateSymbolicLink(Path.Combine(fleet.Data, "cache"), shared);
        await File.WriteAllTextAsync(notes, "mine");
        await fleet.UpAsync();
        await File.WriteAllTextAsync(Path.Combine(shared, "kept"), "");

        (exit, var output, error) = await fleet.CliAsync(purge);
        Assert.True(exit == 0, error);
        Assert.Equal($"Fleet is down, and nothing of it is left in {fleet.Data}.\n", output);
        Assert.Empty(error);
        Assert.Equal([notes], Directory.GetFileSystemEntries(fleet.Data));
        Assert.True(File.Exists(Path.Combine(shared, "kept")));

        // Nothing is left to be removed, and with the last file the directory goes.
        File.Delete(notes);
        (exit, _, error) = await fleet.CliAsync(purge);
        Assert.True(exit == 0, error);
        Assert.False(Directory.Exists(fleet.Data));
        Assert.Equal(3, (await fleet.CliAsync(purge)).Exit);
    }

    [Fact]
    public async Task Should_remove_nothing_while_there_are_lab_nodes()
    {
        await using var fleet = await RunningFleet.StartAsync();
        Directory.CreateDirectory(Path.Combine(fleet.Data, "lab", "lab-1"));

        var (exit, _, error) = await fleet.CliAsync("down", "--purge", "--data", fleet.Data);

        Assert.Equal(4, exit);
        Assert.Contains("fleet lab down", error, StringComparison.Ordinal);
        Assert.Equal(System.Net.HttpStatusCode.OK, (await fleet.SendAsync(HttpMethod.Get, "/v1/vms")).Status);
    }
}
