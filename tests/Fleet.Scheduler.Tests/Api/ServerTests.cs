using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Text.Json.Nodes;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Api;
using Microsoft.AspNetCore.Builder;
using Xunit;

namespace Fleet.Scheduler.Tests.Api;

public sealed class ServerTests : IAsyncLifetime
{
    private readonly ApiUnderTest _api = ApiUnderTest.Start(change: c => c with { Long = new LongRequests(2, 1) });

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync() => await _api.DisposeAsync();

    [Fact]
    public async Task Health_follows_the_node()
    {
        var well = await _api.GetAsync("/v1/health");
        Assert.Equal((200, $$"""{"status":"ok","version":"0.1.0","pid":{{Environment.ProcessId}}}"""), (well.Status, well.Text));
        _api.NotReady = "The cell is starting.";
        Assert.Equal("The cell is starting.", (await _api.GetAsync("/v1/health")).Problem(503, "unavailable"));
    }

    [Theory]
    [InlineData("GET", "/", 404, "not_found")]
    [InlineData("GET", "/v1", 404, "not_found")]
    [InlineData("GET", "/v2/vms", 404, "not_found")]
    [InlineData("GET", "/v1/vms/a/b/c", 404, "not_found")]
    [InlineData("GET", "/openapi/v9.json", 404, "not_found")]
    [InlineData("PUT", "/v1/vms", 405, "method_not_allowed")]
    [InlineData("PATCH", "/v1/vms/hello", 405, "method_not_allowed")]
    [InlineData("POST", "/v1/health", 405, "method_not_allowed")]
    [InlineData("DELETE", "/v1/changes", 405, "method_not_allowed")]
    public async Task Paths_and_methods_that_are_not_there_get_a_problem(string method, string path, int status, string code)
    {
        (await _api.SendAsync(new HttpMethod(method), path)).Problem(status, code);
    }

    [Fact]
    public async Task Lists_and_watches_wait_for_a_view_that_is_behind_since_the_start()
    {
        await using var api = ApiUnderTest.Start(before: cell =>
        {
            cell.Connect("h1");
            cell.FeedHeld = true;
        });
        foreach (var path in new[] { "/v1/vms", "/v1/hosts", "/v1/changes", "/v1/changes/stream" })
            (await api.GetAsync(path)).Problem(503, "unavailable");
        Assert.Equal(200, (await api.GetAsync("/v1/hosts/h1")).Status);
        api.Cell.ReleaseFeed();
        await ApiUnderTest.UntilAsync(() => api.Projection.CaughtUp.IsCompleted);
        Assert.Equal(200, (await api.GetAsync("/v1/hosts")).Status);
    }

    [Fact]
    public async Task Waits_and_watches_are_bounded_together()
    {
        var id = await _api.CreateAsync("hello");
        var first = _api.GetAsync($"/v1/vms/{id}/wait?state=running&timeout=100");
        var second = _api.GetAsync($"/v1/changes?after={_api.Projection.Index}&wait=100");
        await ApiUnderTest.UntilAsync(() => _api.Clock.Timers >= 3);
        (await _api.GetAsync("/v1/changes?wait=0")).Problem(503, "unavailable");
        Assert.Equal(200, (await _api.GetAsync("/v1/vms/hello")).Status);
        _api.Cell.Run(id);
        await first;
        await second;
        Assert.Equal(200, (await _api.GetAsync("/v1/changes?wait=0")).Status);
    }

    /// <summary>Whoever waits for it is to mend one of the two, and not to look at both.</summary>
    [Fact]
    public async Task A_database_that_fails_is_told_of_as_health_tells()
    {
        _api.Cell.VolumesFail = new SocketException((int)SocketError.ConnectionRefused);
        Assert.Contains("its database is away or its disk is full.", (await _api.GetAsync("/v1/volumes")).Problem(503, "unavailable"), StringComparison.Ordinal);
        _api.NotReady = "Nothing more can be stored in /var/lib/fleet: No space left on device. Free some room on its disk.";
        Assert.Contains("at the moment: Nothing more can be stored in /var/lib/fleet: No space left on device.", (await _api.GetAsync("/v1/volumes")).Problem(503, "unavailable"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_tenants_waits_and_watches_leave_room_for_the_others()
    {
        using var acme = await TenantAsync("acme");
        using var evil = await TenantAsync("evil");
        using (var stream = await acme.GetAsync("/v1/changes/stream", HttpCompletionOption.ResponseHeadersRead))
        {
            Assert.Equal(HttpStatusCode.OK, stream.StatusCode);
            using var more = await acme.GetAsync("/v1/changes?wait=0");
            Assert.Equal(HttpStatusCode.ServiceUnavailable, more.StatusCode);
            Assert.Contains("tenant acme", await more.Content.ReadAsStringAsync(), StringComparison.Ordinal);
            using var other = await evil.GetAsync("/v1/changes?wait=0");
            Assert.Equal(HttpStatusCode.OK, other.StatusCode);
        }
        await ApiUnderTest.UntilAsync(() => _api.Long.Running == 0);
        using var again = await acme.GetAsync("/v1/changes?wait=0");
        Assert.Equal(HttpStatusCode.OK, again.StatusCode);
    }

    private async Task<HttpClient> TenantAsync(string tenant)
    {
        var http = new HttpClient(new SocketsHttpHandler { UseProxy = false }) { BaseAddress = _api.Http.BaseAddress };
        http.DefaultRequestHeaders.Authorization = new("Bearer", await _api.TokenAsync(new(TokenRole.Tenant) { Tenant = tenant }));
        return http;
    }

    [Fact]
    public async Task Stopping_the_server_ends_waits_and_streams_quickly()
    {
        var id = await _api.CreateAsync("hello");
        var wait = _api.GetAsync($"/v1/vms/{id}/wait?state=running&timeout=600");
        var stream = await _api.Http.GetAsync("/v1/changes/stream", HttpCompletionOption.ResponseHeadersRead);
        await ApiUnderTest.UntilAsync(() => _api.Clock.HasTimer(TimeSpan.FromSeconds(600)));
        var took = Stopwatch.StartNew();
        await _api.StopServerAsync();
        Assert.True(took.Elapsed < TimeSpan.FromSeconds(3), $"{took.Elapsed}");
        (await wait).Problem(503, "unavailable");
        await Assert.ThrowsAnyAsync<Exception>(async () => await stream.Content.ReadAsStringAsync());
    }

    [Fact]
    public async Task A_client_that_says_nothing_and_one_that_says_nonsense_do_no_harm()
    {
        using var silent = new TcpClient();
        await silent.ConnectAsync(_api.Endpoint);
        using var nonsense = new TcpClient();
        await nonsense.ConnectAsync(_api.Endpoint);
        await nonsense.GetStream().WriteAsync("\0\u0001 nonsense\r\n\r\n"u8.ToArray());
        var answer = new byte[256];
        var read = await nonsense.GetStream().ReadAsync(answer);
        Assert.StartsWith("HTTP/1.1 400", Encoding.ASCII.GetString(answer, 0, read), StringComparison.Ordinal);
        Assert.Equal(200, (await _api.GetAsync("/v1/health")).Status);
    }

    [Fact]
    public async Task OpenApi_lists_every_route_with_its_parameters_bodies_and_errors()
    {
        var answer = await _api.GetAsync("/openapi/v1.json");
        Assert.True(answer.Status == 200, string.Join("\n", _api.Log.Faults));
        var paths = answer.Json["paths"]!.AsObject();
        var listed = paths.SelectMany(p => p.Value!.AsObject().Where(o => o.Key != "parameters").Select(o => $"{o.Key.ToUpperInvariant()} {p.Key}")).Order();
        Assert.Equal(new[]
        {
            "DELETE /v1/hosts/{id}", "DELETE /v1/tokens/{id}", "DELETE /v1/vms/{id}", "DELETE /v1/vms/{id}/rate_limits/{limiter}", "DELETE /v1/volumes/{name}", "GET /metrics", "GET /v1/admin/palettes", "GET /v1/authority", "GET /v1/changes",
            "GET /v1/changes/stream", "GET /v1/health", "GET /v1/hosts", "GET /v1/hosts/{id}", "GET /v1/tokens", "GET /v1/vms", "GET /v1/vms/{id}",
            "GET /v1/vms/{id}/console", "GET /v1/vms/{id}/exec", "GET /v1/vms/{id}/logs", "GET /v1/vms/{id}/rate_limits", "GET /v1/vms/{id}/wait", "GET /v1/volumes", "POST /v1/admin/commands", "POST /v1/gangs", "POST /v1/hosts/{id}/cordon", "POST /v1/hosts/{id}/drain", "POST /v1/hosts/{id}/uncordon", "POST /v1/placements", "POST /v1/tokens", "POST /v1/vms", "POST /v1/vms/{id}/console",
            "POST /v1/vms/{id}/resume", "POST /v1/vms/{id}/start", "POST /v1/vms/{id}/stop", "POST /v1/vms/{id}/suspend", "POST /v1/volumes", "POST /v1/volumes/{name}/clone", "POST /v1/volumes/{name}/snapshot", "PUT /v1/vms/{id}/rate_limits/{limiter}",
        }, listed);

        var create = paths["/v1/vms"]!["post"]!;
        Assert.Contains(create["parameters"]!.AsArray(), p => (string)p!["name"]! == "Idempotency-Key" && (string)p["in"]! == "header");
        Assert.Equal(["201", "400", "401", "403", "409", "413", "415", "422", "500", "503"], create["responses"]!.AsObject().Select(r => r.Key).Order());
        Assert.Contains("idempotency_key_reused", (string)create["responses"]!["422"]!["description"]!, StringComparison.Ordinal);
        var schemas = answer.Json["components"]!["schemas"]!;
        var body = schemas["CreateVm"]!;
        Assert.False((bool)body["additionalProperties"]!);
        Assert.Equal(["architecture", "boot", "boot_timeout_seconds", "command", "cpu_template", "cpus", "disk_mib", "driver", "env", "fencing", "health", "host", "host_labels", "image", "iops", "labels", "memory_mib", "min_kernel", "name", "network", "network_mbit", "placement", "ports", "priority", "queue", "rate_limits", "restart", "simulated", "stop_grace_seconds", "tenant", "terminal", "volumes", "zones"],
            body["properties"]!.AsObject().Select(p => p.Key).Order());
        Assert.Equal((1, 32), ((int)body["properties"]!["cpus"]!["minimum"]!, (int)body["properties"]!["cpus"]!["maximum"]!));

        var wait = paths["/v1/vms/{id}/wait"]!["get"]!["parameters"]!.AsArray();
        Assert.Equal(["id", "state", "timeout"], wait.Select(p => (string)p!["name"]!));
        Assert.Equal(600, (int)wait[2]!["schema"]!["maximum"]!);
        foreach (var operation in paths.SelectMany(p => p.Value!.AsObject()).Select(o => o.Value!))
        {
            foreach (var response in operation["responses"]!.AsObject().Where(r => r.Key[0] is '4' or '5'))
                Assert.EndsWith("/Problem", (string)response.Value!["content"]!["application/problem+json"]!["schema"]!["$ref"]!, StringComparison.Ordinal);
        }
    }

    /// <summary>What the document says of an answer is what the answer has: no member more, none less.</summary>
    [Fact]
    public async Task OpenApi_schemas_agree_with_real_answers()
    {
        var schemas = (await _api.GetAsync("/openapi/v1.json")).Json["components"]!["schemas"]!.AsObject();
        var vm = await _api.PostAsync("/v1/vms", """{"driver": "simulated", "simulated": {}, "boot": {"kernel_path": "/k"}, "rate_limits": {"entropy": {"ops": {"size": 1, "refill_time_ms": 1}}}}""");
        _api.Cell.Connect("h1");
        var id = (string)vm.Json["id"]!;
        _api.Cell.Run(id, "h1");
        _api.Cell.End(id, 1);
        AssertSame(schemas, "Vm", (await _api.GetAsync($"/v1/vms/{id}")).Json);
        await _api.PostAsync("/v1/hosts/h1/drain");
        AssertSame(schemas, "Host", (await _api.GetAsync("/v1/hosts/h1")).Json);
        AssertSame(schemas, "VmList", (await _api.GetAsync("/v1/vms")).Json);
        AssertSame(schemas, "HostList", (await _api.GetAsync("/v1/hosts")).Json);
        AssertSame(schemas, "Changes", (await _api.GetAsync("/v1/changes")).Json);
        AssertSame(schemas, "Health", (await _api.GetAsync("/v1/health")).Json);
        _api.Cell.Limiters.Add(new() { VmId = id, Epoch = 1, Name = "entropy" });
        AssertSame(schemas, "RateLimiters", (await _api.GetAsync($"/v1/vms/{id}/rate_limits")).Json);
        AssertSame(schemas, "PlacementReview", (await _api.PostAsync("/v1/placements", "{}")).Json);
        AssertSame(schemas, "PlacementReview", (await _api.PostAsync("/v1/placements", """{"cpus": 32, "placement": {"spread": [{"group": "web"}]}}""")).Json);
        AssertSame(schemas, "NewToken", (await _api.PostAsync("/v1/tokens", """{"role": "host", "host": "h1"}""")).Json);
        AssertSame(schemas, "TokenList", (await _api.GetAsync("/v1/tokens")).Json);
        AssertSame(schemas, "Problem", (await _api.PostAsync("/v1/vms", """{"x": 1}""")).Json);
    }

    private static void AssertSame(JsonObject schemas, string name, JsonNode answer)
    {
        Assert.True(schemas.ContainsKey(name), $"There is no schema {name}, only {string.Join(", ", schemas.Select(s => s.Key))}.");
        Check(schemas, schemas[name]!, answer, name);
    }

    private static void Check(JsonObject schemas, JsonNode schema, JsonNode? value, string place)
    {
        if (schema["$ref"] is { } reference)
            schema = schemas[((string)reference!).Split('/')[^1]]!;
        if (schema["oneOf"] is JsonArray choices)
        {
            Assert.Contains(choices, choice => Record.Exception(() => Check(schemas, choice!, value, place)) is null);
            return;
        }
        var types = schema["type"] is JsonArray several ? several.Select(t => (string)t!).ToArray() : [(string)schema["type"]!];
        var kind = value switch
        {
            null => "null",
            JsonObject => "object",
            JsonArray => "array",
            _ => value.GetValueKind() switch
            {
                System.Text.Json.JsonValueKind.String => "string",
                System.Text.Json.JsonValueKind.Number => "integer",
                _ => "boolean",
            },
        };
        Assert.True(types.Contains(kind) || (kind == "integer" && types.Contains("number")), $"{place} is {kind}, the document says {string.Join(" or ", types)}");
        if (value is JsonArray items)
        {
            foreach (var item in items)
                Check(schemas, schema["items"]!, item, place + "[]");
        }
        if (value is not JsonObject members || schema["properties"] is not JsonObject properties)
            return;
        Assert.Equal(properties.Select(p => p.Key).Order(), members.Select(m => m.Key).Order());
        foreach (var (name, member) in members)
            Check(schemas, properties[name]!, member, $"{place}.{name}");
    }
}
