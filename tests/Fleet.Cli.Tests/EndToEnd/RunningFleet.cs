using System.Diagnostics;
using System.Net;
using System.Net.Http.Json;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>
/// A fleet of its own for a test: the built program in processes of its own, with state in a temporary folder and ports
/// that nobody else uses. Disposing it deletes every microVM and checks that nothing is left.
/// </summary>
internal sealed class RunningFleet : IAsyncDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-test-").FullName;
    private readonly int _apiPort = FreePort.Next();
    private readonly int _linkPort = FreePort.Next();
    private Process? _node;
    private bool _abandoned;

    private readonly string[] _nodeOptions;

    private RunningFleet(string[] nodeOptions)
    {
        _nodeOptions = nodeOptions;
        // Kernels of a spec's own are opened only where everybody may read them.
        File.SetUnixFileMode(_folder, (UnixFileMode)0x1ed); // 0755
        Http = new HttpClient { BaseAddress = new Uri($"http://127.0.0.1:{_apiPort}"), Timeout = TimeSpan.FromMinutes(5) };
    }

    public HttpClient Http { get; }

    public Uri Link => new($"https://127.0.0.1:{_linkPort}");

    /// <summary>The admin's token that the node left, as the command line finds it.</summary>
    public string Token => File.ReadAllText(Path.Combine(Data, "credentials", "admin.token")).Trim();

    public string Data => Path.Combine(_folder, "data");

    /// <summary>Files of the test that microVMs may use.</summary>
    public string Files => _folder;

    /// <param name="nodeOptions">More options of <c>fleet up</c>.</param>
    public static async Task<RunningFleet> StartAsync(params string[] nodeOptions)
    {
        var fleet = new RunningFleet(nodeOptions);
        try
        {
            await fleet.UpAsync();
            return fleet;
        }
        catch
        {
            await fleet.DisposeAsync();
            throw;
        }
    }

    /// <summary>Starts the node and waits until it takes requests and its host is connected.</summary>
    public async Task UpAsync()
    {
        Launch();
        await WaitAsync("the fleet to be up", async () =>
        {
            Assert.False(_node!.HasExited, $"fleet up ended with {(_node.HasExited ? _node.ExitCode : 0)}: {Log()}");
            if (!File.Exists(Path.Combine(Data, "credentials", "admin.token")))
                return false;
            Http.DefaultRequestHeaders.Authorization = new("Bearer", Token);
            try
            {
                var hosts = await Http.GetFromJsonAsync<JsonElement>("/v1/hosts");
                return hosts.GetProperty("items").EnumerateArray().Any(host => host.GetProperty("state").GetString() == "connected");
            }
            catch (Exception notYet) when (notYet is HttpRequestException or JsonException)
            {
                return false;
            }
        });
    }

    /// <summary>Starts the node and waits for nothing.</summary>
    public void Launch() => _node = Start(
        "up", ["up", "--data", Data, "--api", $"http://127.0.0.1:{_apiPort}", "--link", $"127.0.0.1:{_linkPort}", "--id", "box", .. _nodeOptions]);

    /// <summary>The program as a process that stays; what it prints is in a file <c>name.out</c> of the test's.</summary>
    public Process Start(string name, params string[] arguments) => StartProgram(name, Program, arguments);

    /// <summary>The same with another build of it.</summary>
    public Process StartProgram(string name, string program, params string[] arguments) => Process.Start(new ProcessStartInfo("sh",
    [
        "-c", "out=$1; shift; exec \"$@\" >>\"$out\" 2>&1", "sh", Path.Combine(_folder, $"{name}.out"), "dotnet", program, .. arguments,
    ]))!;

    /// <summary>kill -9 of the node; its microVMs are processes of their own and stay.</summary>
    public void Kill()
    {
        _node!.Kill();
        _node.WaitForExit();
    }

    /// <summary>SIGTERM and an orderly end.</summary>
    public async Task DownAsync()
    {
        var (exit, _, error) = await CliAsync("down", "--data", Data);
        Assert.True(exit == 0, error);
        await _node!.WaitForExitAsync();
    }

    /// <summary>A token of that role; more members of the request as the API has them.</summary>
    public async Task<string> TokenAsync(string role, string? member = null, string? value = null)
    {
        var wanted = new JsonObject { ["role"] = role };
        if (member is not null)
            wanted[member] = value;
        var (status, body) = await SendAsync(HttpMethod.Post, "/v1/tokens", wanted);
        Assert.True(status == HttpStatusCode.Created, $"{status}: {body}");
        return body.GetProperty("secret").GetString()!;
    }

    /// <summary>The command line against this fleet, with the token that its node left.</summary>
    public Task<(int Exit, string Output, string Error)> CliAsync(params string[] arguments) => CliWithInputAsync("", arguments);

    public Task<(int Exit, string Output, string Error)> CliWithInputAsync(string input, params string[] arguments) => RunAsync(
        new("dotnet", [Program, "--api", $"http://127.0.0.1:{_apiPort}", .. arguments]) { Environment = { ["FLEET_DATA"] = Data } }, input, Log);

    /// <summary>Runs a command line to its end.</summary>
    /// <param name="command">The program, its arguments and environment.</param>
    /// <param name="input">Its standard input.</param>
    /// <param name="log">What to show when it does not end.</param>
    /// <param name="limit">How long it has; null: four minutes.</param>
    public static async Task<(int Exit, string Output, string Error)> RunAsync(ProcessStartInfo command, string input, Func<string> log, TimeSpan? limit = null)
    {
        command.RedirectStandardOutput = command.RedirectStandardError = command.RedirectStandardInput = true;
        using var process = Process.Start(command)!;
        await process.StandardInput.WriteAsync(input);
        process.StandardInput.Close();
        using var bound = new CancellationTokenSource(limit ?? TimeSpan.FromMinutes(4));
        var output = process.StandardOutput.ReadToEndAsync(bound.Token);
        var error = process.StandardError.ReadToEndAsync(bound.Token);
        try
        {
            await process.WaitForExitAsync(bound.Token);
            return (process.ExitCode, await output, await error);
        }
        catch (OperationCanceledException)
        {
            process.Kill();
            throw new TimeoutException($"{command.FileName} {string.Join(' ', command.ArgumentList)} did not end; log:\n{log()}");
        }
    }

    public async Task<(HttpStatusCode Status, JsonElement Body)> SendAsync(HttpMethod method, string path, JsonNode? body = null, string? key = null)
    {
        using var request = new HttpRequestMessage(method, path);
        if (body is not null)
            request.Content = new StringContent(body.ToJsonString(), System.Text.Encoding.UTF8, "application/json");
        if (key is not null)
            request.Headers.Add("Idempotency-Key", key);
        using var response = await Http.SendAsync(request);
        var text = await response.Content.ReadAsStringAsync();
        return (response.StatusCode, text.Length == 0 ? default : JsonDocument.Parse(text).RootElement.Clone());
    }

    public async Task<JsonElement> CreateAsync(JsonNode spec)
    {
        var (status, body) = await SendAsync(HttpMethod.Post, "/v1/vms", spec);
        Assert.True(status == HttpStatusCode.Created, $"{status}: {body}");
        return body;
    }

    public async Task<JsonElement> WaitForAsync(string vm, string states, int seconds = 60)
    {
        var (status, body) = await SendAsync(HttpMethod.Get, $"/v1/vms/{vm}/wait?state={states}&timeout={seconds}");
        if (status == HttpStatusCode.OK)
            return body;
        var (_, now) = await SendAsync(HttpMethod.Get, $"/v1/vms/{vm}");
        throw new Xunit.Sdk.XunitException($"{vm} not {states} within {seconds} s: {status} {body}\nnow {now}\nlog:\n{Log()}");
    }

    /// <summary>Deletes a microVM and checks that no process and no file of it is left.</summary>
    public async Task DeleteAsync(JsonElement vm)
    {
        var id = vm.GetProperty("id").GetString()!;
        var (status, body) = await SendAsync(HttpMethod.Delete, $"/v1/vms/{id}");
        Assert.True(status is HttpStatusCode.Accepted or HttpStatusCode.NotFound, $"{status}: {body}");
        await WaitAsync($"{id} to be gone", async () => (await SendAsync(HttpMethod.Get, $"/v1/vms/{id}")).Status == HttpStatusCode.NotFound);
        Assert.Empty(Leftovers(id));
    }

    /// <summary>A small guest's kernel file.</summary>
    public string Kernel(byte[] code)
    {
        var path = Path.Combine(_folder, $"kernel-{Guid.NewGuid():n}");
        SmallGuest.Write(path, code);
        return path;
    }

    /// <summary>Processes whose command line names one of the texts, and files of this fleet that do.</summary>
    public IReadOnlyList<string> Leftovers(params string[] texts)
    {
        bool IsNamed(string words) => texts.Any(text => words.Contains(text, StringComparison.Ordinal));
        var left = new List<string>();
        foreach (var folder in Directory.EnumerateDirectories("/proc").Where(folder => char.IsAsciiDigit(Path.GetFileName(folder)[0])))
        {
            var words = CommandLine(int.Parse(Path.GetFileName(folder), System.Globalization.CultureInfo.InvariantCulture));
            if (IsNamed(words))
                left.Add($"process {Path.GetFileName(folder)}: {words}");
        }

        if (Directory.Exists(Data))
            left.AddRange(Directory.EnumerateFileSystemEntries(Data, "*", SearchOption.AllDirectories).Where(path => IsNamed(Path.GetFileName(path))));
        return left;
    }

    /// <summary>What a process runs; empty when it is gone, or dead and not yet reaped by whoever inherited it.</summary>
    public static string CommandLine(int pid)
    {
        try
        {
            return File.ReadAllText($"/proc/{pid}/cmdline").Replace('\0', ' ');
        }
        catch (IOException)
        {
            return "";
        }
    }

    public string Log()
    {
        var file = Path.Combine(_folder, "up.out");
        return File.Exists(file) ? string.Join('\n', File.ReadLines(file).TakeLast(60)) : "(no log)";
    }

    public static async Task WaitAsync(string what, Func<Task<bool>> condition, TimeSpan? patience = null, Func<string>? onTimeout = null)
    {
        var clock = Stopwatch.StartNew();
        while (!await condition())
        {
            if (clock.Elapsed > (patience ?? Patience))
                throw new TimeoutException($"waited {clock.Elapsed.TotalSeconds:0} s for {what}{(onTimeout is null ? "" : $"\n{onTimeout()}")}");
            await Task.Delay(50);
        }
    }

    /// <summary>Disposing will then not ask for an orderly end: a host that never answers again holds its microVMs.</summary>
    public void Abandon() => _abandoned = true;

    public async ValueTask DisposeAsync()
    {
        try
        {
            if (!_abandoned && _node is { HasExited: false })
            {
                var (_, list) = await SendAsync(HttpMethod.Get, "/v1/vms?page_size=1000");
                // All at once: a test may have made hundreds.
                var ids = list.GetProperty("items").EnumerateArray().Select(vm => vm.GetProperty("id").GetString()!).ToArray();
                await Parallel.ForEachAsync(ids, new ParallelOptions { MaxDegreeOfParallelism = 16 }, async (id, _) => await SendAsync(HttpMethod.Delete, $"/v1/vms/{id}"));
                foreach (var id in ids)
                    await WaitAsync($"{id} to be gone", async () => (await SendAsync(HttpMethod.Get, $"/v1/vms/{id}")).Status == HttpStatusCode.NotFound);
                Assert.Empty(Leftovers(ids));
                await DownAsync();
            }
        }
        finally
        {
            if (_node is { HasExited: false })
                Kill();
            _node?.Dispose();
            Http.Dispose();
            EndStrays();
            Directory.Delete(_folder, true);
        }
    }

    /// <summary>A failed test must not leave its VMMs behind: everything that runs out of this folder is ended.</summary>
    private void EndStrays()
    {
        foreach (var line in Leftovers(_folder).Where(line => line.StartsWith("process ", StringComparison.Ordinal)))
        {
            var pid = int.Parse(line["process ".Length..line.IndexOf(':', StringComparison.Ordinal)], System.Globalization.CultureInfo.InvariantCulture);
            try
            {
                using var stray = Process.GetProcessById(pid);
                stray.Kill();
            }
            catch (ArgumentException)
            {
                // It ended by itself.
            }
        }
    }

    public static string Program => Path.Combine(Checkout.Artifacts, "cli", "fleet.dll") is var path && File.Exists(path)
        ? path
        : throw new InvalidOperationException($"{path} is not built: run ./fleet build, or the tests through ./fleet test.");
}
