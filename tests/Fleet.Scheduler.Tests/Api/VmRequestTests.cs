using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Api;

public sealed class VmRequestTests : IAsyncLifetime
{
    private readonly ApiUnderTest _api = ApiUnderTest.Start();

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync() => await _api.DisposeAsync();

    [Fact]
    public async Task Create_answers_with_the_microVM_and_where_it_is()
    {
        var answer = await _api.PostAsync("/v1/vms", """
            {"name": "hello", "cpus": 2, "memory_mib": 300, "command": ["sh", "-c", "exit 7"], "env": {"B": "2", "A": "ü"}, "labels": {"app": "web"}}
            """);

        Assert.Equal(201, answer.Status);
        var id = (string)answer.Json["id"]!;
        Assert.Matches("^vm-[0-9a-hjkmnp-tv-z]{26}$", id);
        Assert.Equal($"/v1/vms/{id}", answer.Headers["Location"]);
        Assert.Equal("\"1\"", answer.Headers["ETag"]);
        Assert.Equal("""
            {"id":"ID","name":"hello","tenant":null,"state":"pending","reason":null,"exit_status":null,"host":null,"epoch":0,"driver":null,"vmm_pid":null,"addresses":null,"created_at":"2026-11-23T12:00:00.000Z","changed_at":"2026-11-23T12:00:00.000Z","version":1,"restarts":0,"restart_at":null,"gang":null,"log":null,"usage":null,"moved":null,"spec":{"name":"hello","cpus":2,"memory_mib":300,"command":["sh","-c","exit 7"],"env":{"A":"ü","B":"2"},"driver":"auto","boot":null,"image":null,"boot_timeout_seconds":120,"restart":"never","fencing":"strict","terminal":false,"stop_grace_seconds":10,"health":null,"labels":{"app":"web"},"host":null,"host_labels":{},"zones":[],"priority":"normal","disk_mib":0,"network_mbit":0,"iops":0,"architecture":null,"min_kernel":null,"cpu_template":null,"queue":true,"placement":null,"volumes":[],"simulated":null,"network":"none","ports":[],"rate_limits":{}}}
            """.Replace("ID", id, StringComparison.Ordinal), answer.Text);
    }

    [Theory]
    [InlineData("{}", 256, 120, "auto")]
    [InlineData("""{"boot": {"kernel_path": "/boot/k"}}""", 128, 0, "auto")]
    [InlineData("""{"driver": "simulated", "simulated": {"boot_ms": 5}}""", 128, 120, "simulated")]
    [InlineData("""{"boot": null, "cpus": null, "name": null, "host": null, "env": null, "labels": null, "command": null, "simulated": null, "memory_mib": null, "driver": null, "boot_timeout_seconds": null}""", 256, 120, "auto")]
    public async Task Defaults_are_filled_in(string body, int memory, int bootTimeout, string driver)
    {
        var answer = await _api.PostAsync("/v1/vms", body);
        Assert.True(answer.Status == 201, answer.Text);
        var spec = answer.Json["spec"]!;
        Assert.Equal(1, (int)spec["cpus"]!);
        Assert.Equal(memory, (int)spec["memory_mib"]!);
        Assert.Equal(bootTimeout, (int)spec["boot_timeout_seconds"]!);
        Assert.Equal(driver, (string)spec["driver"]!);
        Assert.Matches("^vm-[0-9a-z]{6}$", (string)spec["name"]!);
    }

    [Theory]
    [InlineData("nginx", "docker.io/library/nginx:latest")]
    [InlineData("oci:/srv/a:v1", "oci:/srv/a:v1")]
    public async Task An_image_is_told_in_full(string asked, string told)
    {
        var answer = await _api.PostAsync("/v1/vms", $$"""{"image": "{{asked}}"}""");
        Assert.True(answer.Status == 201, answer.Text);
        Assert.Equal((told, 256), ((string)answer.Json["spec"]!["image"]!, (int)answer.Json["spec"]!["memory_mib"]!));
    }

    /// <summary>Names are each tenant's own, and lists show a tenant's beside its name: the two together are an admin's way to it.</summary>
    [Fact]
    public async Task An_admin_reaches_a_tenants_microVM_by_tenant_and_name()
    {
        var id = await _api.CreateAsync("web", """, "tenant": "acme" """);
        Assert.Equal(id, (string)(await _api.GetAsync("/v1/vms/acme%2Fweb")).Json["id"]!);
        Assert.Equal(id, (string)(await _api.GetAsync("/v1/vms/acme%2fweb")).Json["id"]!);
        Assert.Equal(202, (await _api.PostAsync("/v1/vms/acme%2Fweb/stop")).Status);
        (await _api.GetAsync("/v1/vms/evil%2Fweb")).Problem(404, "not_found");
        (await _api.GetAsync("/v1/vms/acme%2Fweb%2Fx")).Problem(404, "not_found");
        var missed = await _api.GetAsync("/v1/vms/web");
        missed.Problem(404, "not_found");
        Assert.Contains("TENANT/NAME", missed.Text, StringComparison.Ordinal);
        // No tenant can tell by it what others have.
        var evil = await _api.TokenAsync(new(TokenRole.Tenant) { Tenant = "evil" });
        using var http = new HttpClient(new SocketsHttpHandler { UseProxy = false }) { BaseAddress = _api.Http.BaseAddress };
        http.DefaultRequestHeaders.Authorization = new("Bearer", evil);
        using var refused = await http.GetAsync(new Uri("/v1/vms/acme%2Fweb", UriKind.Relative));
        Assert.Equal(System.Net.HttpStatusCode.NotFound, refused.StatusCode);
    }

    [Fact]
    public async Task A_spec_that_was_answered_can_be_sent_again()
    {
        var first = await _api.PostAsync("/v1/vms", """{"name": "a", "driver": "simulated", "simulated": {"fault": "vmm_dies", "cpu_percent": [20, 80], "memory_percent": [50], "step_ms": 60000}, "boot": {"kernel_path": "/k"}, "host": "h1", "host_labels": {"disk": "ssd"}, "zones": ["b", "a"], "priority": "low", "placement": {"groups": ["web"], "affinity": [{"group": "db", "apart": true, "hard": false}, {"group": "a/b", "within": "zone"}], "spread": [{"group": "web"}, {"group": "web", "over": "host", "most_ahead": 3, "hard": false}]}, "rate_limits": {"entropy": {"ops": {"size": 1, "refill_time_ms": 2}}}}""");
        Assert.True(first.Status == 201, first.Text);
        var spec = first.Json["spec"]!.AsObject();
        spec["name"] = "b";
        var second = await _api.PostAsync("/v1/vms", spec.ToJsonString());
        Assert.Equal(201, second.Status);
        Assert.Equal(spec.ToJsonString(), second.Json["spec"]!.ToJsonString());
    }

    [Fact]
    public async Task Show_takes_id_or_name_and_tells_what_the_actor_knows()
    {
        var id = await _api.CreateAsync("hello");
        _api.Cell.Run(id);
        _api.Clock.Advance(TimeSpan.FromMilliseconds(3120));
        _api.Cell.End(id, 7);

        var byId = await _api.GetAsync($"/v1/vms/{id}");
        var byName = await _api.GetAsync("/v1/vms/hello");

        Assert.Equal(byId.Text, byName.Text);
        Assert.Equal("\"4\"", byId.Headers["ETag"]);
        Assert.Equal("stopped", (string)byId.Json["state"]!);
        Assert.Equal(7, (int)byId.Json["exit_status"]!);
        Assert.Equal("command_exited", (string)byId.Json["reason"]!["code"]!);
        Assert.Equal("rack1-7", (string)byId.Json["host"]!);
        Assert.Equal("2026-11-23T12:00:03.120Z", (string)byId.Json["changed_at"]!);
    }

    [Theory]
    [InlineData("nobody")]
    [InlineData("vm-01jd8mbr4v3s6q8k2n0x5t7w9z")]
    [InlineData("NOT%20A%20NAME")]
    [InlineData("%ff%fe")]
    public async Task What_is_not_there_is_not_found(string id)
    {
        (await _api.GetAsync($"/v1/vms/{id}")).Problem(404, "not_found");
        (await _api.PostAsync($"/v1/vms/{id}/stop")).Problem(404, "not_found");
        (await _api.PostAsync($"/v1/vms/{id}/start")).Problem(404, "not_found");
        (await _api.DeleteAsync($"/v1/vms/{id}")).Problem(404, "not_found");
        (await _api.GetAsync($"/v1/vms/{id}/wait?state=running")).Problem(404, "not_found");
        (await _api.GetAsync($"/v1/vms/{id}/console")).Problem(404, "not_found");
        (await _api.PostAsync($"/v1/vms/{id}/console", "x")).Problem(404, "not_found");
    }

    [Fact]
    public async Task Stop_start_and_delete_walk_through_a_life()
    {
        var id = await _api.CreateAsync("hello");
        (await _api.PostAsync($"/v1/vms/{id}/start")).Problem(409, "wrong_state");
        _api.Cell.Run(id);

        var stop = await _api.PostAsync($"/v1/vms/{id}/stop", """{"grace_seconds": 3}""");
        Assert.Equal((202, "stopping"), (stop.Status, (string)stop.Json["state"]!));
        Assert.Equal(3000u, ((VmStopRequested)_api.Cell.Journal[^1].Event).GraceMs);
        _api.Cell.End(id, 0);

        var start = await _api.PostAsync("/v1/vms/hello/start");
        Assert.Equal((202, "pending"), (start.Status, (string)start.Json["state"]!));

        var delete = await _api.DeleteAsync("/v1/vms/hello");
        Assert.Equal((202, "deleting"), (delete.Status, (string)delete.Json["state"]!));
        (await _api.PostAsync($"/v1/vms/{id}/stop")).Problem(409, "wrong_state");

        _api.Cell.Gone(id);
        (await _api.GetAsync($"/v1/vms/{id}")).Problem(404, "not_found");
        (await _api.DeleteAsync($"/v1/vms/{id}")).Problem(404, "not_found");
        (await _api.PostAsync($"/v1/vms/{id}/stop")).Problem(404, "not_found");
        Assert.NotEqual(id, await _api.CreateAsync("hello"));
    }

    [Fact]
    public async Task Stop_without_a_body_has_ten_seconds_of_grace()
    {
        var id = await _api.CreateAsync("hello");
        Assert.Equal(202, (await _api.PostAsync($"/v1/vms/{id}/stop")).Status);
        Assert.Equal(10_000u, ((VmStopRequested)_api.Cell.Journal[^1].Event).GraceMs);

        var patient = await _api.PostAsync("/v1/vms", """{"name": "patient", "stop_grace_seconds": 60, "terminal": true}""");
        Assert.Equal((60, true), ((int)patient.Json["spec"]!["stop_grace_seconds"]!, (bool)patient.Json["spec"]!["terminal"]!));
        Assert.Equal(202, (await _api.PostAsync("/v1/vms/patient/stop")).Status);
        Assert.Equal(60_000u, ((VmStopRequested)_api.Cell.Journal[^1].Event).GraceMs);
    }

    [Fact]
    public async Task Show_tells_what_a_microvm_uses_and_what_its_guest_says_of_itself()
    {
        var id = await _api.CreateAsync("hello");
        _api.Cell.Uses[id] = new VmUse
        {
            VmId = id, Epoch = 1, CpuMillis = 250, MemoryKib = 90 << 10, VcpusHeldBack = 1, Credits = new CpuCreditFigures { BalanceMs = -2500 },
            Guest = new GuestFigures { MemoryKib = 230 << 10, AvailableKib = 180 << 10, Load1 = 150, Load5 = 20, Load15 = 3, Tasks = 77, Health = 3, HealthFailures = 2 },
        };
        var shown = (await _api.GetAsync("/v1/vms/hello")).Json["usage"]!;
        Assert.Equal("""{"cpus":0.25,"memory_mib":90,"cpu_credits":{"balance_seconds":-2.5,"vcpus_held_back":1},"guest":{"memory_mib":230,"available_mib":180,"load":[1.5,0.2,0.03],"tasks":77,"health":{"state":"failing","failures":2}}}""", shown.ToJsonString());
        Assert.Null((await _api.GetAsync("/v1/vms")).Json["items"]![0]!["usage"]);
    }

    [Theory]
    [InlineData("""{"grace_seconds": 9999999999999}""", "invalid_field", "grace_seconds")]
    [InlineData("""{"grace_seconds": 301}""", "invalid_field", "grace_seconds")]
    [InlineData("""{"grace_seconds": -1}""", "invalid_field", "grace_seconds")]
    [InlineData("""{"grace_seconds": "1"}""", "invalid_field", "grace_seconds")]
    [InlineData("""{"grace": 1}""", "unknown_field", "grace")]
    [InlineData("[]", "invalid_json", null)]
    public async Task Stop_refuses_a_wrong_body(string body, string code, string? field)
    {
        var id = await _api.CreateAsync("hello");
        (await _api.PostAsync($"/v1/vms/{id}/stop", body)).Problem(400, code, field);
    }

    [Fact]
    public async Task Wait_answers_at_once_when_the_state_is_there()
    {
        var id = await _api.CreateAsync("hello");
        var answer = await _api.GetAsync($"/v1/vms/{id}/wait?state=pending,running&timeout=0");
        Assert.Equal((200, "pending"), (answer.Status, (string)answer.Json["state"]!));
    }

    [Fact]
    public async Task Wait_answers_when_the_state_comes()
    {
        var id = await _api.CreateAsync("hello");
        var waiting = _api.GetAsync("/v1/vms/hello/wait?state=running,failed&timeout=600");
        await ApiUnderTest.UntilAsync(() => _api.Clock.HasTimer(TimeSpan.FromSeconds(600)));
        Assert.False(waiting.IsCompleted);
        _api.Cell.Run(id);
        Assert.Equal("running", (string)(await waiting).Json["state"]!);
    }

    [Fact]
    public async Task Wait_ends_with_408_when_the_time_is_over()
    {
        var id = await _api.CreateAsync("hello");
        var waiting = _api.GetAsync($"/v1/vms/{id}/wait?state=running&timeout=30");
        await ApiUnderTest.UntilAsync(() => _api.Clock.HasTimer(TimeSpan.FromSeconds(30)));
        _api.Clock.Advance(TimeSpan.FromSeconds(29));
        Assert.False(waiting.IsCompleted);
        _api.Clock.Advance(TimeSpan.FromSeconds(1));
        (await waiting).Problem(408, "timeout");
    }

    [Fact]
    public async Task Wait_for_deleted_answers_with_the_last_known_microVM()
    {
        var id = await _api.CreateAsync("hello");
        await _api.DeleteAsync($"/v1/vms/{id}");
        _api.Cell.Gone(id);
        var answer = await _api.GetAsync($"/v1/vms/{id}/wait?state=deleted");
        Assert.Equal((200, "deleted", "hello"), (answer.Status, (string)answer.Json["state"]!, (string)answer.Json["name"]!));
    }

    [Theory]
    [InlineData("wait", "state")]
    [InlineData("wait?state=", "state")]
    [InlineData("wait?state=alive", "state")]
    [InlineData("wait?state=running,", "state")]
    [InlineData("wait?state=running&timeout=601", "timeout")]
    [InlineData("wait?state=running&timeout=-1", "timeout")]
    [InlineData("wait?state=running&timeout=1.5", "timeout")]
    [InlineData("wait?state=running&timeout=1&timeout=2", "timeout")]
    [InlineData("wait?state=running&time=1", "time")]
    [InlineData("console?offset=-1", "offset")]
    [InlineData("console?offset=99999999999999999999", "offset")]
    [InlineData("console?follow=yes", "follow")]
    public async Task A_wrong_query_is_refused(string query, string field)
    {
        var id = await _api.CreateAsync("hello");
        (await _api.GetAsync($"/v1/vms/{id}/{query}")).Problem(400, "invalid_query", field);
    }

    [Fact]
    public async Task An_actor_that_does_not_answer_is_unavailable()
    {
        var id = await _api.CreateAsync("hello");
        _api.Cell.Silent = true;
        var asking = _api.GetAsync($"/v1/vms/{id}");
        await ApiUnderTest.UntilAsync(() => _api.Clock.HasTimer(TimeSpan.FromSeconds(10)));
        _api.Clock.Advance(TimeSpan.FromSeconds(10));
        var answer = await asking;
        answer.Problem(503, "unavailable");
        Assert.Equal("1", answer.Headers["Retry-After"]);
    }

    [Fact]
    public async Task A_refusal_of_the_cell_keeps_its_code()
    {
        var id = await _api.CreateAsync("hello");
        _api.Cell.Refuses = new("unavailable", "The shard is moving.");
        Assert.Equal("The shard is moving.", (await _api.GetAsync($"/v1/vms/{id}")).Problem(503, "unavailable"));
    }

    [Fact]
    public async Task A_fault_of_ours_is_internal_and_names_the_request()
    {
        var id = await _api.CreateAsync("hello");
        _api.Cell.Throws = new InvalidDataException("secret");
        var answer = await _api.GetAsync($"/v1/vms/{id}");
        var detail = answer.Problem(500, "internal");
        Assert.Contains(answer.Headers["Fleet-Request-Id"], detail, StringComparison.Ordinal);
        Assert.DoesNotContain("secret", answer.Text, StringComparison.Ordinal);
        _api.Cell.Throws = null;
        _api.Cell.Refuses = new("some_new_code", "?");
        (await _api.GetAsync($"/v1/vms/{id}")).Problem(500, "internal");
    }
}
