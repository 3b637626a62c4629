using Fleet.Scheduler.Cell;
using Xunit;

namespace Fleet.Scheduler.Tests.Api;

public sealed class GangRequestTests : IAsyncLifetime
{
    private readonly ApiUnderTest _api = ApiUnderTest.Start();

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync() => await _api.DisposeAsync();

    [Fact]
    public async Task Create_makes_every_member_and_the_same_key_makes_them_once()
    {
        const string Body = """{"name": "train", "size": 3, "vm": {"cpus": 2, "labels": {"b": "2", "a": "1"}}}""";
        var answer = await _api.PostAsync("/v1/gangs", Body, key: "k");
        Assert.True(answer.Status == 201, answer.Text);
        var vms = answer.Json["vms"]!.AsArray();
        Assert.Equal(["train-0", "train-1", "train-2"], vms.Select(vm => (string)vm!["name"]!));
        Assert.Equal((string)vms[0]!["id"]!, (string)answer.Json["id"]!);
        for (var index = 0; index < 3; index++)
            Assert.Equal($$"""{"id":"{{(string)answer.Json["id"]!}}","name":"train","size":3,"index":{{index}}}""", vms[index]!["gang"]!.ToJsonString());
        var again = await _api.PostAsync("/v1/gangs", Body, key: "k");
        Assert.Equal((201, answer.Text), (again.Status, again.Text));
        Assert.Equal(3, _api.Cell.Journal.Count(stored => stored.Event is VmCreated));
        (await _api.PostAsync("/v1/gangs", Body.Replace("3", "4", StringComparison.Ordinal), key: "k")).Problem(422, "idempotency_key_reused");
    }

    [Fact]
    public async Task A_name_that_is_taken_leaves_nothing()
    {
        await _api.CreateAsync("train-2");
        (await _api.PostAsync("/v1/gangs", """{"name": "train", "size": 4, "vm": {}}""")).Problem(409, "name_taken", "name");
        var left = (await _api.GetAsync("/v1/vms")).Json["items"]!.AsArray().Where(vm => (string)vm!["state"]! is not ("deleting" or "deleted"));
        Assert.Equal(["train-2"], left.Select(vm => (string)vm!["name"]!));
    }

    [Fact]
    public async Task Create_that_is_not_to_wait_is_refused_at_once_where_there_is_no_room_for_all()
    {
        _api.Cell.Connect("a", cpus: 8, memory: 2048);
        const string Body = """{"name": "train", "size": 3, "vm": {"memory_mib": 1024, "queue": false}}""";
        var refused = await _api.PostAsync("/v1/gangs", Body, key: "k");
        refused.Problem(409, "no_capacity");
        Assert.Contains("The gang train of 3 is placed when there is room for all at once: there is for 2 at most.", refused.Text, StringComparison.Ordinal);
        Assert.DoesNotContain(_api.Cell.Journal, stored => stored.Event is VmCreated);
        _api.Cell.Connect("b", cpus: 8, memory: 2048);
        var made = await _api.PostAsync("/v1/gangs", Body, key: "k");
        Assert.True(made.Status == 201, made.Text);
        Assert.All(made.Json["vms"]!.AsArray(), vm => Assert.False((bool)vm!["spec"]!["queue"]!));
    }

    [Theory]
    [InlineData("""{"size": 2, "vm": {}}""", "missing_field", "name")]
    [InlineData("""{"name": "a", "vm": {}}""", "missing_field", "size")]
    [InlineData("""{"name": "a", "size": 2}""", "missing_field", "vm")]
    [InlineData("""{"name": "a", "size": 0, "vm": {}}""", "invalid_field", "size")]
    [InlineData("""{"name": "a", "size": 101, "vm": {}}""", "invalid_field", "size")]
    [InlineData("""{"name": "A", "size": 2, "vm": {}}""", "invalid_field", "name")]
    [InlineData("""{"name": "a", "size": 2, "vm": {"name": "b"}}""", "invalid_field", "vm.name")]
    [InlineData("""{"name": "a", "size": 2, "vm": {"cpus": 33}}""", "invalid_field", "vm.cpus")]
    [InlineData("""{"name": "a", "size": 2, "vm": {"gang": {}}}""", "unknown_field", "vm.gang")]
    public async Task A_wrong_body_is_refused(string body, string code, string field)
    {
        var answer = await _api.PostAsync("/v1/gangs", body);
        answer.Problem(400, code, field);
        Assert.DoesNotContain(_api.Cell.Journal, stored => stored.Event is VmCreated);
    }
}
