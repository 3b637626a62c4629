using Fleet.Scheduler.Sessions;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Api;

public sealed class RateLimitTests : IAsyncLifetime
{
    private const string Limit = """{"bandwidth": {"size": 65536, "refill_time_ms": 1000, "one_time_burst": 10}, "ops": null}""";

    private readonly HostFigures _figures = new();
    private readonly ApiUnderTest _api;

    public RateLimitTests() => _api = ApiUnderTest.Start(change: context => context with { Figures = _figures });

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync() => await _api.DisposeAsync();

    private static LimiterFigure Figure(string vmId, RateLimit? inForce = null) => new()
    {
        VmId = vmId,
        Epoch = 1,
        Name = "entropy",
        InForce = inForce,
        PassedOps = 7,
        PassedBytes = 448,
        ThrottledCount = 2,
        ThrottledUs = 1_500_000,
    };

    [Fact]
    public async Task A_limit_is_set_shown_and_lifted()
    {
        var id = await _api.CreateAsync("hello", """, "driver": "kvm" """);
        var set = await _api.SendAsync(HttpMethod.Put, "/v1/vms/hello/rate_limits/entropy", Limit);
        Assert.True(set.Status == 202, set.Text);
        Assert.Equal("""{"entropy":{"bandwidth":{"size":65536,"refill_time_ms":1000,"one_time_burst":10},"ops":null}}""", set.Json["spec"]!["rate_limits"]!.ToJsonString());
        Assert.Equal(
            """{"items":[{"name":"entropy","limit":{"bandwidth":{"size":65536,"refill_time_ms":1000,"one_time_burst":10},"ops":null},"in_force":false,"measured":null}]}""",
            (await _api.GetAsync($"/v1/vms/{id}/rate_limits")).Text);

        var lifted = await _api.DeleteAsync("/v1/vms/hello/rate_limits/entropy");
        Assert.Equal((202, "{}"), (lifted.Status, lifted.Json["spec"]!["rate_limits"]!.ToJsonString()));
        Assert.Equal("""{"items":[]}""", (await _api.GetAsync($"/v1/vms/{id}/rate_limits")).Text);
    }

    [Fact]
    public async Task In_force_is_what_host_and_journal_agree_on()
    {
        var id = await _api.CreateAsync("hello", """, "driver": "kvm", "rate_limits": {"entropy": {"ops": {"size": 5, "refill_time_ms": 100}}}""");
        _api.Cell.Run(id);
        Assert.True((bool)(await ItemAsync(id))["in_force"]!);
        _api.Cell.Limiters.Add(Figure(id));
        var other = await ItemAsync(id);
        Assert.False((bool)other["in_force"]!);
        Assert.Equal("""{"limit":null,"passed_ops":7,"passed_bytes":448,"throttled_count":2,"throttled_us":1500000}""", other["measured"]!.ToJsonString());
        _api.Cell.Limiters[0].InForce = new RateLimit { Ops = new TokenBucket { Size = 5, RefillTimeMs = 100 } };
        Assert.True((bool)(await ItemAsync(id))["in_force"]!);
        _api.Cell.End(id, 0);
        Assert.False((bool)(await ItemAsync(id))["in_force"]!);
    }

    private async Task<System.Text.Json.Nodes.JsonNode> ItemAsync(string id) => (await _api.GetAsync($"/v1/vms/{id}/rate_limits")).Json["items"]![0]!;

    [Theory]
    [InlineData("disk", Limit, "invalid_field", "limiter")]
    [InlineData("entropy", "{}", "invalid_field", "bandwidth")]
    [InlineData("entropy", """{"ops": {"size": 1}}""", "missing_field", "ops.refill_time_ms")]
    [InlineData("entropy", """{"ops": {"size": 1, "refill_time_ms": 0}}""", "invalid_field", "ops.refill_time_ms")]
    [InlineData("entropy", """{"ops": {"size": 1, "refill_time_ms": 1, "refill_time": 1}}""", "unknown_field", "ops.refill_time")]
    [InlineData("entropy", "", "invalid_json", null)]
    public async Task What_is_no_limit_is_refused_and_changes_nothing(string limiter, string body, string code, string? field)
    {
        var id = await _api.CreateAsync("hello");
        (await _api.SendAsync(HttpMethod.Put, $"/v1/vms/{id}/rate_limits/{limiter}", body)).Problem(400, code, field);
        Assert.Equal("\"1\"", (await _api.GetAsync($"/v1/vms/{id}")).Headers["ETag"]);
    }

    [Fact]
    public async Task Limits_of_nothing_are_not_found()
    {
        (await _api.GetAsync("/v1/vms/nobody/rate_limits")).Problem(404, "not_found");
        (await _api.SendAsync(HttpMethod.Put, "/v1/vms/nobody/rate_limits/entropy", Limit)).Problem(404, "not_found");
        (await _api.DeleteAsync("/v1/vms/nobody/rate_limits/entropy")).Problem(404, "not_found");
    }

    [Fact]
    public async Task Metrics_tell_each_limiter_of_each_host_once()
    {
        const string vm = "vm-00000000000000000000000001";
        object older = new(), newer = new();
        _figures.Put("b", older, [Figure(vm)]);
        _figures.Put("a", newer, []);
        _figures.Put("b", newer, [Figure(vm)]);
        _figures.Remove("b", older);
        var answer = await _api.GetAsync("/metrics");
        Assert.Equal((200, "text/plain"), (answer.Status, answer.Type));
        Assert.StartsWith(
            $$"""
            # HELP fleet_vm_limiter_passed_operations_total Operations that a rate limiter let pass.
            # TYPE fleet_vm_limiter_passed_operations_total counter
            fleet_vm_limiter_passed_operations_total{host="b",vm="{{vm}}",limiter="entropy"} 7
            # HELP fleet_vm_limiter_passed_bytes_total Bytes that a rate limiter let pass.
            # TYPE fleet_vm_limiter_passed_bytes_total counter
            fleet_vm_limiter_passed_bytes_total{host="b",vm="{{vm}}",limiter="entropy"} 448
            # HELP fleet_vm_limiter_throttled_total Requests that had to wait for a rate limiter.
            # TYPE fleet_vm_limiter_throttled_total counter
            fleet_vm_limiter_throttled_total{host="b",vm="{{vm}}",limiter="entropy"} 2
            # HELP fleet_vm_limiter_throttled_seconds_total Time that requests waited for a rate limiter.
            # TYPE fleet_vm_limiter_throttled_seconds_total counter
            fleet_vm_limiter_throttled_seconds_total{host="b",vm="{{vm}}",limiter="entropy"} 1.5

            """,
            answer.Text, StringComparison.Ordinal);
        _figures.Remove("b", newer);
        Assert.DoesNotContain("host=", (await _api.GetAsync("/metrics")).Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Metrics_tell_what_a_host_and_its_microVMs_use_and_wait_for()
    {
        const string vm = "vm-00000000000000000000000001";
        object stream = new();
        _figures.Put("b", stream, new UsageSample
        {
            Machine = new MachineUse { CpuMillis = 1500, MemoryKib = 2, CpuWaitMillis = 250, StealPermille = 20, Stalls = new StallFigures { CpuSome = 100, MemoryFull = 1 } },
            Vms = { new VmUse { VmId = vm, Epoch = 1, CpuMillis = 700, MemoryKib = 1, CpuWaitMillis = 125, BalloonMib = 2, VcpusHeldBack = 1, Credits = new CpuCreditFigures { BalanceMs = -2500 } } },
        });
        _figures.Put("b", stream, [Figure(vm)]);
        _figures.Put("b", stream, new PressureReport { Cpu = PressureRung.Closed, Memory = PressureRung.Calm });
        var lines = (await _api.GetAsync("/metrics")).Text.Split('\n');
        Assert.Contains("# TYPE fleet_host_cpus_used gauge", lines);
        Assert.Contains("fleet_host_cpus_used{host=\"b\"} 1.5", lines);
        Assert.Contains("fleet_host_memory_used_bytes{host=\"b\"} 2048", lines);
        Assert.Contains("fleet_host_pressure{host=\"b\",of=\"cpu\"} 2", lines);
        Assert.Contains("fleet_host_vcpus_waiting{host=\"b\"} 0.25", lines);
        Assert.Contains("fleet_host_stolen_ratio{host=\"b\"} 0.02", lines);
        Assert.Contains("fleet_host_stalled_cpu_ratio{host=\"b\"} 0.1", lines);
        Assert.Contains("fleet_host_stalled_memory_full_ratio{host=\"b\"} 0.001", lines);
        Assert.Contains($"fleet_vm_vcpus_waiting{{host=\"b\",vm=\"{vm}\"}} 0.125", lines);
        Assert.Contains($"fleet_vm_balloon_bytes{{host=\"b\",vm=\"{vm}\"}} 2097152", lines);
        Assert.Contains($"fleet_vm_vcpus_held_back{{host=\"b\",vm=\"{vm}\"}} 1", lines);
        Assert.Contains($"fleet_vm_cpu_credits_seconds{{host=\"b\",vm=\"{vm}\"}} -2.5", lines);
        // It has no control group that tells.
        Assert.DoesNotContain(lines, line => line.StartsWith("fleet_vm_stalled_memory_ratio{", StringComparison.Ordinal));
        Assert.Contains($"fleet_vm_limiter_throttled_total{{host=\"b\",vm=\"{vm}\",limiter=\"entropy\"}} 2", lines);
    }
}
