using System.Net;
using System.Net.Http.Json;
using System.Text.Json.Nodes;
using Fleet.Scheduler.Tests.Admin;
using Xunit;

namespace Fleet.Scheduler.Tests.Node;

/// <summary>A spec for which no host has room, through the API of a whole node: refused at once where its maker does not want it to wait, else placed when room comes.</summary>
public sealed class RefuseOrQueueTests(AdminNode node) : IClassFixture<AdminNode>
{
    [Fact]
    public async Task Should_refuse_at_once_with_numbers_or_wait_and_be_placed_when_room_comes()
    {
        await node.JoinAsync("first");
        await node.CreateAsync("filler", """, "cpus": 1, "memory_mib": 16000""", "running");

        // No host is missing by now, or the node says so.
        HttpResponseMessage refused;
        do
            refused = await PostAsync("""{"name": "wanted", "driver": "simulated", "memory_mib": 1024, "queue": false}""", "key");
        while (refused.StatusCode == HttpStatusCode.ServiceUnavailable);
        var problem = JsonNode.Parse(await refused.Content.ReadAsStringAsync())!;
        Assert.Equal((HttpStatusCode.Conflict, "no_capacity"), (refused.StatusCode, (string)problem["code"]!));
        Assert.Equal("No host has room for 1 vCPUs and 1024 MiB: 1 host short of memory (wanted 1024 MiB, most free 384 MiB).", (string)problem["detail"]!);
        Assert.DoesNotContain("wanted", await node.Http.GetStringAsync("/v1/vms"), StringComparison.Ordinal);

        // Neither its name nor its key is used up.
        var waits = await PostAsync("""{"name": "wanted", "driver": "simulated", "memory_mib": 1024}""", "key");
        Assert.Equal(HttpStatusCode.Created, waits.StatusCode);
        Assert.True((bool)JsonNode.Parse(await waits.Content.ReadAsStringAsync())!["spec"]!["queue"]!);
        Assert.Contains("\"no_capacity\"", await node.Http.GetStringAsync("/v1/vms/wanted/wait?state=unplaced&timeout=30"), StringComparison.Ordinal);
        await node.JoinAsync("second");
        Assert.Equal("second", (string)JsonNode.Parse(await node.Http.GetStringAsync("/v1/vms/wanted/wait?state=running&timeout=30"))!["host"]!);

        var fits = await PostAsync("""{"name": "fits", "driver": "simulated", "memory_mib": 1024, "queue": false}""", "other");
        Assert.Equal(HttpStatusCode.Created, fits.StatusCode);
        Assert.Equal("second", (string)JsonNode.Parse(await node.Http.GetStringAsync("/v1/vms/fits/wait?state=running,failed&timeout=30"))!["host"]!);
        // A repeat gets the first answer, whatever room there is by now.
        await node.CreateAsync("filler-2", """, "cpus": 1, "memory_mib": 14000""", "running");
        Assert.Equal(HttpStatusCode.Created, (await PostAsync("""{"name": "fits", "driver": "simulated", "memory_mib": 1024, "queue": false}""", "other")).StatusCode);
    }

    private async Task<HttpResponseMessage> PostAsync(string json, string key)
    {
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/vms") { Content = JsonContent.Create(JsonNode.Parse(json)) };
        request.Headers.Add("Idempotency-Key", key);
        return await node.Http.SendAsync(request);
    }
}
