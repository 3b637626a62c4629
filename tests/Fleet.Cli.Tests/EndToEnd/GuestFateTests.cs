using System.Diagnostics;
using System.Net;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>Guests that misbehave and requests that can't be carried out: the right state, the reason, nothing left.</summary>
public sealed class GuestFateTests(GuestFateTests.Fleet shared) : IClassFixture<GuestFateTests.Fleet>
{
    private readonly RunningFleet _fleet = shared.Running;

    /// <summary>One fleet for all of them: every test deletes what it made.</summary>
    public sealed class Fleet : IAsyncLifetime
    {
        internal RunningFleet Running { get; private set; } = null!;

        public async Task InitializeAsync() => Running = await RunningFleet.StartAsync();

        public async Task DisposeAsync() => await Running.DisposeAsync();
    }

    private static JsonObject Vm(string driver, string kernel, int bootTimeout = 0) => new()
    {
        ["memory_mib"] = 128,
        ["driver"] = driver,
        ["boot"] = new JsonObject { ["kernel_path"] = kernel },
        ["boot_timeout_seconds"] = bootTimeout,
    };

    [SkippableTheory]
    [InlineData("kvm")]
    [InlineData("qemu")]
    public async Task Should_tell_every_fate_of_a_guest(string driver)
    {
        Skip.IfNot(driver != "kvm" || File.Exists("/dev/kvm"), "no /dev/kvm on this machine");

        var halted = await _fleet.CreateAsync(Vm(driver, _fleet.Kernel(SmallGuest.MarkAndHalt)));
        var silent = await _fleet.CreateAsync(Vm(driver, _fleet.Kernel(SmallGuest.Silent), bootTimeout: 3));
        await ExpectAsync(halted, "failed", "guest_halted");
        await ExpectAsync(silent, "failed", "boot_timeout");

        var killed = await _fleet.WaitForAsync(Id(await _fleet.CreateAsync(Vm(driver, _fleet.Kernel(SmallGuest.MarkAndIdle)))), "running,failed,stopped");
        using (var vmm = Process.GetProcessById(killed.GetProperty("vmm_pid").GetInt32()))
            vmm.Kill();
        await ExpectAsync(killed, "failed", "vmm_killed");

        var noKernel = Path.Combine(_fleet.Files, "text");
        await File.WriteAllTextAsync(noKernel, new string('x', 5000));
        await ExpectAsync(await _fleet.CreateAsync(Vm(driver, noKernel)), "failed", "kernel_invalid");
        await ExpectAsync(await _fleet.CreateAsync(Vm(driver, "/nowhere/vmlinuz")), "failed", "kernel_missing");
        var noInitrd = Vm(driver, _fleet.Kernel(SmallGuest.MarkAndIdle));
        noInitrd["boot"]!["initrd_path"] = "/nowhere/initrd";
        await ExpectAsync(await _fleet.CreateAsync(noInitrd), "failed", "initrd_missing");
    }

    [SkippableTheory]
    [InlineData("kvm")]
    [InlineData("qemu")]
    public async Task Should_bound_a_guest_that_floods_its_console(string driver)
    {
        Skip.IfNot(driver != "kvm" || File.Exists("/dev/kvm"), "no /dev/kvm on this machine");
        var vm = await _fleet.WaitForAsync(Id(await _fleet.CreateAsync(Vm(driver, _fleet.Kernel(SmallGuest.Flood)))), "running,failed,stopped");
        Assert.Equal("running", vm.GetProperty("state").GetString());
        var folder = Directory.GetDirectories(Path.Combine(_fleet.Data, "host", "vms")).Single();
        await RunningFleet.WaitAsync("console output", () => Task.FromResult(new FileInfo(Path.Combine(folder, "console.log")).Length > 10_000));

        // A reader takes part of the flood and goes; the microVM still answers.
        using (var response = await _fleet.Http.GetAsync($"/v1/vms/{Id(vm)}/console?follow=true", HttpCompletionOption.ResponseHeadersRead))
        await using (var stream = await response.Content.ReadAsStreamAsync())
        {
            var buffer = new byte[4096];
            await stream.ReadExactlyAsync(buffer);
            Assert.All(buffer, value => Assert.Equal(SmallGuest.Mark, value));
        }

        await _fleet.SendAsync(HttpMethod.Post, $"/v1/vms/{Id(vm)}/stop", new JsonObject { ["grace_seconds"] = 0 });
        Assert.Equal("stopped", (await _fleet.WaitForAsync(Id(vm), "stopped,failed")).GetProperty("state").GetString());
        await _fleet.DeleteAsync(vm);
    }

    [Fact]
    public async Task Should_refuse_bad_requests_and_keep_nothing_of_them()
    {
        var cases = new (string Body, HttpStatusCode Status, string Code)[]
        {
            ("""{"cpu": 2}""", HttpStatusCode.BadRequest, "unknown_field"),
            ("""{"cpus": "two"}""", HttpStatusCode.BadRequest, "invalid_field"),
            ("""{"cpus": 0}""", HttpStatusCode.BadRequest, "invalid_field"),
            ("""{"cpus": 33}""", HttpStatusCode.BadRequest, "invalid_field"),
            ("""{"memory_mib": 0}""", HttpStatusCode.BadRequest, "invalid_field"),
            ("""{"memory_mib": 99999999999}""", HttpStatusCode.BadRequest, "invalid_field"),
            ("""{"name": "No Good"}""", HttpStatusCode.BadRequest, "invalid_field"),
            ("""{"driver": "vmware"}""", HttpStatusCode.BadRequest, "invalid_field"),
            ("""{"boot": {"kernel_path": "relative"}}""", HttpStatusCode.BadRequest, "invalid_field"),
            ("""{"cpus": """, HttpStatusCode.BadRequest, "invalid_json"),
        };
        foreach (var (body, status, code) in cases)
        {
            using var content = new StringContent(body, System.Text.Encoding.UTF8, "application/json");
            using var response = await _fleet.Http.PostAsync("/v1/vms", content);
            var problem = JsonDocument.Parse(await response.Content.ReadAsStringAsync()).RootElement;
            Assert.True(status == response.StatusCode && code == problem.GetProperty("code").GetString(), $"{body}: {response.StatusCode} {problem}");
            Assert.Equal("application/problem+json", response.Content.Headers.ContentType?.MediaType);
        }

        // What the tests before deleted may stand in the list for an instant more.
        await RunningFleet.WaitAsync("an empty list", async () =>
            (await _fleet.SendAsync(HttpMethod.Get, "/v1/vms")).Body.GetProperty("items").GetArrayLength() == 0);
    }

    [Theory]
    [InlineData(125, "no option --bogus", "vm", "run", "--bogus")]
    [InlineData(2, "--memory wants a whole number, not 'abc'", "vm", "run", "--memory", "abc", "--", "true")]
    [InlineData(125, "restart must be one of never, on_failure, always", "vm", "run", "--restart", "on-failure", "--", "true")]
    [InlineData(2, "nonsense", "nonsense")]
    [InlineData(2, "fleet vm stop --help", "vm", "stop")]
    public async Task Should_tell_wrong_usage_in_a_line_or_two(int exit, string says, params string[] words)
    {
        var (status, output, error) = await _fleet.CliAsync(words);
        Assert.Equal((exit, ""), (status, output));
        Assert.Contains(says, error, StringComparison.Ordinal);
        Assert.True(error.Split('\n').Length <= 4, error);
    }

    [Fact]
    public async Task Should_say_what_a_full_host_lacks_and_place_when_there_is_room()
    {
        var (_, host) = await _fleet.SendAsync(HttpMethod.Get, "/v1/hosts/box");
        var memory = host.GetProperty("memory_mib").GetInt64();
        var big = await _fleet.CreateAsync(Simulated("big", memory - 64));
        await _fleet.WaitForAsync(Id(big), "running");
        var late = await _fleet.CreateAsync(Simulated("late", 256));
        var waiting = await _fleet.WaitForAsync(Id(late), "unplaced");
        var reason = waiting.GetProperty("reason");
        Assert.Equal("no_capacity", reason.GetProperty("code").GetString());
        Assert.Contains("256", reason.GetProperty("message").GetString(), StringComparison.Ordinal);
        Assert.Contains("64", reason.GetProperty("message").GetString(), StringComparison.Ordinal);
        await _fleet.DeleteAsync(big);
        await _fleet.DeleteAsync(await _fleet.WaitForAsync(Id(late), "running"));
    }

    [Fact]
    public async Task Should_answer_a_repeated_create_once()
    {
        var spec = Simulated("once", 64);
        var answers = await Task.WhenAll(Enumerable.Range(0, 8).Select(_ => _fleet.SendAsync(HttpMethod.Post, "/v1/vms", spec.DeepClone(), "key-1")));
        Assert.All(answers, answer => Assert.Equal(HttpStatusCode.Created, answer.Status));
        Assert.Single(answers.Select(answer => Id(answer.Body)).Distinct());
        spec["cpus"] = 2;
        var (status, problem) = await _fleet.SendAsync(HttpMethod.Post, "/v1/vms", spec.DeepClone(), "key-1");
        Assert.Equal(HttpStatusCode.UnprocessableEntity, status);
        Assert.Equal("idempotency_key_reused", problem.GetProperty("code").GetString());
        (status, problem) = await _fleet.SendAsync(HttpMethod.Post, "/v1/vms", spec.DeepClone());
        Assert.Equal(HttpStatusCode.Conflict, status);
        Assert.Equal("name_taken", problem.GetProperty("code").GetString());
        await _fleet.DeleteAsync(answers[0].Body);
    }

    private static JsonObject Simulated(string name, long memoryMib) => new()
    {
        ["name"] = name,
        ["memory_mib"] = memoryMib,
        ["driver"] = "simulated",
        ["simulated"] = new JsonObject { ["boot_ms"] = 1 },
    };

    private static string Id(JsonElement vm) => vm.GetProperty("id").GetString()!;

    private async Task ExpectAsync(JsonElement vm, string state, string code)
    {
        var ended = await _fleet.WaitForAsync(Id(vm), "stopped,failed", 30);
        Assert.True(
            state == ended.GetProperty("state").GetString() && code == ended.GetProperty("reason").GetProperty("code").GetString(),
            $"wanted {state} with {code}: {ended}\n{_fleet.Log()}");
        await _fleet.DeleteAsync(ended);
    }
}
