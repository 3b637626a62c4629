using System.Text.Json;
using Fleet.Cli.Hosts;
using Xunit;

namespace Fleet.Cli.Tests;

/// <summary>Hosts, and what a drain did, as the command line says it.</summary>
public sealed class HostTextTests
{
    private static readonly DateTimeOffset Now = new(2026, 11, 23, 12, 0, 0, TimeSpan.Zero);

    [Theory]
    [InlineData("", "")]
    [InlineData(""" "state": "disconnected", "silent_since": "2026-11-23T11:59:48.000Z" """, "silent for 12s")]
    [InlineData(""" "state": "lost", "silent_since": "2026-11-23T11:50:00.000Z" """, "silent for 10m: given up, its microVMs are placed again")]
    [InlineData(""" "quarantine": {"reason": {"message": "Three launches failed."}} """, "Three launches failed.")]
    [InlineData(""" "drain": {"left": 2, "vms": 5, "done_at": null} """, "2 of 5 microVMs left")]
    [InlineData(""" "drain": {"left": 0, "vms": 5, "done_at": "2026-11-23T11:50:00.000Z"} """, "fleet host undrain brings it back")]
    [InlineData(""" "pressure": {"why": "Tasks stall for memory."} """, "Tasks stall for memory.")]
    public void Should_say_why_a_host_gets_no_microvm(string members, string reason) => Assert.Equal(reason, HostCommands.Row(Host(members), Now)[^1]);

    [Fact]
    public void Should_show_what_is_promised_of_what_may_be_promised()
    {
        var row = HostCommands.Row(Host(""), Now);
        Assert.Equal(("8/8", "512/2048"), (row[2], row[3]));
    }

    [Theory]
    [InlineData("", "since 2026-11-23T10:00:00.000Z")]
    [InlineData(""" "state": "disconnected", "silent_since": "2026-11-23T11:59:48.000Z", "given_up_in_seconds": 11.3 """, "silent since 2026-11-23T11:59:48.000Z, given up in 12 s")]
    [InlineData(""" "state": "lost", "silent_since": "2026-11-23T11:50:00.000Z" """, "silent since 2026-11-23T11:50:00.000Z")]
    public void Should_say_since_when_a_host_is_as_it_is(string members, string since) => Assert.Equal(since, HostCommands.Since(Host(members)));

    [Fact]
    public void Should_say_at_the_end_of_a_drain_what_took_its_memory_along_and_why_the_rest_did_not()
    {
        var late = Moved("""{"from": "box-2", "with_memory": false, "reason": {"code": "memory_stays", "message": "Less than the 32 s for its memory were left until the drain's deadline."}}""");
        var unplaced = Moved("""{"from": "box-2", "with_memory": false, "reason": {"code": "memory_stays", "message": "The drain's deadline was over."}}""", "unplaced");
        var along = Moved("""{"from": "box-2", "with_memory": true, "reason": null}""");
        var before = Moved("""{"from": "box-3", "with_memory": true, "reason": null}""");
        Assert.Equal(
            "; 3 moved with their memory; 1 restarted: Less than the 32 s for its memory were left until the drain's deadline",
            HostCommands.Moves([along, late, along, before, along, Moved("null"), unplaced], "box-2"));
        Assert.Equal("; 1 moved with its memory", HostCommands.Moves([along], "box-2"));
        Assert.Equal("", HostCommands.Moves([before], "box-2"));
    }

    private static JsonElement Moved(string moved, string state = "running") => JsonDocument.Parse($$"""{"state": "{{state}}", "moved": {{moved}}}""").RootElement;

    private static JsonElement Host(string members)
    {
        var host = JsonDocument.Parse("""
            {
              "id": "box", "state": "connected", "cordoned": false, "quarantine": null, "drain": null, "pressure": null, "cpus": 2, "memory_mib": 2048, "reserved_cpus": 8, "reserved_memory_mib": 512,
              "vms": 3, "drivers": [], "auto_driver": "kvm", "connected_at": "2026-11-23T10:00:00.000Z", "silent_since": null, "given_up_in_seconds": null, "usage": {"cap_cpus": 8, "cap_memory_mib": 2048}
            }
            """).RootElement.EnumerateObject().ToDictionary(member => member.Name, member => member.Value);
        foreach (var member in JsonDocument.Parse($"{{{members}}}").RootElement.EnumerateObject())
            host[member.Name] = member.Value;
        return JsonSerializer.SerializeToElement(host);
    }
}
