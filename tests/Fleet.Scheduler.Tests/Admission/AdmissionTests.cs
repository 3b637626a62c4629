using Fleet.Scheduler.Admission;
using Fleet.Scheduler.Tests.Api;
using Microsoft.Extensions.Logging.Abstractions;
using Xunit;

namespace Fleet.Scheduler.Tests.Admission;

public sealed class AdmissionTests : IAsyncLifetime
{
    private readonly ApiUnderTest _api = ApiUnderTest.Start();

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync() => await _api.DisposeAsync();

    [Fact]
    public async Task Fifty_equal_requests_at_once_make_one_microVM_and_get_one_answer()
    {
        var answers = await Task.WhenAll(Enumerable.Range(0, 50).Select(_ => _api.PostAsync("/v1/vms", """{"cpus": 2}""", key: "same")));
        Assert.All(answers, a => Assert.Equal(201, a.Status));
        Assert.Single(answers.Select(a => a.Text).Distinct());
        Assert.Single(_api.Cell.Journal);
    }

    [Fact]
    public async Task A_database_that_takes_nothing_is_in_the_log_once_a_minute()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-claims-");
        var (log, clock) = (new FaultLog(), new ManualClock());
        var file = Path.Combine(folder.FullName, "claims.db");
        await using (var claims = new ClaimStore(new ClaimDatabase.File(file), clock, log))
        {
            using (var broken = new Microsoft.Data.Sqlite.SqliteConnection($"Data Source={file};Pooling=false"))
            {
                broken.Open();
                using var read = new Microsoft.Data.Sqlite.SqliteCommand("select name from sqlite_schema where type = 'table'", broken);
                var tables = new List<string>();
                using (var rows = read.ExecuteReader())
                {
                    while (rows.Read())
                        tables.Add(rows.GetString(0));
                }
                foreach (var table in tables.Where(table => !table.StartsWith("sqlite_", StringComparison.Ordinal)))
                {
                    using var drop = new Microsoft.Data.Sqlite.SqliteCommand($"drop table {table}", broken);
                    drop.ExecuteNonQuery();
                }
            }
            for (var i = 0; i < 5; i++)
                await FailAsync();
            Assert.Single(log.Faults);
            clock.Advance(TimeSpan.FromMinutes(1));
            await FailAsync();
            Assert.Equal(2, log.Faults.Count);

            async Task FailAsync() => await Assert.ThrowsAsync<Microsoft.Data.Sqlite.SqliteException>(() => claims.ClaimAsync(new("vm-1", "web", null, [])));
        }
        folder.Delete(recursive: true);
    }

    [Fact]
    public async Task Fifty_requests_for_one_name_make_one_microVM()
    {
        var answers = await Task.WhenAll(Enumerable.Range(0, 50).Select(i => _api.PostAsync("/v1/vms", """{"name": "hello"}""", key: $"key {i}")));
        Assert.Single(answers, a => a.Status == 201);
        Assert.All(answers.Where(a => a.Status != 201), a => a.Problem(409, "name_taken", "name"));
        Assert.Single(_api.Cell.Journal);
    }

    [Fact]
    public async Task A_repeat_gets_the_first_answer_whatever_became_of_the_microVM()
    {
        const string Body = """{"name": "hello", "env": {"A": "1", "B": "2"}}""";
        var first = await _api.PostAsync("/v1/vms", Body, key: "k");
        var id = (string)first.Json["id"]!;
        _api.Cell.Run(id);
        _api.Clock.Advance(TimeSpan.FromHours(1));
        _api.Cell.End(id, 3);
        // The same body may be written another way.
        Assert.Equal(first.Text, (await _api.PostAsync("/v1/vms", """{"env": {"B": "2", "A": "1"}, "cpus": null, "name":"hello"}""", key: "k")).Text);
        await _api.DeleteAsync($"/v1/vms/{id}");
        _api.Cell.Gone(id);
        await ApiUnderTest.UntilAsync(() => _api.Claims.Holder("hello") is null);
        var last = await _api.PostAsync("/v1/vms", Body, key: "k");
        Assert.Equal((201, first.Text), (last.Status, last.Text));
        Assert.Equal("/v1/vms/" + id, last.Headers["Location"]);
    }

    [Fact]
    public async Task The_same_key_with_another_body_is_refused()
    {
        await _api.PostAsync("/v1/vms", """{"name": "hello"}""", key: "k");
        (await _api.PostAsync("/v1/vms", """{"name": "hello", "cpus": 2}""", key: "k")).Problem(422, "idempotency_key_reused");
        Assert.Single(_api.Cell.Journal);
    }

    [Fact]
    public async Task A_key_is_forgotten_after_a_day()
    {
        var first = await _api.PostAsync("/v1/vms", "{}", key: "k");
        _api.Clock.Advance(TimeSpan.FromHours(24) - TimeSpan.FromSeconds(1));
        Assert.Equal(first.Text, (await _api.PostAsync("/v1/vms", "{}", key: "k")).Text);
        _api.Clock.Advance(TimeSpan.FromSeconds(2));
        Assert.NotEqual(first.Text, (await _api.PostAsync("/v1/vms", "{}", key: "k")).Text);
    }

    [Theory]
    [InlineData("")]
    [InlineData("a\tb")]
    [InlineData("129")]
    public async Task A_malformed_key_is_refused(string key)
    {
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/vms") { Content = new StringContent("{}", null, "application/json") };
        request.Headers.TryAddWithoutValidation("Idempotency-Key", key == "129" ? new string('k', 129) : key);
        (await _api.SendAsync(request)).Problem(400, "invalid_field", "Idempotency-Key");
    }

    [Fact]
    public async Task A_refusal_of_the_cell_gives_name_and_key_back()
    {
        _api.Cell.Refuses = new("wrong_state", "No.");
        (await _api.PostAsync("/v1/vms", """{"name": "hello"}""", key: "k")).Problem(409, "wrong_state");
        _api.Cell.Refuses = null;
        Assert.Equal(201, (await _api.PostAsync("/v1/vms", """{"name": "hello", "cpus": 2}""", key: "k")).Status);
    }

    /// <summary>As after a crash between claim and creation: the claim is there, the microVM is not.</summary>
    [Fact]
    public async Task A_repeat_finishes_what_was_only_claimed()
    {
        _api.Cell.Refuses = new("unavailable", "Moving.");
        (await _api.PostAsync("/v1/vms", """{"name": "hello"}""", key: "k")).Problem(503, "unavailable");
        var claimed = _api.Claims.Holder("hello");
        _api.Cell.Refuses = null;
        var answer = await _api.PostAsync("/v1/vms", """{"name": "hello"}""", key: "k");
        Assert.Equal((201, claimed), (answer.Status, (string)answer.Json["id"]!));
    }

    [Fact]
    public async Task An_abandoned_name_is_taken_over_after_a_while_and_its_key_is_void()
    {
        _api.Cell.Refuses = new("unavailable", "Moving.");
        (await _api.PostAsync("/v1/vms", """{"name": "hello"}""", key: "lost")).Problem(503, "unavailable");
        _api.Cell.Refuses = null;
        (await _api.PostAsync("/v1/vms", """{"name": "hello"}""")).Problem(409, "name_taken", "name");
        _api.Clock.Advance(TimeSpan.FromSeconds(5));
        var taken = await _api.PostAsync("/v1/vms", """{"name": "hello"}""");
        Assert.Equal(201, taken.Status);
        (await _api.PostAsync("/v1/vms", """{"name": "hello"}""", key: "lost")).Problem(409, "name_taken", "name");
        Assert.Single(_api.Cell.Journal);
    }

    [Fact]
    public async Task A_name_whose_creation_is_under_way_is_not_taken_over()
    {
        await _api.Claims.ClaimAsync(new("vm-00000000000000000000000001", "hello", null, [1]));
        _api.Clock.Advance(TimeSpan.FromHours(1));
        (await _api.PostAsync("/v1/vms", """{"name": "hello"}""")).Problem(409, "name_taken", "name");
        _api.Claims.Driven("vm-00000000000000000000000001");
        Assert.Equal(201, (await _api.PostAsync("/v1/vms", """{"name": "hello"}""")).Status);
    }

    /// <summary>Who looked for the holder before a repeat drove its creation must not withdraw what that repeat made.</summary>
    [Fact]
    public async Task A_name_that_was_driven_meanwhile_is_not_withdrawn()
    {
        Assert.IsType<Claim.Granted>(await _api.Claims.ClaimAsync(new("vm-1", "hello", "k", [1])));
        _api.Claims.Driven("vm-1");
        var held = Assert.IsType<Claim.NameHeld>(await _api.Claims.ClaimAsync(new("vm-2", "hello", null, [2])));
        _api.Clock.Advance(TimeSpan.FromSeconds(5));
        Assert.IsType<Claim.Repeated>(await _api.Claims.ClaimAsync(new("vm-3", "hello", "k", [1])));
        _api.Claims.Driven("vm-1");
        Assert.False(await _api.Claims.WithdrawAbandonedAsync("vm-1", held.Since));
        Assert.Equal("vm-1", _api.Claims.Holder("hello"));
    }

    [Fact]
    public async Task Claims_outlive_the_process()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-claims-");
        try
        {
            var file = Path.Combine(folder.FullName, "claims.db");
            await using (var store = new ClaimStore(new ClaimDatabase.File(file), _api.Clock, NullLogger.Instance))
                Assert.IsType<Claim.Granted>(await store.ClaimAsync(new("vm-1", "hello", "k", [1])));
            await using (var store = new ClaimStore(new ClaimDatabase.File(file), _api.Clock, NullLogger.Instance))
            {
                Assert.Equal(new Claim.Repeated("vm-1"), await store.ClaimAsync(new("vm-2", "hello", "k", [1])));
                Assert.IsType<Claim.KeyReused>(await store.ClaimAsync(new("vm-2", "hello", "k", [2])));
                Assert.Equal("vm-1", Assert.IsType<Claim.NameHeld>(await store.ClaimAsync(new("vm-2", "hello", null, [1]))).VmId);
                await store.ReleaseNamesAsync(["vm-1"]);
                Assert.IsType<Claim.Granted>(await store.ClaimAsync(new("vm-2", "hello", null, [1])));
            }
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Fact]
    public async Task Keys_are_bounded_in_number()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-claims-");
        try
        {
            await using var store = new ClaimStore(new ClaimDatabase.File(Path.Combine(folder.FullName, "claims.db")), _api.Clock, NullLogger.Instance, keysKept: 10);
            for (var i = 0; i < 15; i++)
            {
                await store.ClaimAsync(new($"vm-{i}", $"n{i}", $"k{i}", [1]));
                _api.Clock.Advance(TimeSpan.FromSeconds(1));
            }
            _api.Clock.Advance(TimeSpan.FromMinutes(6));
            await store.ReleaseNamesAsync([.. Enumerable.Range(0, 15).Select(i => $"vm-{i}")]);
            Assert.IsType<Claim.Granted>(await store.ClaimAsync(new("vm-new", "n0", "k0", [1])));
            Assert.Equal(new Claim.Repeated("vm-14"), await store.ClaimAsync(new("vm-x", "n14", "k14", [1])));
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Fact]
    public async Task A_file_that_is_no_database_is_said_so()
    {
        var file = Path.GetTempFileName();
        try
        {
            await File.WriteAllTextAsync(file, new string('x', 4096));
            Assert.Throws<Microsoft.Data.Sqlite.SqliteException>(() => new ClaimStore(new ClaimDatabase.File(file), _api.Clock, NullLogger.Instance));
        }
        finally
        {
            File.Delete(file);
        }
    }
}
