using System.Net.Http.Headers;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;
using Google.Protobuf.WellKnownTypes;
using Xunit;

namespace Fleet.Scheduler.Tests.Api;

public sealed class VolumeRequestTests : IAsyncLifetime
{
    private readonly ApiUnderTest _api = ApiUnderTest.Start();

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync() => await _api.DisposeAsync();

    [Fact]
    public async Task A_microVM_has_its_volumes_with_a_size()
    {
        var answer = await _api.PostAsync("/v1/vms", """{"name": "db", "volumes": [{"name": "data", "path": "/var/lib/data"}, {"name": "log", "path": "/log", "size_mib": 64}]}""");
        Assert.True(answer.Status == 201, answer.Text);
        Assert.Equal("""[{"name":"data","path":"/var/lib/data","size_mib":1024},{"name":"log","path":"/log","size_mib":64}]""", answer.Json["spec"]!["volumes"]!.ToJsonString());
    }

    [Theory]
    [InlineData("""[{"path": "/data"}]""", "missing_field", "volumes[0].name")]
    [InlineData("""[{"name": "Data", "path": "/data"}]""", "invalid_field", "volumes[0].name")]
    [InlineData("""[{"name": "../x", "path": "/data"}]""", "invalid_field", "volumes[0].name")]
    [InlineData("""[{"name": "data"}]""", "invalid_field", "volumes[0].path")]
    [InlineData("""[{"name": "data", "path": "/"}]""", "invalid_field", "volumes[0].path")]
    [InlineData("""[{"name": "data", "path": "data"}]""", "invalid_field", "volumes[0].path")]
    [InlineData("""[{"name": "data", "path": "/a/../b"}]""", "invalid_field", "volumes[0].path")]
    [InlineData("""[{"name": "data", "path": "/proc/x"}]""", "invalid_field", "volumes[0].path")]
    [InlineData("""[{"name": "data", "path": "/data", "size_mib": 15}]""", "invalid_field", "volumes[0].size_mib")]
    [InlineData("""[{"name": "data", "path": "/a"}, {"name": "data", "path": "/b"}]""", "invalid_field", "volumes[1].name")]
    [InlineData("""[{"name": "data", "path": "/a"}, {"name": "more", "path": "/a"}]""", "invalid_field", "volumes[1].path")]
    [InlineData("""[{"name": "a", "path": "/a"}, {"name": "b", "path": "/b"}, {"name": "c", "path": "/c"}, {"name": "d", "path": "/d"}, {"name": "e", "path": "/e"}]""", "invalid_field", "volumes")]
    public async Task Wrong_volumes_are_refused(string volumes, string code, string field) =>
        (await _api.PostAsync("/v1/vms", $$"""{"name": "db", "volumes": {{volumes}}}""")).Problem(400, code, field);

    [Fact]
    public async Task A_kernel_of_ones_own_finds_a_disk_and_a_gang_has_none()
    {
        const string boot = """{"name": "own", "boot": {"kernel_path": "/k"}, "volumes": [{"name": "data"$$}]}""";
        (await _api.PostAsync("/v1/vms", boot.Replace("$$", ", \"path\": \"/data\"", StringComparison.Ordinal))).Problem(400, "invalid_field", "volumes[0].path");
        Assert.Equal(201, (await _api.PostAsync("/v1/vms", boot.Replace("$$", "", StringComparison.Ordinal))).Status);
        (await _api.PostAsync("/v1/gangs", """{"name": "g", "size": 2, "vm": {"volumes": [{"name": "data", "path": "/data"}]}}""")).Problem(400, "invalid_field", "vm.volumes");
    }

    [Fact]
    public async Task Tenants_see_copy_and_remove_their_own_alone()
    {
        foreach (var tenant in (string[])["acme", "other", ""])
            Give(tenant);
        var acme = await _api.TokenAsync(new(TokenRole.Tenant) { Tenant = "acme" });
        Assert.Equal(3, (await _api.GetAsync("/v1/volumes")).Json["items"]!.AsArray().Count);
        var own = (await AsAsync(acme, HttpMethod.Get, "/v1/volumes")).Json["items"]!.AsArray();
        Assert.Equal("acme", (string)Assert.Single(own)!["tenant"]!);
        (await AsAsync(acme, HttpMethod.Delete, "/v1/volumes/data?tenant=other")).Problem(403, "forbidden", "tenant");
        (await AsAsync(acme, HttpMethod.Post, "/v1/volumes", """{"name": "x", "host": "h1"}""")).Problem(403, "forbidden");
        (await AsAsync(acme, HttpMethod.Delete, "/v1/volumes/none")).Problem(404, "not_found");
        (await AsAsync(acme, HttpMethod.Delete, "/v1/volumes/..%2Fx")).Problem(404, "not_found");
        (await AsAsync(acme, HttpMethod.Post, "/v1/volumes/data/clone", """{"name": "A"}""")).Problem(400, "invalid_field", "name");

        var copy = await AsAsync(acme, HttpMethod.Post, "/v1/volumes/data/snapshot", """{"name": "monday"}""");
        Assert.True(copy.Status == 202, copy.Text);
        Assert.Equal(("copying", "data", true, "acme"), ((string)copy.Json["state"]!, (string)copy.Json["copy_of"]!, (bool)copy.Json["snapshot"]!, (string)copy.Json["tenant"]!));
        (await AsAsync(acme, HttpMethod.Delete, "/v1/volumes/data")).Problem(409, "volume_in_use");
        Assert.Equal("removing", (string)(await _api.DeleteAsync("/v1/volumes/data?tenant=other")).Json["state"]!);
        Assert.Equal(VolumeState.Ready, _api.Cell.Volumes.Find("", "data")!.State);
    }

    private void Give(string tenant) => _api.Cell.Volumes.Apply(_api.Cell.Volumes.Give(
        new GiveVolumes { VmId = "vm-1", Epoch = 1, Host = "h1", Tenant = tenant, Volumes = { new VolumeMount { Name = "data", SizeMib = 64 } } },
        Timestamp.FromDateTimeOffset(_api.Clock.GetUtcNow()), new string('0', 32)).Event!);

    private async Task<Answer> AsAsync(string token, HttpMethod method, string path, string? json = null)
    {
        using var request = new HttpRequestMessage(method, path);
        request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", token);
        if (json is not null)
            request.Content = new StringContent(json, System.Text.Encoding.UTF8, "application/json");
        return await _api.SendAsync(request);
    }
}
