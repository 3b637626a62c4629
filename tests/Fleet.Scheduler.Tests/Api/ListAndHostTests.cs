using System.Text.Json.Nodes;
using Fleet.Scheduler.Cell;
using Google.Protobuf.WellKnownTypes;
using Xunit;

namespace Fleet.Scheduler.Tests.Api;

public sealed class ListAndHostTests : IAsyncLifetime
{
    private readonly ApiUnderTest _api = ApiUnderTest.Start(change: c => c with { Caps = new(4, 1) });

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync() => await _api.DisposeAsync();

    [Fact]
    public async Task A_list_shows_what_the_client_was_just_told()
    {
        for (var i = 0; i < 30; i++)
        {
            var id = await _api.CreateAsync($"vm{i}");
            Assert.Contains(id, Ids(await _api.GetAsync("/v1/vms?page_size=1000")));
            await _api.PostAsync($"/v1/vms/{id}/stop");
            Assert.Contains(id, Ids(await _api.GetAsync("/v1/vms?state=stopping&page_size=1000")));
            await _api.DeleteAsync($"/v1/vms/{id}");
            Assert.Contains(id, Ids(await _api.GetAsync("/v1/vms?state=deleting&page_size=1000")));
        }
    }

    [Fact]
    public async Task A_view_that_hangs_delays_a_list_by_a_bounded_time()
    {
        _api.Cell.FeedHeld = true;
        var id = await _api.CreateAsync("hello");
        var list = await _api.GetAsync("/v1/vms");
        Assert.Equal(200, list.Status);
        Assert.Empty(Ids(list));
        _api.Cell.ReleaseFeed();
        await ApiUnderTest.UntilAsync(() => _api.Projection.Index > 0);
        Assert.Equal([id], Ids(await _api.GetAsync("/v1/vms")));
    }

    [Fact]
    public async Task Filters_by_state_host_and_labels_combine()
    {
        var a = await _api.CreateAsync("a", """, "labels": {"app": "web", "tier": "1"}""");
        _api.Clock.Advance(TimeSpan.FromMilliseconds(1));
        var b = await _api.CreateAsync("b", """, "labels": {"app": "web"}""");
        _api.Clock.Advance(TimeSpan.FromMilliseconds(1));
        var c = await _api.CreateAsync("c", """, "labels": {"app": "db"}""");
        _api.Cell.Run(a, "h1");
        _api.Cell.Run(b, "h2");
        await ApiUnderTest.UntilAsync(() => _api.Projection.Index == _api.Cell.Journal[^1].Offset);

        Assert.Equal([a, b, c], Ids(await _api.GetAsync("/v1/vms")));
        Assert.Equal([a, b], Ids(await _api.GetAsync("/v1/vms?label.app=web")));
        Assert.Equal([a], Ids(await _api.GetAsync("/v1/vms?label.app=web&label.tier=1")));
        Assert.Equal([b], Ids(await _api.GetAsync("/v1/vms?label.app=web&host=h2&state=running")));
        Assert.Equal([c], Ids(await _api.GetAsync("/v1/vms?state=pending,stopped")));
        Assert.Empty(Ids(await _api.GetAsync("/v1/vms?host=h1'%20OR%20''='")));
        Assert.Empty(Ids(await _api.GetAsync("/v1/vms?label.app=x'%20OR%20''='")));
    }

    [Theory]
    [InlineData("page_size=0", "page_size")]
    [InlineData("page_size=1001", "page_size")]
    [InlineData("page_size=ten", "page_size")]
    [InlineData("page_token=%21", "page_token")]
    [InlineData("page_token=", "page_token")]
    [InlineData("state=alive", "state")]
    [InlineData("states=running", "states")]
    [InlineData("label.=x", "label.")]
    [InlineData("label.A%00=x", "label.")]
    [InlineData("host=a&host=b", "host")]
    public async Task A_wrong_query_is_refused(string query, string field)
    {
        (await _api.GetAsync("/v1/vms?" + query)).Problem(400, "invalid_query", field);
    }

    [Fact]
    public async Task Pages_show_everything_once_while_others_come_and_go()
    {
        var ids = new List<string>();
        for (var i = 0; i < 25; i++)
        {
            ids.Add(await _api.CreateAsync($"vm{i}"));
            _api.Clock.Advance(TimeSpan.FromMilliseconds(1));
        }
        var seen = new List<string>();
        string? token = null;
        do
        {
            var page = await _api.GetAsync("/v1/vms?page_size=7" + (token is null ? "" : $"&page_token={token}"));
            Assert.Equal(200, page.Status);
            seen.AddRange(Ids(page));
            token = (string?)page.Json["next_page_token"];
            // Between two pages one that was shown goes, and a new one comes at the end.
            _api.Cell.Gone(seen[^1]);
            await _api.CreateAsync($"late{seen.Count}");
            _api.Clock.Advance(TimeSpan.FromMilliseconds(1));
        }
        while (token is not null);
        Assert.Equal(ids, seen.Take(25));
        Assert.Equal(seen.Count, seen.Distinct().Count());
    }

    [Fact]
    public async Task An_exact_last_page_has_no_token()
    {
        await _api.CreateAsync("a");
        await _api.CreateAsync("b");
        Assert.Null((await _api.GetAsync("/v1/vms?page_size=2")).Json["next_page_token"]);
        Assert.NotNull((await _api.GetAsync("/v1/vms?page_size=1")).Json["next_page_token"]);
    }

    [Fact]
    public async Task Hosts_are_listed_shown_and_removed()
    {
        _api.Cell.Connect("h2");
        _api.Cell.Connect("h1", cpus: 8, memory: 20480);
        await ApiUnderTest.UntilAsync(() => _api.Projection.Index == _api.Cell.Journal[^1].Offset);

        var list = await _api.GetAsync("/v1/hosts");
        Assert.Equal(["h1", "h2"], Ids(list));
        Assert.Equal("""
            {"id":"h1","state":"connected","cordoned":false,"quarantine":null,"drain":null,"pressure":null,"cpus":8,"memory_mib":20480,"disk_mib":null,"network_mbit":null,"iops":null,"reserved_cpus":0,"reserved_memory_mib":0,"reserved_disk_mib":0,"reserved_network_mbit":0,"reserved_iops":0,"vms":0,"drivers":[{"name":"qemu","usable":true,"stock_kernels":true,"detail":"emulation"}],"auto_driver":"qemu","kernel":"6.1.0","architecture":"x86_64","cpu_templates":[],"agent_version":"0.1.0","connected_at":"2026-11-23T12:00:00.000Z","silent_since":null,"given_up_in_seconds":null,"labels":{},"usage":null}
            """, (await _api.GetAsync("/v1/hosts/h1")).Text);
        Assert.Equal(["h1"], Ids(await _api.GetAsync("/v1/hosts?page_size=1")));
        // What it may promise, beside what it has.
        Assert.Equal((32, 20480), ((int)list.Json["items"]![0]!["usage"]!["cap_cpus"]!, (int)list.Json["items"]![0]!["usage"]!["cap_memory_mib"]!));

        Assert.True((bool)(await _api.PostAsync("/v1/hosts/h1/cordon")).Json["cordoned"]!);
        Assert.False((bool)(await _api.PostAsync("/v1/hosts/h1/uncordon")).Json["cordoned"]!);
        var drained = await _api.PostAsync("/v1/hosts/h1/drain", """{"deadline_seconds": 60}""");
        Assert.Equal(202, drained.Status);
        Assert.Equal("""{"since":"2026-11-23T12:00:00.000Z","deadline":"2026-11-23T12:01:00.000Z","vms":0,"left":0,"done_at":null,"staying":[]}""", drained.Json["drain"]!.ToJsonString());
        Assert.Null((await _api.PostAsync("/v1/hosts/h1/uncordon")).Json["drain"]);
        (await _api.PostAsync("/v1/hosts/h1/drain", """{"deadline_seconds": 604801}""")).Problem(400, "invalid_field", "deadline_seconds");
        (await _api.PostAsync("/v1/hosts/h9/drain")).Problem(404, "not_found");
        (await _api.PostAsync("/v1/hosts/h9/cordon")).Problem(404, "not_found");
        (await _api.DeleteAsync("/v1/hosts/h1")).Problem(409, "host_connected");
        _api.Cell.Host("h1", new HostReserved { At = At, VmId = "vm-1", Epoch = 1, Cpus = 1, MemoryMib = 256 });
        _api.Cell.Host("h1", new HostDisconnected { At = At });
        Assert.Equal("2026-11-23T12:00:00.000Z", (string)(await _api.GetAsync("/v1/hosts/h1")).Json["silent_since"]!);
        (await _api.DeleteAsync("/v1/hosts/h1")).Problem(409, "host_in_use");
        (await _api.DeleteAsync("/v1/hosts/h1?force=yes")).Problem(400, "invalid_query", "force");
        _api.Cell.Host("h1", new HostReleased { At = At, VmId = "vm-1", Epoch = 1, WasReserved = true, Cpus = 1, MemoryMib = 256 });
        Assert.Equal(204, (await _api.DeleteAsync("/v1/hosts/h1")).Status);
        Assert.Equal(["h2"], Ids(await _api.GetAsync("/v1/hosts")));
        (await _api.GetAsync("/v1/hosts/h1")).Problem(404, "not_found");
        Assert.Equal(["h2"], Ids(await _api.GetAsync("/v1/hosts")));

        // It comes back under the same id.
        _api.Cell.Connect("h1");
        await ApiUnderTest.UntilAsync(() => _api.Projection.Index == _api.Cell.Journal[^1].Offset);
        Assert.Equal(["h1", "h2"], Ids(await _api.GetAsync("/v1/hosts")));
    }

    [Theory]
    [InlineData("h9")]
    [InlineData("NO%2FHOST")]
    public async Task A_host_that_is_not_there_is_not_found(string id)
    {
        (await _api.GetAsync($"/v1/hosts/{id}")).Problem(404, "not_found");
        (await _api.DeleteAsync($"/v1/hosts/{id}")).Problem(404, "not_found");
    }

    private Timestamp At => _api.Clock.GetUtcNow().ToTimestamp();

    private static IReadOnlyList<string> Ids(Answer list)
    {
        Assert.True(list.Status == 200, list.Text);
        Assert.True(list.Headers.ContainsKey("Fleet-Index"));
        return [.. list.Json["items"]!.AsArray().Select(i => (string)((JsonObject)i!)["id"]!)];
    }
}
