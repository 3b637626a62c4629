using System.Text.Json;
using CsCheck;
using Xunit;

namespace Fleet.Scheduler.Tests.Api;

public sealed class RefusedBodyTests(RefusedBodyTests.OneApi shared) : IClassFixture<RefusedBodyTests.OneApi>
{
    private readonly ApiUnderTest _api = shared.Api;

    /// <summary>One server for all the cases, which share nothing else.</summary>
    public sealed class OneApi : IAsyncLifetime
    {
        internal ApiUnderTest Api { get; } = ApiUnderTest.Start();

        public Task InitializeAsync() => Task.CompletedTask;

        public async Task DisposeAsync() => await Api.DisposeAsync();
    }

    [Theory]
    [InlineData("""{"cpus": 0}""", "invalid_field", "cpus")]
    [InlineData("""{"cpus": 33}""", "invalid_field", "cpus")]
    [InlineData("""{"cpus": -1}""", "invalid_field", "cpus")]
    [InlineData("""{"cpus": "2"}""", "invalid_field", "cpus")]
    [InlineData("""{"cpus": 1.5}""", "invalid_field", "cpus")]
    [InlineData("""{"cpus": true}""", "invalid_field", "cpus")]
    [InlineData("""{"cpus": 1e99}""", "invalid_field", "cpus")]
    [InlineData("""{"memory_mib": 0}""", "invalid_field", "memory_mib")]
    [InlineData("""{"memory_mib": -1}""", "invalid_field", "memory_mib")]
    [InlineData("""{"memory_mib": 31}""", "invalid_field", "memory_mib")]
    [InlineData("""{"memory_mib": 1000000000}""", "invalid_field", "memory_mib")]
    [InlineData("""{"memory_mib": 99999999999999999999}""", "invalid_field", "memory_mib")]
    [InlineData("""{"memory": 128}""", "unknown_field", "memory")]
    [InlineData("""{"Cpus": 1}""", "unknown_field", "Cpus")]
    [InlineData("""{"boot": {"kernel": "/k"}}""", "unknown_field", "boot.kernel")]
    [InlineData("""{"boot": {"kernel_path": 1}}""", "invalid_field", "boot.kernel_path")]
    [InlineData("""{"boot": {"kernel_path": "k"}}""", "invalid_field", "boot.kernel_path")]
    [InlineData("""{"boot": {"kernel_path": ""}}""", "invalid_field", "boot.kernel_path")]
    [InlineData("""{"boot": {"kernel_path": "/a\u0000b"}}""", "invalid_field", "boot.kernel_path")]
    [InlineData("""{"boot": {"kernel_path": "/k", "initrd_path": "i"}}""", "invalid_field", "boot.initrd_path")]
    [InlineData("""{"boot": {"kernel_path": "/k", "boot_args": "a\nb"}}""", "invalid_field", "boot.boot_args")]
    [InlineData("""{"boot": {}}""", "missing_field", "boot.kernel_path")]
    [InlineData("""{"image": "Not A Name"}""", "invalid_field", "image")]
    [InlineData("""{"image": "a@sha256:12"}""", "invalid_field", "image")]
    [InlineData("""{"image": "oci:relative"}""", "invalid_field", "image")]
    [InlineData("""{"image": 1}""", "invalid_field", "image")]
    [InlineData("""{"image": "nginx", "boot": {"kernel_path": "/k"}}""", "invalid_field", "image")]
    [InlineData("""{"boot": "/k"}""", "invalid_field", "boot")]
    [InlineData("""{"boot": []}""", "invalid_field", "boot")]
    [InlineData("""{"name": ""}""", "invalid_field", "name")]
    [InlineData("""{"name": "Hello"}""", "invalid_field", "name")]
    [InlineData("""{"name": "-a"}""", "invalid_field", "name")]
    [InlineData("""{"name": "a-"}""", "invalid_field", "name")]
    [InlineData("""{"name": "a/b"}""", "invalid_field", "name")]
    [InlineData("""{"name": 7}""", "invalid_field", "name")]
    [InlineData("""{"name": "vm-01jd8mbr4v3s6q8k2n0x5t7w9z"}""", "invalid_field", "name")]
    [InlineData("""{"command": "sh"}""", "invalid_field", "command")]
    [InlineData("""{"command": ["sh", 1]}""", "invalid_field", "command[1]")]
    [InlineData("""{"command": ["sh", null]}""", "invalid_field", "command[1]")]
    [InlineData("""{"command": ["sh", "a\u0000b"]}""", "invalid_field", "command[1]")]
    [InlineData("""{"command": [""]}""", "invalid_field", "command[0]")]
    [InlineData("""{"env": []}""", "invalid_field", "env")]
    [InlineData("""{"env": {"A": null}}""", "invalid_field", "env.A")]
    [InlineData("""{"env": {"1A": "x"}}""", "invalid_field", "env.1A")]
    [InlineData("""{"env": {"A=B": "x"}}""", "invalid_field", "env.A=B")]
    [InlineData("""{"env": {"": "x"}}""", "invalid_field", "env.")]
    [InlineData("""{"env": {"A": "x\u0000"}}""", "invalid_field", "env.A")]
    [InlineData("""{"labels": {"A": "x"}}""", "invalid_field", "labels.A")]
    [InlineData("""{"host_labels": {"A": "x"}}""", "invalid_field", "host_labels.A")]
    [InlineData("""{"zones": ["a", ""]}""", "invalid_field", "zones[1]")]
    [InlineData("""{"zones": ["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"]}""", "invalid_field", "zones")]
    [InlineData("""{"priority": "urgent"}""", "invalid_field", "priority")]
    [InlineData("""{"placement": []}""", "invalid_field", "placement")]
    [InlineData("""{"placement": {"group": "web"}}""", "unknown_field", "placement.group")]
    [InlineData("""{"placement": {"groups": ["web", "Web"]}}""", "invalid_field", "placement.groups[1]")]
    [InlineData("""{"placement": {"groups": ["web", "web"]}}""", "invalid_field", "placement.groups[1]")]
    [InlineData("""{"placement": {"groups": ["a", "b", "c", "d", "e"]}}""", "invalid_field", "placement.groups")]
    [InlineData("""{"placement": {"affinity": [{}]}}""", "missing_field", "placement.affinity[0].group")]
    [InlineData("""{"placement": {"affinity": [{"group": "web", "within": "rack"}]}}""", "invalid_field", "placement.affinity[0].within")]
    [InlineData("""{"placement": {"affinity": [{"group": "web", "apart": "no"}]}}""", "invalid_field", "placement.affinity[0].apart")]
    [InlineData("""{"placement": {"affinity": [{"vm": "nobody"}]}}""", "invalid_field", "placement.affinity[0].vm")]
    [InlineData("""{"placement": {"affinity": [{"group": "other/"}]}}""", "invalid_field", "placement.affinity[0].group")]
    [InlineData("""{"placement": {"spread": [{"over": "zone"}]}}""", "missing_field", "placement.spread[0].group")]
    [InlineData("""{"placement": {"spread": [{"group": "web", "over": "cell"}]}}""", "invalid_field", "placement.spread[0].over")]
    [InlineData("""{"placement": {"spread": [{"group": "web", "most_ahead": 0}]}}""", "invalid_field", "placement.spread[0].most_ahead")]
    [InlineData("""{"placement": {"spread": [{"group": "web"}, {"group": "db"}]}}""", "invalid_field", "placement.spread[1]")]
    [InlineData("""{"labels": {"a": 1}}""", "invalid_field", "labels.a")]
    [InlineData("""{"driver": "xen"}""", "invalid_field", "driver")]
    [InlineData("""{"restart": "sometimes"}""", "invalid_field", "restart")]
    [InlineData("""{"fencing": "none"}""", "invalid_field", "fencing")]
    [InlineData("""{"health": {}}""", "invalid_field", "health")]
    [InlineData("""{"health": {"port": 80, "command": ["true"]}}""", "invalid_field", "health")]
    [InlineData("""{"health": {"port": 80}, "driver": "simulated"}""", "invalid_field", "health")]
    [InlineData("""{"health": {"port": 65536}}""", "invalid_field", "health.port")]
    [InlineData("""{"health": {"port": 80, "http_path": "no slash"}}""", "invalid_field", "health.http_path")]
    [InlineData("""{"health": {"command": ["true"], "http_path": "/"}}""", "invalid_field", "health.http_path")]
    [InlineData("""{"health": {"command": [""]}}""", "invalid_field", "health.command[0]")]
    [InlineData("""{"health": {"port": 80, "timeout_seconds": 0}}""", "invalid_field", "health.timeout_seconds")]
    [InlineData("""{"host": ""}""", "invalid_field", "host")]
    [InlineData("""{"host": "A"}""", "invalid_field", "host")]
    [InlineData("""{"boot_timeout_seconds": 3601}""", "invalid_field", "boot_timeout_seconds")]
    [InlineData("""{"boot_timeout_seconds": -1}""", "invalid_field", "boot_timeout_seconds")]
    [InlineData("""{"simulated": {}}""", "invalid_field", "simulated")]
    [InlineData("""{"driver": "simulated", "simulated": {"exit_status": 256}}""", "invalid_field", "simulated.exit_status")]
    [InlineData("""{"driver": "simulated", "simulated": {"boot_ms": -1}}""", "invalid_field", "simulated.boot_ms")]
    [InlineData("""{"driver": "simulated", "simulated": {"cpu_percent": [1, 101], "step_ms": 1000}}""", "invalid_field", "simulated.cpu_percent[1]")]
    [InlineData("""{"driver": "simulated", "simulated": {"cpu_percent": 5, "step_ms": 1000}}""", "invalid_field", "simulated.cpu_percent")]
    [InlineData("""{"driver": "simulated", "simulated": {"cpu_percent": [5]}}""", "invalid_field", "simulated.step_ms")]
    [InlineData("""{"driver": "simulated", "simulated": {"fault": "explodes"}}""", "invalid_field", "simulated.fault")]
    [InlineData("""{"rate_limits": []}""", "invalid_field", "rate_limits")]
    [InlineData("""{"rate_limits": {"entropy": null}}""", "invalid_field", "rate_limits.entropy")]
    [InlineData("""{"rate_limits": {"disk": {"ops": {"size": 1, "refill_time_ms": 1}}}}""", "invalid_field", "rate_limits")]
    [InlineData("""{"rate_limits": {"entropy": {}}}""", "invalid_field", "rate_limits.entropy.bandwidth")]
    [InlineData("""{"rate_limits": {"entropy": {"bytes": {}}}}""", "unknown_field", "rate_limits.entropy.bytes")]
    [InlineData("""{"rate_limits": {"entropy": {"ops": {"refill_time_ms": 1}}}}""", "missing_field", "rate_limits.entropy.ops.size")]
    [InlineData("""{"rate_limits": {"entropy": {"ops": {"size": 1}}}}""", "missing_field", "rate_limits.entropy.ops.refill_time_ms")]
    [InlineData("""{"rate_limits": {"entropy": {"ops": {"size": 0, "refill_time_ms": 1}}}}""", "invalid_field", "rate_limits.entropy.ops.size")]
    [InlineData("""{"rate_limits": {"entropy": {"bandwidth": {"size": 1125899906842625, "refill_time_ms": 1}}}}""", "invalid_field", "rate_limits.entropy.bandwidth.size")]
    [InlineData("""{"rate_limits": {"entropy": {"ops": {"size": 1, "refill_time_ms": 3600001}}}}""", "invalid_field", "rate_limits.entropy.ops.refill_time_ms")]
    [InlineData("""{"rate_limits": {"entropy": {"ops": {"size": 1, "refill_time_ms": 1, "one_time_burst": -1}}}}""", "invalid_field", "rate_limits.entropy.ops.one_time_burst")]
    [InlineData("""{"driver": "qemu", "rate_limits": {"entropy": {"ops": {"size": 1, "refill_time_ms": 1}}}}""", "invalid_field", "rate_limits")]
    [InlineData("""{"network": "host"}""", "invalid_field", "network")]
    [InlineData("""{"network": "tenant", "driver": "simulated"}""", "invalid_field", "network")]
    [InlineData("""{"ports": [{"host": 80}]}""", "invalid_field", "ports")]
    [InlineData("""{"network": "tenant", "ports": [{"guest": 80}]}""", "missing_field", "ports[0].host")]
    [InlineData("""{"network": "tenant", "ports": [{"host": 65536}]}""", "invalid_field", "ports[0].host")]
    [InlineData("""{"network": "tenant", "ports": [{"host": 80, "protocol": "sctp"}]}""", "invalid_field", "ports[0].protocol")]
    [InlineData("""{"network": "tenant", "ports": [{"host": 80, "port": 80}]}""", "unknown_field", "ports[0].port")]
    [InlineData("""{"network": "tenant", "ports": [{"host": 80}, {"host": 80, "guest": 81}]}""", "invalid_field", "ports[1].host")]
    [InlineData("""{"rate_limits": {"net.rx": {"ops": {"size": 1, "refill_time_ms": 1}}}}""", "invalid_field", "rate_limits.net.rx")]
    [InlineData("", "invalid_json", null)]
    [InlineData("{", "invalid_json", null)]
    [InlineData("{} {}", "invalid_json", null)]
    [InlineData("null", "invalid_json", null)]
    [InlineData("[]", "invalid_json", null)]
    [InlineData("\"x\"", "invalid_json", null)]
    [InlineData("""{"cpus": 1,}""", "invalid_json", null)]
    [InlineData("""{"cpus": 1, "cpus": 2}""", "invalid_json", null)]
    [InlineData("""{"cpus": 1, "\u0063pus": 2}""", "invalid_json", null)]
    [InlineData("""{"name": "\ud800"}""", "invalid_json", null)]
    [InlineData("""{"\ud800": 1}""", "invalid_json", null)]
    [InlineData("""{"env": {"\ud800": "x"}}""", "invalid_json", null)]
    [InlineData("""// comment""", "invalid_json", null)]
    public async Task Wrong_bodies_are_refused_and_leave_nothing(string body, string code, string? field)
    {
        var key = Guid.NewGuid().ToString("n");
        var before = _api.Cell.Creates;
        (await _api.PostAsync("/v1/vms", body, key)).Problem(400, code, field);
        Assert.Equal(before, _api.Cell.Creates);
        // The key is not used up.
        Assert.Equal(201, (await _api.PostAsync("/v1/vms", "{}", key)).Status);
    }

    [Fact]
    public async Task A_range_error_names_the_range()
    {
        Assert.Equal("memory_mib must be from 32 to 1048576, and is 1000000000.",
            (await _api.PostAsync("/v1/vms", """{"memory_mib": 1000000000}""")).Problem(400, "invalid_field", "memory_mib"));
        Assert.Equal("cpus must be a whole number, and is a string.",
            (await _api.PostAsync("/v1/vms", """{"cpus": "2"}""")).Problem(400, "invalid_field", "cpus"));
    }

    [Fact]
    public async Task Sizes_are_bounded()
    {
        (await _api.PostAsync("/v1/vms", Json(new { command = new[] { new string('x', 65_536) } }))).Problem(400, "invalid_field", "command");
        Assert.Equal(201, (await _api.PostAsync("/v1/vms", Json(new { command = new[] { new string('x', 65_535) } }))).Status);
        (await _api.PostAsync("/v1/vms", Json(new { command = Enumerable.Repeat("x", 1025) }))).Problem(400, "invalid_field", "command");
        (await _api.PostAsync("/v1/vms", Json(new { env = new { A = new string('x', 32_768) } }))).Problem(400, "invalid_field", "env");
        (await _api.PostAsync("/v1/vms", Json(new { labels = Enumerable.Range(0, 65).ToDictionary(i => $"l{i}", _ => "") }))).Problem(400, "invalid_field", "labels");
        (await _api.PostAsync("/v1/vms", Json(new { name = new string('a', 64) }))).Problem(400, "invalid_field", "name");
        (await _api.PostAsync("/v1/vms", Json(new { boot = new { kernel_path = "/" + new string('ü', 2048) } }))).Problem(400, "invalid_field", "boot.kernel_path");
        (await _api.PostAsync("/v1/vms", string.Concat(Enumerable.Repeat("""{"boot":""", 100)) + new string('}', 100))).Problem(400, "invalid_json");
    }

    [Fact]
    public async Task A_body_above_one_MiB_is_too_large()
    {
        Assert.Equal(201, (await _api.PostAsync("/v1/vms", new string(' ', 1024 * 1024 - 2) + "{}")).Status);
        var before = _api.Cell.Creates;
        (await _api.PostAsync("/v1/vms", new string(' ', 1024 * 1024 - 1) + "{}")).Problem(413, "payload_too_large");
        using var chunked = new HttpRequestMessage(HttpMethod.Post, "/v1/vms") { Content = new StringContent(new string(' ', 1_200_000), null, "application/json") };
        chunked.Headers.TransferEncodingChunked = true;
        (await _api.SendAsync(chunked)).Problem(413, "payload_too_large");
        // Far above, the server may hang up while the client still sends; it must not take it in.
        using var huge = new HttpRequestMessage(HttpMethod.Post, "/v1/vms") { Content = new StringContent(new string(' ', 20_000_000), null, "application/json") };
        huge.Headers.ExpectContinue = true;
        (await _api.SendAsync(huge)).Problem(413, "payload_too_large");
        Assert.Equal(before, _api.Cell.Creates);
    }

    [Theory]
    [InlineData("text/plain")]
    [InlineData("application/x-www-form-urlencoded")]
    [InlineData("application/json; charset=latin1")]
    public async Task Another_content_type_is_refused(string contentType)
    {
        (await _api.SendAsync(HttpMethod.Post, "/v1/vms", "{}", contentType: contentType)).Problem(415, "unsupported_media_type");
        var id = (string)(await _api.PostAsync("/v1/vms", "{}")).Json["id"]!;
        (await _api.SendAsync(HttpMethod.Post, $"/v1/vms/{id}/stop", "{}", contentType: contentType)).Problem(415, "unsupported_media_type");
    }

    /// <summary>Whatever bytes come: an answer below 500, and a problem unless it was created.</summary>
    [Fact]
    public void Any_body_gets_a_clean_answer()
    {
        var text = Gen.OneOf(Gen.String[0, 12], Gen.OneOf("/boot/vmlinuz", "hello", "auto", "simulated", "\\ud800", "\u0000", "vm_dies"));
        var names = Gen.OneOf("name", "cpus", "memory_mib", "command", "env", "driver", "boot", "kernel_path", "initrd_path", "boot_args",
            "boot_timeout_seconds", "labels", "host", "simulated", "boot_ms", "fault", "", "x", "NAME");
        var number = Gen.OneOf(Gen.Long.Select(n => n.ToString(System.Globalization.CultureInfo.InvariantCulture)),
            Gen.Int[-1, 300].Select(n => n.ToString(System.Globalization.CultureInfo.InvariantCulture)),
            Gen.OneOf("1e5", "-0", "0.5", "1E400", "00", "NaN", "18446744073709551616"));
        var value = Gen.Recursive<string>((depth, inner) => depth > 3
            ? number
            : Gen.OneOf(
                number,
                Gen.OneOf("true", "false", "null", "", "{", "]"),
                text.Select(t => JsonSerializer.Serialize(t)),
                inner.Array[0, 4].Select(items => $"[{string.Join(",", items)}]"),
                Gen.Select(names, inner).Array[0, 5].Select(pairs => "{" + string.Join(",", pairs.Select(p => $"\"{p.Item1}\":{p.Item2}")) + "}")));
        Gen.OneOf(value, Gen.String, Gen.Select(names, value).Array[0, 6].Select(pairs => "{" + string.Join(",", pairs.Select(p => $"\"{p.Item1}\":{p.Item2}")) + "}"))
            .Sample(body =>
            {
                var answer = _api.PostAsync("/v1/vms", body).GetAwaiter().GetResult();
                if (answer.Status is 201 or 409)
                    return;
                Assert.InRange(answer.Status, 400, 499);
                answer.Problem(answer.Status, (string)answer.Json["code"]!, (string?)answer.Json["field"]);
            }, iter: 2000, threads: 2);
    }

    private static string Json(object body) => JsonSerializer.Serialize(body);
}
