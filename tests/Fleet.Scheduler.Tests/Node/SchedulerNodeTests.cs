using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Text.Json.Nodes;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Journal;
using Fleet.Scheduler.Node;
using Fleet.Scheduler.Tests.Api;
using Xunit;

namespace Fleet.Scheduler.Tests.Node;

public sealed class SchedulerNodeTests : IAsyncLifetime
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("fleet-node-");
    private static readonly HttpClient Http = new(new SocketsHttpHandler { UseProxy = false }) { Timeout = TimeSpan.FromSeconds(40) };
    private SchedulerNode? _node;
    private LinkedAgent? _agent;

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync()
    {
        if (_agent is not null)
            await _agent.DisposeAsync();
        if (_node is not null)
            await _node.DisposeAsync();
        _folder.Delete(recursive: true);
    }

    [Fact]
    public async Task A_microVM_lives_its_life_through_API_actors_and_agent_and_outlives_a_restart_of_the_node()
    {
        await StartAsync();
        Assert.Equal("ok", (string)(await GetAsync("/v1/health"))["status"]!);
        _agent = await LinkedAgent.ConnectAsync(_node!, "rack1-7");
        await ApiUnderTest.UntilAsync(() => GetAsync("/v1/hosts").Result["items"]!.AsArray().Count == 1);

        var made = await SendAsync(HttpMethod.Post, "/v1/vms", """{"name": "hello", "cpus": 2, "driver": "simulated"}""", key: "k");
        var id = (string)made["id"]!;
        var running = await GetAsync("/v1/vms/hello/wait?state=running,failed&timeout=30");
        Assert.Equal(("running", "rack1-7"), ((string)running["state"]!, (string)running["host"]!));
        Assert.Equal(2, (int)(await GetAsync("/v1/hosts/rack1-7"))["reserved_cpus"]!);

        Assert.Equal(_agent.Output, await Http.GetStringAsync($"{Base}/v1/vms/hello/console?follow=true"));
        using (var input = new ByteArrayContent("ls\n"u8.ToArray()))
            Assert.Equal(HttpStatusCode.NoContent, (await Http.PostAsync($"{Base}/v1/vms/hello/console", input)).StatusCode);
        await ApiUnderTest.UntilAsync(() => _agent.Input == "ls\n");

        var took = Stopwatch.StartNew();
        await _node!.DisposeAsync();
        Assert.True(took.Elapsed < TimeSpan.FromSeconds(6), $"The node took {took.Elapsed} to stop.");
        await StartAsync();
        // All that was acknowledged is there from the first answer on, and counts the same.
        Assert.Equal("hello", (string)Assert.Single((await GetAsync("/v1/vms"))["items"]!.AsArray())!["name"]!);
        Assert.Equal(made.ToJsonString(), (await SendAsync(HttpMethod.Post, "/v1/vms", """{"name": "hello", "cpus": 2, "driver": "simulated"}""", key: "k")).ToJsonString());

        var before = _agent;
        _agent = await LinkedAgent.ConnectAsync(_node!, "rack1-7", before);
        await before.DisposeAsync();
        Assert.Equal("running", (string)(await GetAsync($"/v1/vms/{id}"))["state"]!);
        await _agent.EndAsync(id, 7);
        var stopped = await GetAsync("/v1/vms/hello/wait?state=stopped,failed&timeout=30");
        Assert.Equal(("stopped", 7, "command_exited"), ((string)stopped["state"]!, (int)stopped["exit_status"]!, (string)stopped["reason"]!["code"]!));

        Assert.Equal("deleting", (string)(await SendAsync(HttpMethod.Delete, "/v1/vms/hello"))["state"]!);
        var gone = await GetAsync($"/v1/vms/{id}/wait?state=deleted&timeout=30");
        Assert.Equal("deleted", (string)gone["state"]!);
        Assert.Equal(HttpStatusCode.NotFound, (await Http.GetAsync($"{Base}/v1/vms/{id}")).StatusCode);
        await SendAsync(HttpMethod.Post, "/v1/vms", """{"name": "hello", "driver": "simulated"}""");
    }

    [Fact]
    public async Task A_view_that_was_deleted_and_claims_that_were_lost_are_made_anew_from_the_journal()
    {
        await StartAsync();
        for (var i = 0; i < 3; i++)
            await SendAsync(HttpMethod.Post, "/v1/vms", $$"""{"name": "vm{{i}}"}""");
        var list = (await GetAsync("/v1/vms"))["items"]!.ToJsonString();
        // Waits until nothing moves any more: they end unplaced, for there is no host.
        await ApiUnderTest.UntilAsync(() => (list = GetAsync("/v1/vms?state=unplaced").Result["items"]!.ToJsonString()).Split("no_hosts").Length == 4);
        var changes = (await GetAsync("/v1/changes")).ToJsonString();
        await _node!.DisposeAsync();
        foreach (var file in _folder.GetFiles("view.db*").Concat(_folder.GetFiles("claims.db*")))
            file.Delete();

        await StartAsync();
        Assert.Equal(list, (await GetAsync("/v1/vms"))["items"]!.ToJsonString());
        Assert.StartsWith(changes[..^3].Split(",\"changes\"")[1], (await GetAsync("/v1/changes")).ToJsonString().Split(",\"changes\"")[1], StringComparison.Ordinal);
        using var again = await PostAsync("/v1/vms", """{"name": "vm1"}""", null);
        Assert.Equal(HttpStatusCode.Conflict, again.StatusCode);
    }

    [Fact]
    public async Task A_journal_that_is_gone_is_missed_until_told_to_begin_anew()
    {
        Assert.Equal((null, null), JournalCheck.Look(_folder.FullName));
        await StartAsync();
        var pin = _node!.AuthorityPin;
        Assert.Equal((Path.Combine(_folder.FullName, "journal.db"), null), JournalCheck.Look(_folder.FullName));
        await _node!.DisposeAsync();
        foreach (var file in _folder.GetFiles("*.db*"))
            file.Delete();

        var fault = await Assert.ThrowsAsync<SchedulerStartException>(() => SchedulerNode.StartAsync(Options(), default));
        Assert.Contains("journal.db is missing", fault.Message, StringComparison.Ordinal);
        Assert.Contains("is missing", JournalCheck.Look(_folder.FullName).Trouble, StringComparison.Ordinal);
        Assert.Empty(_folder.GetFiles("*.db*"));

        File.Delete(Path.Combine(_folder.FullName, "journal.made"));
        await StartAsync();
        Assert.Equal(pin, _node!.AuthorityPin);
    }

    /// <summary>Made anew in silence, it would be a stranger to every host.</summary>
    [Fact]
    public async Task An_authority_that_is_gone_is_missed_until_another_is_made_on_purpose()
    {
        await StartAsync();
        var pin = _node!.AuthorityPin;
        await _node.DisposeAsync();
        var folder = Options().AuthorityDirectory;
        Directory.Delete(folder, recursive: true);

        var fault = await Assert.ThrowsAsync<SchedulerStartException>(() => SchedulerNode.StartAsync(Options(), default));
        Assert.Contains("authority.pem is missing", fault.Message, StringComparison.Ordinal);
        Assert.Contains("fleet scheduler init", fault.Message, StringComparison.Ordinal);
        Assert.False(CertificateAuthority.Exists(folder));

        // As init does.
        CertificateAuthority.OpenOrCreate(folder).Dispose();
        await StartAsync();
        Assert.NotEqual(pin, _node!.AuthorityPin);
    }

    [Fact]
    public async Task A_view_that_is_damaged_may_be_deleted_and_the_start_says_so()
    {
        await StartAsync();
        await _node!.DisposeAsync();
        var view = Path.Combine(_folder.FullName, "view.db");
        await DamageAsync(view);
        Assert.Equal((null, null), JournalCheck.LookAtView(Path.Combine(_folder.FullName, "other")));
        Assert.Contains("delete it", JournalCheck.LookAtView(_folder.FullName).Trouble, StringComparison.Ordinal);

        var fault = await Assert.ThrowsAsync<SchedulerStartException>(() => SchedulerNode.StartAsync(Options(), default));
        Assert.Contains("view.db is damaged", fault.Message, StringComparison.Ordinal);
        Assert.Contains("delete it", fault.Message, StringComparison.Ordinal);
        File.Delete(view);
        await StartAsync();
    }

    [Fact]
    public async Task A_journal_that_is_damaged_is_found_by_a_look_at_it_and_by_the_start()
    {
        await StartAsync();
        await _node!.DisposeAsync();
        var journal = Path.Combine(_folder.FullName, "journal.db");
        await DamageAsync(journal);
        Assert.Contains("put it back from a backup", JournalCheck.Look(_folder.FullName).Trouble, StringComparison.Ordinal);
        // Of a large one only the head is looked at.
        Assert.Null(JournalCheck.Look(_folder.FullName, most: 0).Trouble);

        var fault = await Assert.ThrowsAsync<SchedulerStartException>(() => SchedulerNode.StartAsync(Options(), default));
        Assert.Contains("journal.db is damaged", fault.Message, StringComparison.Ordinal);
        Assert.Contains("put it back from a backup", fault.Message, StringComparison.Ordinal);
    }

    private static async Task DamageAsync(string database)
    {
        await using var file = File.OpenWrite(database);
        file.Seek(4096, SeekOrigin.Begin);
        await file.WriteAsync(Enumerable.Repeat((byte)0xff, 4096).ToArray());
    }

    [Fact]
    public async Task A_full_disk_is_no_good_health()
    {
        var folder = _folder.CreateSubdirectory("small").FullName;
        Run("mount", "-t", "tmpfs", "-o", "size=16m", "fleet-test", folder);
        try
        {
            _node = await SchedulerNode.StartAsync(Options() with { DataDirectory = folder }, default);
            Http.DefaultRequestHeaders.Authorization = null;
            await ApiUnderTest.UntilAsync(() => Http.GetAsync(Base + "/v1/health").Result.IsSuccessStatusCode);
            Assert.Throws<IOException>(() => File.WriteAllBytes(Path.Combine(folder, "filler"), new byte[32 << 20]));

            var told = "";
            await ApiUnderTest.UntilAsync(() => (told = Http.GetAsync(Base + "/v1/health").Result.Content.ReadAsStringAsync().Result).Contains("Nothing more can be stored", StringComparison.Ordinal));
            Assert.Equal("unavailable", (string)JsonNode.Parse(told)!["code"]!);
            File.Delete(Path.Combine(folder, "filler"));
            await ApiUnderTest.UntilAsync(() => Http.GetAsync(Base + "/v1/health").Result.IsSuccessStatusCode);
        }
        finally
        {
            if (_node is not null)
                await _node.DisposeAsync();
            // Pooled connections may still have its files open.
            Run("umount", "--lazy", folder);
        }

        static void Run(string program, params string[] words)
        {
            using var process = Process.Start(program, words);
            process.WaitForExit();
            Assert.Equal(0, process.ExitCode);
        }
    }

    [Fact]
    public async Task A_taken_port_is_said_before_anything_starts()
    {
        using var other = new TcpListener(IPAddress.Loopback, 0);
        other.Start();
        var taken = (IPEndPoint)other.LocalEndpoint;
        var api = await Assert.ThrowsAsync<SchedulerStartException>(() => SchedulerNode.StartAsync(Options() with { ApiEndpoint = taken }, default));
        Assert.Contains($"The API can't listen on {taken}", api.Message, StringComparison.Ordinal);
        var link = await Assert.ThrowsAsync<SchedulerStartException>(() => SchedulerNode.StartAsync(Options() with { LinkEndpoint = taken }, default));
        Assert.Contains("port for agents", link.Message, StringComparison.Ordinal);
        Assert.Empty(_folder.GetFiles());
    }

    [Fact]
    public async Task A_second_node_on_the_same_folder_is_refused()
    {
        await StartAsync();
        var fault = await Assert.ThrowsAsync<SchedulerStartException>(() => SchedulerNode.StartAsync(Options(), default));
        Assert.Contains("Another scheduler holds the data directory", fault.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_folder_that_cannot_be_made_and_a_file_that_is_no_database_are_said_so()
    {
        var file = Path.Combine(_folder.FullName, "file");
        await File.WriteAllTextAsync(file, "x");
        await Assert.ThrowsAsync<SchedulerStartException>(() => SchedulerNode.StartAsync(Options() with { DataDirectory = Path.Combine(file, "data") }, default));
        await File.WriteAllTextAsync(Path.Combine(_folder.FullName, "claims.db"), new string('x', 8192));
        var fault = await Assert.ThrowsAsync<SchedulerStartException>(() => SchedulerNode.StartAsync(Options(), default));
        Assert.Contains("claims.db can't be opened", fault.Message, StringComparison.Ordinal);
        // Nothing of the failed start holds the folder.
        File.Delete(Path.Combine(_folder.FullName, "claims.db"));
        await StartAsync();
    }

    [Fact]
    public async Task A_node_that_stands_alone_lets_nobody_speak_to_its_actors_either()
    {
        await StartAsync();
        using var words = new StringContent("""{"words": ["cluster", "show"], "format": "rows"}""", Encoding.UTF8, "application/json");
        using var answer = await Http.PostAsync($"{Base}/v1/admin/commands", words);
        var said = await answer.Content.ReadAsStringAsync();
        // As the nodes of a cell of several have it, where strangers are refused (TwoNodeTests).
        Assert.Contains("akka.ssl.tcp://fleet@127.0.0.1:", said, StringComparison.Ordinal);
    }

    private string Base => $"http://{_node!.ApiEndpoint}";

    private SchedulerOptions Options() => new()
    {
        DataDirectory = _folder.FullName,
        ApiEndpoint = new(IPAddress.Loopback, 0),
        LinkEndpoint = new(IPAddress.Loopback, 0),
        Cell = cell => cell with { Heartbeat = TimeSpan.FromMilliseconds(500), HostDeadAfter = TimeSpan.FromSeconds(5) },
    };

    private async Task StartAsync()
    {
        _node = await SchedulerNode.StartAsync(Options(), default);
        Http.DefaultRequestHeaders.Authorization = new("Bearer", (await _node.CreateTokenAsync(new TokenRequest(TokenRole.Admin), default)).Text);
    }

    private async Task<JsonNode> GetAsync(string path)
    {
        using var response = await Http.GetAsync(Base + path);
        return await ReadAsync(response);
    }

    private async Task<JsonNode> SendAsync(HttpMethod method, string path, string? json = null, string? key = null)
    {
        if (method == HttpMethod.Post)
        {
            using var posted = await PostAsync(path, json!, key);
            return await ReadAsync(posted);
        }
        using var request = new HttpRequestMessage(method, Base + path);
        using var response = await Http.SendAsync(request);
        return await ReadAsync(response);
    }

    private async Task<HttpResponseMessage> PostAsync(string path, string json, string? key)
    {
        using var request = new HttpRequestMessage(HttpMethod.Post, Base + path) { Content = new StringContent(json, Encoding.UTF8, "application/json") };
        if (key is not null)
            request.Headers.Add("Idempotency-Key", key);
        return await Http.SendAsync(request);
    }

    private static async Task<JsonNode> ReadAsync(HttpResponseMessage response)
    {
        var text = await response.Content.ReadAsStringAsync();
        Assert.True(response.IsSuccessStatusCode, $"{response.StatusCode}: {text}");
        return JsonNode.Parse(text)!;
    }
}
