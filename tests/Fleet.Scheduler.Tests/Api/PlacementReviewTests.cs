using System.Text.Json.Nodes;
using Fleet.Scheduler.Access;
using Xunit;

namespace Fleet.Scheduler.Tests.Api;

/// <summary>The dry run of a placement: what it says, to whom, and that nothing comes of it.</summary>
public sealed class PlacementReviewTests : IAsyncLifetime
{
    private readonly ApiUnderTest _api = ApiUnderTest.Start(change: context => context with { TenantQemu = true });

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync() => await _api.DisposeAsync();

    [Fact]
    public async Task Should_name_the_hosts_with_scores_and_count_the_others_by_reason()
    {
        _api.Cell.Connect("small", cpus: 2, memory: 1024);
        _api.Cell.Connect("large", cpus: 8, memory: 8192);
        _api.Cell.Connect("tiny", cpus: 1, memory: 512);
        var review = await ReviewAsync("""{"cpus": 2, "memory_mib": 512}""");
        Assert.True((bool)review["fits"]!);
        Assert.Equal(2, (int)review["fitting_hosts"]!);
        Assert.Equal(["small", "large"], review["candidates"]!.AsArray().Select(one => (string)one!["host"]!));
        var first = review["candidates"]![0]!;
        Assert.Equal("fit", (string)first["scores"]![0]!["name"]!);
        Assert.Equal((double)first["cost"]!, first["scores"]!.AsArray().Sum(score => (double)score!["cost"]!), 3);
        Assert.Null(review["reason"]);
        Assert.Empty(review["would_fit_if"]!.AsArray());
        Assert.Equal("""[{"reason":"cpus","hosts":1,"wanted":2,"most_free":1}]""", review["rejections"]!.ToJsonString());
        Assert.Equal(0, _api.Cell.Creates);
        Assert.Empty((await _api.GetAsync("/v1/vms")).Json["items"]!.AsArray());
    }

    [Fact]
    public async Task Should_say_for_how_many_of_a_gang_there_is_room()
    {
        _api.Cell.Connect("a", cpus: 8, memory: 4096);
        _api.Cell.Connect("b", cpus: 8, memory: 1024);
        async Task<JsonNode> AskAsync(int size, string body) => (await _api.PostAsync($"/v1/placements?gang_size={size}", body)).Json;
        const string Body = """{"cpus": 1, "memory_mib": 1024}""";
        Assert.True((bool)(await AskAsync(5, Body))["fits"]!);
        var review = await AskAsync(6, Body);
        Assert.False((bool)review["fits"]!);
        Assert.Equal("""{"code":"waiting_for_gang","message":"The gang of 6 is placed when there is room for all at once: there is for 5 at most."}""", review["reason"]!.ToJsonString());
        Assert.False((bool)(await AskAsync(3, """{"memory_mib": 512, "placement": {"groups": ["web"], "affinity": [{"group": "web", "apart": true}]}}"""))["fits"]!);
        review = await AskAsync(2, """{"memory_mib": 8192}""");
        Assert.Contains("there is for 0 at most. No host has room for 1 vCPUs and 8192 MiB", (string)review["reason"]!["message"]!, StringComparison.Ordinal);
        Assert.Equal("memory_mib", (string)review["would_fit_if"]![0]!["field"]!);
        (await _api.PostAsync("/v1/placements?gang_size=101", Body)).Problem(400, "invalid_query", "gang_size");
    }

    [Fact]
    public async Task Should_say_which_single_change_would_make_it_fit()
    {
        _api.Cell.Connect("a", cpus: 2, memory: 4096);
        _api.Cell.Connect("b", cpus: 8, memory: 1024);
        var review = await ReviewAsync("""{"cpus": 4, "memory_mib": 2048}""");
        Assert.False((bool)review["fits"]!);
        Assert.Equal("no_capacity", (string)review["reason"]!["code"]!);
        Assert.Equal(
            """[{"field":"cpus","value":2,"like_host":null,"fitting_hosts":1},{"field":"memory_mib","value":1024,"like_host":null,"fitting_hosts":1}]""",
            review["would_fit_if"]!.ToJsonString());

        review = await ReviewAsync("""{"driver": "kvm", "zones": ["x"], "placement": {"spread": [{"group": "web"}]}}""");
        Assert.Empty(review["would_fit_if"]!.AsArray());
        review = await ReviewAsync("""{"zones": ["x"]}""");
        Assert.Equal("""[{"field":"zones","value":null,"like_host":null,"fitting_hosts":2}]""", review["would_fit_if"]!.ToJsonString());
        review = await ReviewAsync("""{"placement": {"spread": [{"group": "web", "over": "host", "hard": false}, {"group": "web"}]}}""");
        Assert.Equal("""[{"field":"placement.spread[1]","value":null,"like_host":null,"fitting_hosts":2}]""", review["would_fit_if"]!.ToJsonString());

        // All that could carry it are cordoned: one more of their kind would do.
        await _api.PostAsync("/v1/hosts/a/cordon");
        review = await ReviewAsync("""{"memory_mib": 2048}""");
        Assert.Contains("""{"field":"hosts","value":null,"like_host":"a","fitting_hosts":1}""", review["would_fit_if"]!.ToJsonString(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_tell_a_tenant_no_more_than_an_unplaced_microVM_of_its_own_would()
    {
        _api.Cell.Connect("secret-a", cpus: 2, memory: 4096);
        _api.Cell.Connect("secret-b", cpus: 8, memory: 1024);
        var token = await _api.TokenAsync(new(TokenRole.Tenant) { Tenant = "acme" });
        _api.Http.DefaultRequestHeaders.Authorization = new("Bearer", token);
        var fits = await _api.PostAsync("/v1/placements", "{}");
        Assert.Equal("""{"fits":true,"preempts":false,"fitting_hosts":null,"candidates":[],"reason":null,"rejections":[],"would_fit_if":[]}""", fits.Text);
        var not = await _api.PostAsync("/v1/placements", """{"cpus": 32}""");
        Assert.DoesNotContain("secret", not.Text, StringComparison.Ordinal);
        Assert.Equal("""[{"field":"cpus","value":8,"like_host":null,"fitting_hosts":null}]""", not.Json["would_fit_if"]!.ToJsonString());
        (await _api.PostAsync("/v1/placements", """{"host": "secret-a"}""")).Problem(403, "forbidden", "host");
        (await _api.PostAsync("/v1/placements", """{"cpus": 33}""")).Problem(400, "invalid_field", "cpus");
    }

    private async Task<JsonNode> ReviewAsync(string body)
    {
        var answer = await _api.PostAsync("/v1/placements", body);
        Assert.True(answer.Status == 200, answer.Text);
        return answer.Json;
    }
}
