using System.Net.Http.Headers;
using System.Text.Json.Nodes;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Tests.Api;
using Xunit;

namespace Fleet.Scheduler.Tests.Access;

/// <summary>Who may do what at the API: without a token, with a wrong one, with one that ended, and as a tenant among others.</summary>
public sealed class ApiAccessTests : IAsyncLifetime
{
    private readonly ApiUnderTest _api = ApiUnderTest.Start(before: cell => cell.Connect("h1"));

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync() => await _api.DisposeAsync();

    private async Task<Answer> SendAsync(string? authorization, HttpMethod method, string path, string? json = null, string? key = null)
    {
        using var http = new HttpClient(new SocketsHttpHandler { UseProxy = false }) { BaseAddress = _api.Http.BaseAddress };
        using var request = new HttpRequestMessage(method, path);
        if (authorization is not null)
            request.Headers.TryAddWithoutValidation("Authorization", authorization);
        if (key is not null)
            request.Headers.Add("Idempotency-Key", key);
        if (json is not null)
            request.Content = new StringContent(json, System.Text.Encoding.UTF8, "application/json");
        using var response = await http.SendAsync(request);
        return new((int)response.StatusCode, await response.Content.ReadAsStringAsync(), response.Content.Headers.ContentType?.MediaType,
            response.Headers.Concat(response.Content.Headers).ToDictionary(h => h.Key, h => string.Join(",", h.Value)));
    }

    private async Task<string> TenantAsync(string tenant) => "Bearer " + await _api.TokenAsync(new(TokenRole.Tenant) { Tenant = tenant });

    private static async Task<string> IdAsync(Task<Answer> create)
    {
        var answer = await create;
        Assert.True(answer.Status == 201, answer.Text);
        return (string)answer.Json["id"]!;
    }

    /// <summary>Every operation of the document, so that one that is added is asked too.</summary>
    private async Task<List<(HttpMethod Method, string Path, JsonNode Operation)>> OperationsAsync() =>
        [.. (await _api.GetAsync("/openapi/v1.json")).Json["paths"]!.AsObject().SelectMany(path => path.Value!.AsObject()
            .Select(one => (new HttpMethod(one.Key.ToUpperInvariant()), path.Key.Replace("{id}", "x", StringComparison.Ordinal).Replace("{limiter}", "entropy", StringComparison.Ordinal), one.Value!)))];

    [Fact]
    public async Task Nothing_but_health_and_the_root_certificate_is_open()
    {
        foreach (var (method, path, operation) in await OperationsAsync())
        {
            var answer = await SendAsync(null, method, path);
            if (path is "/v1/health" or "/v1/authority")
            {
                Assert.Equal(200, answer.Status);
                Assert.Null(operation["security"]);
                continue;
            }
            answer.Problem(401, "unauthenticated");
            Assert.Equal("Bearer", answer.Headers["WWW-Authenticate"]);
            Assert.NotNull(operation["security"]);
        }
        foreach (var path in new[] { "/", "/openapi/v1.json", "/v1/admin/palettes", "/nothing" })
            (await SendAsync(null, HttpMethod.Get, path)).Problem(401, "unauthenticated");
    }

    [Fact]
    public async Task Health_tells_strangers_no_more_than_that_it_is_well()
    {
        var open = await SendAsync(null, HttpMethod.Get, "/v1/health");
        Assert.Equal("""{"status":"ok","version":null,"pid":null}""", open.Text);
        Assert.Equal(Environment.ProcessId, (int)(await _api.GetAsync("/v1/health")).Json["pid"]!);
        (await SendAsync("Bearer nonsense", HttpMethod.Get, "/v1/health")).Problem(401, "unauthenticated");
    }

    [Fact]
    public async Task Wrong_expired_and_revoked_tokens_are_refused_and_the_log_says_why_but_never_what()
    {
        var good = await _api.TokenAsync(new(TokenRole.Admin) { Life = TimeSpan.FromHours(1) });
        Assert.Equal(200, (await SendAsync($"Bearer {good}", HttpMethod.Get, "/v1/vms")).Status);
        Assert.Equal(200, (await SendAsync($"bearer   {good} ", HttpMethod.Get, "/v1/vms")).Status);
        foreach (var wrong in new[] { "", "Bearer", "Bearer ", "Basic YWRtaW46YWRtaW4=", good, $"Bearer {good[..^1]}", $"Bearer {good} {good}", $"Bearer {new string('a', 8000)}" })
            (await SendAsync(wrong, HttpMethod.Get, "/v1/vms")).Problem(401, "unauthenticated");

        var id = good.Split('.')[1];
        Assert.Equal(200, (await _api.DeleteAsync($"/v1/tokens/{id}")).Status);
        Assert.Contains("revoked", (await SendAsync($"Bearer {good}", HttpMethod.Get, "/v1/vms")).Problem(401, "unauthenticated"), StringComparison.Ordinal);
        var brief = await _api.TokenAsync(new(TokenRole.Admin) { Life = TimeSpan.FromMinutes(1) });
        _api.Clock.Advance(TimeSpan.FromMinutes(1));
        Assert.Contains("expired", (await SendAsync($"Bearer {brief}", HttpMethod.Get, "/v1/vms")).Problem(401, "unauthenticated"), StringComparison.Ordinal);

        Assert.Contains(_api.Log.Lines, line => line.Contains("127.0.0.1", StringComparison.Ordinal) && line.Contains("revoked", StringComparison.Ordinal));
        foreach (var secret in new[] { good.Split('.')[2], brief.Split('.')[2] })
            Assert.DoesNotContain(_api.Log.Lines, line => line.Contains(secret, StringComparison.Ordinal));
    }

    [Fact]
    public async Task The_log_says_who_made_each_change_and_was_refused()
    {
        var (acme, evil) = (await _api.TokenAsync(new(TokenRole.Tenant) { Tenant = "acme" }), await _api.TokenAsync(new(TokenRole.Tenant) { Tenant = "evil" }));
        var vm = await IdAsync(SendAsync($"Bearer {acme}", HttpMethod.Post, "/v1/vms", """{"name": "web"}"""));
        await LoggedAsync($"POST /v1/vms of 127.0.0.1 by token {acme.Split('.')[1]} (tenant acme) answered 201 /v1/vms/{vm} in ");
        var thief = $"of 127.0.0.1 by token {evil.Split('.')[1]} (tenant evil) answered";
        foreach (var (method, path) in new[] { (HttpMethod.Get, ""), (HttpMethod.Get, "/console"), (HttpMethod.Get, "/rate_limits"), (HttpMethod.Post, "/stop"), (HttpMethod.Post, "/start"), (HttpMethod.Delete, "") })
        {
            (await SendAsync($"Bearer {evil}", method, $"/v1/vms/{vm}{path}")).Problem(404, "not_found");
            await LoggedAsync($"{method} /v1/vms/{vm}{path} {thief} 404 not_found in ");
        }
        (await SendAsync($"Bearer {evil}", HttpMethod.Get, "/v1/hosts")).Problem(403, "forbidden");
        await LoggedAsync($"GET /v1/hosts {thief} 403 forbidden in ");
        (await SendAsync(null, HttpMethod.Post, "/v1/health")).Problem(401, "unauthenticated");
        await LoggedAsync("POST /v1/health of 127.0.0.1 was refused: unauthenticated, ");
        Assert.Equal(202, (await _api.DeleteAsync($"/v1/vms/{vm}")).Status);
        await LoggedAsync($"DELETE /v1/vms/{vm} of 127.0.0.1 by token ", "(admin) answered 202 in ");

        // What went well and changed nothing is not told, nor a wait that took its time, and refused reads within a bound.
        Assert.Equal(200, (await SendAsync($"Bearer {acme}", HttpMethod.Get, "/v1/vms")).Status);
        for (var i = 0; i < 50; i++)
            (await SendAsync($"Bearer {evil}", HttpMethod.Get, "/v1/vms/nothing")).Problem(404, "not_found");
        Assert.DoesNotContain(_api.Log.Lines, line => line.StartsWith("GET /v1/vms of", StringComparison.Ordinal));
        Assert.InRange(_api.Log.Lines.Count(line => line.StartsWith("GET /v1/vms/nothing", StringComparison.Ordinal)), 1, 20);
        foreach (var secret in new[] { acme, evil })
            Assert.DoesNotContain(_api.Log.Lines, line => line.Contains(secret.Split('.')[2], StringComparison.Ordinal));

        Task LoggedAsync(string start, string more = "") => ApiUnderTest.UntilAsync(() => _api.Log.Lines.Any(line =>
            line.StartsWith(start, StringComparison.Ordinal) && line.Contains(more, StringComparison.Ordinal)));
    }

    [Theory]
    [InlineData(TokenRole.Host)]
    [InlineData(TokenRole.Scheduler)]
    public async Task What_is_for_joining_is_good_for_nothing_here(TokenRole role)
    {
        var token = await _api.TokenAsync(new(role));
        foreach (var path in new[] { "/v1/vms", "/v1/tokens", "/v1/hosts", "/metrics", "/nothing" })
            (await SendAsync($"Bearer {token}", HttpMethod.Get, path)).Problem(403, "forbidden");
    }

    [Fact]
    public async Task A_tenant_may_do_what_the_document_says_and_not_more()
    {
        var acme = await TenantAsync("acme");
        foreach (var (method, path, operation) in await OperationsAsync())
        {
            if (path.StartsWith("/v1/changes/stream", StringComparison.Ordinal))
                continue; // does not end
            var answer = await SendAsync(acme, method, path);
            if ((string?)operation["description"] == "Needs a token of role admin.")
                answer.Problem(403, "forbidden");
            else
                Assert.NotInRange(answer.Status, 401, 403);
        }
        (await SendAsync(acme, HttpMethod.Get, "/nothing")).Problem(404, "not_found");
    }

    [Fact]
    public async Task A_tenant_can_not_even_tell_that_anothers_microVM_exists()
    {
        var (acme, evil) = (await TenantAsync("acme"), await TenantAsync("evil"));
        var own = await IdAsync(SendAsync(acme, HttpMethod.Post, "/v1/vms", """{"name": "web"}"""));
        var nobodys = await _api.CreateAsync("infra");
        foreach (var target in new[] { own, nobodys, "web", "infra" })
        {
            foreach (var (method, path, json) in new[]
            {
                (HttpMethod.Get, "", null), (HttpMethod.Get, "/wait?state=running&timeout=0", null), (HttpMethod.Get, "/console", null),
                (HttpMethod.Get, "/rate_limits", null), (HttpMethod.Post, "/stop", (string?)null), (HttpMethod.Post, "/start", null),
                (HttpMethod.Post, "/console", "x"), (HttpMethod.Delete, "", null), (HttpMethod.Delete, "/rate_limits/entropy", null),
                (HttpMethod.Put, "/rate_limits/entropy", """{"ops": {"size": 1, "refill_time_ms": 1}}"""),
            })
            {
                // Nothing tells it from one that never was.
                var never = Other(target);
                var answer = await SendAsync(evil, method, $"/v1/vms/{target}{path}", json);
                Assert.Equal((await SendAsync(evil, method, $"/v1/vms/{never}{path}", json)).Problem(404, "not_found").Replace(never, target, StringComparison.Ordinal),
                    answer.Problem(404, "not_found"));
            }
        }
        Assert.Equal("pending", (string)(await SendAsync(acme, HttpMethod.Get, "/v1/vms/web")).Json["state"]!);
        Assert.Equal(202, (await SendAsync(acme, HttpMethod.Delete, "/v1/vms/web")).Status);
        Assert.Equal(202, (await _api.DeleteAsync($"/v1/vms/{nobodys}")).Status);

        static string Other(string target) => target.StartsWith("vm-", StringComparison.Ordinal) ? Fleet.Shared.Vms.VmId.New(TimeProvider.System) : "never-was";
    }

    [Fact]
    public async Task Lists_and_changes_show_a_tenant_its_own_alone()
    {
        var (acme, evil) = (await TenantAsync("acme"), await TenantAsync("evil"));
        await IdAsync(SendAsync(acme, HttpMethod.Post, "/v1/vms", """{"name": "web"}"""));
        await IdAsync(SendAsync(evil, HttpMethod.Post, "/v1/vms", """{"name": "miner"}"""));
        await _api.CreateAsync("infra");

        async Task<string> NamesAsync(string who, string query = "") => string.Join(",", (await SendAsync(who, HttpMethod.Get, "/v1/vms" + query)).Json["items"]!.AsArray().Select(vm => (string)vm!["name"]!).Order());
        Assert.Equal("web", await NamesAsync(acme));
        Assert.Equal("web", await NamesAsync(acme, "?tenant=evil"));
        Assert.Equal("miner", await NamesAsync(evil));
        var admin = "Bearer " + await _api.TokenAsync(new(TokenRole.Admin));
        Assert.Equal("infra,miner,web", await NamesAsync(admin));
        Assert.Equal("miner", await NamesAsync(admin, "?tenant=evil"));

        async Task<string[]> KindsAsync(string who) => [.. (await SendAsync(who, HttpMethod.Get, "/v1/changes")).Json["changes"]!.AsArray().Select(change => (string?)change!["object"]!["name"] ?? (string)change["id"]!)];
        Assert.Equal(["web"], (await KindsAsync(acme)).Distinct());
        Assert.Equal(["miner"], (await KindsAsync(evil)).Distinct());
        Assert.Equal(["h1", "infra", "miner", "web"], (await KindsAsync(admin)).Distinct().Order());
    }

    [Fact]
    public async Task Names_and_keys_are_each_tenants_own()
    {
        var (acme, evil) = (await TenantAsync("acme"), await TenantAsync("evil"));
        var first = await IdAsync(SendAsync(acme, HttpMethod.Post, "/v1/vms", """{"name": "web"}""", key: "k"));
        var second = await IdAsync(SendAsync(evil, HttpMethod.Post, "/v1/vms", """{"name": "web"}""", key: "k"));
        var third = await _api.CreateAsync("web");
        Assert.Equal(3, new HashSet<string> { first, second, third }.Count);
        Assert.Equal(first, await IdAsync(SendAsync(acme, HttpMethod.Post, "/v1/vms", """{"name": "web"}""", key: "k")));
        (await SendAsync(evil, HttpMethod.Post, "/v1/vms", """{"name": "web"}""")).Problem(409, "name_taken", "name");
        Assert.Equal(first, (string)(await SendAsync(acme, HttpMethod.Get, "/v1/vms/web")).Json["id"]!);
        Assert.Equal(second, (string)(await SendAsync(evil, HttpMethod.Get, "/v1/vms/web")).Json["id"]!);
        Assert.Equal(third, (string)(await _api.GetAsync("/v1/vms/web")).Json["id"]!);
        Assert.Equal("acme", (string)(await _api.GetAsync($"/v1/vms/{first}")).Json["tenant"]!);
        Assert.Null((await _api.GetAsync($"/v1/vms/{third}")).Json["tenant"]);
    }

    [Fact]
    public async Task A_tenant_has_no_say_in_whose_or_where_or_by_which_kernel()
    {
        var acme = await TenantAsync("acme");
        foreach (var (field, body) in new[] { ("tenant", """{"tenant": "evil"}"""), ("host", """{"host": "h1"}"""), ("driver", """{"driver": "qemu"}"""), ("simulated", """{"driver": "simulated", "simulated": {"fault": "launch_fails"}}"""), ("boot", """{"boot": {"kernel_path": "/etc/passwd"}}"""), ("image", """{"image": "oci:/srv/image"}"""), ("image", """{"image": "localhost:5000/a"}"""), ("image", """{"image": "127.0.0.2/a"}"""), ("priority", """{"priority": "high"}"""), ("ports", """{"network": "tenant", "ports": [{"host": 22}]}"""), ("host_labels.disk", """{"host_labels": {"public/gpu": "yes", "disk": "ssd"}}""") })
            (await SendAsync(acme, HttpMethod.Post, "/v1/vms", body)).Problem(403, "forbidden", field);
        var own = await SendAsync(acme, HttpMethod.Post, "/v1/vms", """{"tenant": "acme", "host_labels": {"public/gpu": "yes"}, "zones": ["a"]}""");
        Assert.Equal("acme", (string)own.Json["tenant"]!);
        var given = await _api.PostAsync("/v1/vms", """{"name": "gift", "tenant": "acme"}""");
        Assert.Equal((string)given.Json["id"]!, (string)(await SendAsync(acme, HttpMethod.Get, "/v1/vms/gift")).Json["id"]!);
        (await _api.PostAsync("/v1/vms", """{"tenant": "No/Name"}""")).Problem(400, "invalid_field", "tenant");
    }

    /// <summary>What auto means on a host may be QEMU, which nobody has to ask for by name.</summary>
    [Fact]
    public async Task A_tenant_s_guest_is_jailed_unless_the_operator_says_otherwise()
    {
        _api.Cell.Connect("emulates");
        var acme = await TenantAsync("acme");
        foreach (var body in new[] { "{}", """{"driver": "auto"}""" })
        {
            Assert.Equal("kvm", (string)(await SendAsync(acme, HttpMethod.Post, "/v1/vms", body)).Json["spec"]!["driver"]!);
            var review = (await SendAsync(acme, HttpMethod.Post, "/v1/placements", body)).Json;
            Assert.Equal((false, "no_driver"), ((bool)review["fits"]!, (string)review["reason"]!["code"]!));
            // That another driver would fit is no way out.
            Assert.Empty(review["would_fit_if"]!.AsArray());
            var gang = await SendAsync(acme, HttpMethod.Post, "/v1/gangs", $$"""{"name": "gang-{{body.Length}}", "size": 2, "vm": {{body}} }""");
            Assert.Equal(["kvm", "kvm"], gang.Json["vms"]!.AsArray().Select(member => (string)member!["spec"]!["driver"]!));
        }
        Assert.Equal("simulated", (string)(await SendAsync(acme, HttpMethod.Post, "/v1/vms", """{"driver": "simulated"}""")).Json["spec"]!["driver"]!);
        // Those that an operator makes, for a tenant too, are his to answer for.
        Assert.Equal("auto", (string)(await _api.PostAsync("/v1/vms", """{"tenant": "acme"}""")).Json["spec"]!["driver"]!);

        await using var open = ApiUnderTest.Start(change: context => context with { TenantQemu = true });
        open.Http.DefaultRequestHeaders.Authorization = new("Bearer", await open.TokenAsync(new(TokenRole.Tenant) { Tenant = "acme" }));
        Assert.Equal("auto", (string)(await open.PostAsync("/v1/vms", "{}")).Json["spec"]!["driver"]!);
        Assert.Equal("qemu", (string)(await open.PostAsync("/v1/vms", """{"driver": "qemu"}""")).Json["spec"]!["driver"]!);
    }

    [Fact]
    public async Task A_rule_names_microVMs_of_its_own_tenant_alone()
    {
        var (acme, evil) = (await TenantAsync("acme"), await TenantAsync("evil"));
        var theirs = await IdAsync(SendAsync(acme, HttpMethod.Post, "/v1/vms", """{"name": "db"}"""));
        string Near(string vm) => $$$"""{"placement": {"affinity": [{"vm": "{{{vm}}}"}]}}""";
        var own = await SendAsync(acme, HttpMethod.Post, "/v1/vms", Near("db"));
        Assert.Equal(theirs, (string)own.Json["spec"]!["placement"]!["affinity"]![0]!["vm"]!);
        foreach (var vm in new[] { "db", theirs, "no name!", "vm-01jd8mbr4v3s6q8k2n0x5t7w9z" })
        {
            (await SendAsync(evil, HttpMethod.Post, "/v1/vms", Near(vm))).Problem(400, "invalid_field", "placement.affinity[0].vm");
            (await SendAsync(evil, HttpMethod.Post, "/v1/placements", Near(vm))).Problem(400, "invalid_field", "placement.affinity[0].vm");
        }
        // An admin's own microVM has no more to do with it.
        (await _api.PostAsync("/v1/vms", Near(theirs))).Problem(400, "invalid_field", "placement.affinity[0].vm");
    }

    [Fact]
    public async Task Tokens_are_shown_once_and_listed_without_their_secret()
    {
        var made = await _api.PostAsync("/v1/tokens", """{"role": "tenant", "tenant": "acme", "ttl_seconds": 3600, "note": "CI"}""");
        Assert.Equal(201, made.Status);
        var secret = (string)made.Json["secret"]!;
        var id = (string)made.Json["token"]!["id"]!;
        var list = await _api.GetAsync("/v1/tokens");
        Assert.DoesNotContain(secret.Split('.')[2], list.Text, StringComparison.Ordinal);
        var listed = list.Json["items"]!.AsArray().Single(token => (string)token!["id"]! == id)!;
        Assert.Equal(("tenant", "acme", "CI"), ((string)listed["role"]!, (string)listed["tenant"]!, (string)listed["note"]!));
        Assert.Equal(200, (await SendAsync($"Bearer {secret}", HttpMethod.Get, "/v1/vms")).Status);
        (await SendAsync($"Bearer {secret}", HttpMethod.Get, "/v1/tokens")).Problem(403, "forbidden");

        Assert.NotNull((await _api.DeleteAsync($"/v1/tokens/{id}")).Json["revoked_at"]);
        Assert.Equal(200, (await _api.DeleteAsync($"/v1/tokens/{id}")).Status);
        (await SendAsync($"Bearer {secret}", HttpMethod.Get, "/v1/vms")).Problem(401, "unauthenticated");
        (await _api.DeleteAsync("/v1/tokens/nobody")).Problem(404, "not_found");
        // Who takes the token for its id must not find it in an answer, nor in the log.
        Assert.DoesNotContain(secret, (await _api.DeleteAsync($"/v1/tokens/{secret}")).Problem(404, "not_found"), StringComparison.Ordinal);
        (await _api.PostAsync("/v1/tokens", "{}")).Problem(400, "missing_field", "role");
        (await _api.PostAsync("/v1/tokens", """{"role": "root"}""")).Problem(400, "invalid_field", "role");
        (await _api.PostAsync("/v1/tokens", """{"role": "tenant"}""")).Problem(400, "invalid_field", "tenant");
        (await _api.PostAsync("/v1/tokens", """{"role": "host", "ttl_seconds": 1}""")).Problem(400, "invalid_field", "ttl_seconds");
        (await _api.PostAsync("/v1/tokens", """{"role": "host", "ttl_seconds": 9223372036854775807}""")).Problem(400, "invalid_field", "ttl_seconds");
    }

    [Fact]
    public async Task A_stream_and_a_wait_end_with_their_token()
    {
        var token = await _api.TokenAsync(new(TokenRole.Tenant) { Tenant = "acme" });
        var vm = await IdAsync(SendAsync($"Bearer {token}", HttpMethod.Post, "/v1/vms", "{}"));
        using var http = new HttpClient { BaseAddress = _api.Http.BaseAddress, Timeout = TimeSpan.FromSeconds(20) };
        http.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", token);
        using var stream = await http.GetAsync("/v1/changes/stream", HttpCompletionOption.ResponseHeadersRead);
        var reading = stream.Content.ReadAsStringAsync();
        var waiting = http.GetAsync($"/v1/vms/{vm}/wait?state=stopped&timeout=600");
        await ApiUnderTest.UntilAsync(() => _api.Long.Running == 2);
        await _api.DeleteAsync($"/v1/tokens/{token.Split('.')[1]}");
        await Assert.ThrowsAnyAsync<Exception>(() => reading);
        Assert.Equal(401, (int)(await waiting).StatusCode);
        await ApiUnderTest.UntilAsync(() => _api.Long.Running == 0);
    }

    [Fact]
    public async Task A_stream_ends_when_its_token_expires()
    {
        var token = await _api.TokenAsync(new(TokenRole.Admin) { Life = TimeSpan.FromMinutes(5) });
        using var http = new HttpClient { BaseAddress = _api.Http.BaseAddress, Timeout = TimeSpan.FromSeconds(20) };
        http.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", token);
        using var stream = await http.GetAsync("/v1/changes/stream", HttpCompletionOption.ResponseHeadersRead);
        var reading = stream.Content.ReadAsStringAsync();
        await ApiUnderTest.UntilAsync(() => _api.Clock.HasTimer(TimeSpan.FromMinutes(5)));
        _api.Clock.Advance(TimeSpan.FromMinutes(5));
        await Assert.ThrowsAnyAsync<Exception>(() => reading);
    }
}
