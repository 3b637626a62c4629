using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Http.Headers;
using System.Net.Http.Json;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Tests;

namespace Fleet.Benchmarks.Adopt;

/// <summary>
/// <c>fleet bench adopt</c>: a host's agent is ended and started again on many jailed microVMs with guests of machine code; how long from
/// the new process's start until it has taken over the last of them.
/// </summary>
internal static class AdoptBenchmark
{
    private const int GuestMib = 32;
    private const string AdoptedLine = " is Running";
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options)
    {
        if (!Environment.IsPrivilegedProcess || !File.Exists("/dev/kvm"))
            throw new BenchmarkException("a jail needs root, and its guests /dev/kvm");
        return RunAsync((int)options.Number("microvms", 200), (int)options.Number("rounds", 5)).GetAwaiter().GetResult();
    }

    private static async Task<IReadOnlyList<Measurement>> RunAsync(int microVms, int rounds)
    {
        var folder = Directory.CreateTempSubdirectory("fleet-bench-");
        folder.UnixFileMode = (UnixFileMode)0x1ed; // 0755: everybody reads the kernel
        using var cell = new Cell(folder.FullName);
        try
        {
            await cell.UpAsync();
            var kernel = Path.Combine(folder.FullName, "kernel");
            SmallGuest.Write(kernel, SmallGuest.MarkAndIdle);
            var pids = await cell.CreateAsync(kernel, microVms, GuestMib);
            var adopted = new List<double>();
            var listed = new List<double>();
            for (var i = 0; i < rounds; i++)
            {
                var (all, connected) = await cell.RestartAgentAsync(microVms);
                adopted.Add(all);
                listed.Add(connected);
            }

            var died = pids.Count(pid => !Directory.Exists($"/proc/{pid}"));
            if (died > 0)
                throw new BenchmarkException($"{died} of {microVms} VMMs did not survive their agent");
            await cell.DeleteAsync();
            return
            [
                new("adopted_s", Median(adopted), "s"),
                new("adopted_worst_s", adopted.Max(), "s"),
                new("connected_s", Median(listed), "s"),
            ];
        }
        finally
        {
            cell.Dispose();
            folder.Delete(recursive: true);
        }
    }

    private static double Median(List<double> values) => values.Order().ElementAt(values.Count / 2);

    /// <summary>A control plane and one host's agent, each a process.</summary>
    private sealed class Cell(string folder) : IDisposable
    {
        private readonly int _api = FreePort.Next();
        private readonly int _link = FreePort.Next();
        private readonly HttpClient _http = new() { Timeout = TimeSpan.FromMinutes(2) };
        private readonly List<string> _ids = [];
        private Process? _scheduler;
        private Process? _agent;

        public async Task UpAsync()
        {
            _http.BaseAddress = new Uri($"http://127.0.0.1:{_api}");
            _scheduler = Start("scheduler", "--data", Path.Combine(folder, "cell"), "--api", $"127.0.0.1:{_api}", "--link", $"127.0.0.1:{_link}");
            Read(_scheduler, _ => { });
            await UntilAsync("the control plane to be up", async () => (await _http.GetAsync("/v1/health")).IsSuccessStatusCode);
            var admin = await File.ReadAllTextAsync(Path.Combine(folder, "cell", "credentials", "admin.token"));
            _http.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", admin.Trim());
            using var made = await _http.PostAsync("/v1/tokens", JsonContent.Create(new JsonObject { ["role"] = "host" }));
            made.EnsureSuccessStatusCode();
            var token = (await made.Content.ReadFromJsonAsync<JsonElement>()).GetProperty("secret").GetString()!;
            _agent = StartAgent(_ => { }, "--token", token);
            await UntilAsync("the host to be connected", ConnectedAsync);
        }

        /// <returns>The VMMs' processes.</returns>
        public async Task<IReadOnlyList<int>> CreateAsync(string kernel, int count, int memoryMib)
        {
            for (var i = 0; i < count; i++)
            {
                var spec = new JsonObject
                {
                    ["name"] = $"small-{i}", ["memory_mib"] = memoryMib, ["driver"] = "kvm", ["boot"] = new JsonObject { ["kernel_path"] = kernel },
                };
                using var answer = await _http.PostAsync("/v1/vms", JsonContent.Create(spec));
                answer.EnsureSuccessStatusCode();
                _ids.Add((await answer.Content.ReadFromJsonAsync<JsonElement>()).GetProperty("id").GetString()!);
            }

            var pids = new List<int>();
            foreach (var id in _ids)
            {
                var vm = await _http.GetFromJsonAsync<JsonElement>($"/v1/vms/{id}/wait?state=running,failed&timeout=100");
                if (vm.GetProperty("state").GetString() != "running")
                    throw new BenchmarkException($"a microVM did not run: {vm.GetProperty("reason")}");
                pids.Add(vm.GetProperty("vmm_pid").GetInt32());
            }

            return pids;
        }

        /// <returns>Seconds from the new process's start to the last adoption, and to the host being connected again.</returns>
        public async Task<(double Adopted, double Connected)> RestartAgentAsync(int count)
        {
            End(_agent!);
            await UntilAsync("the host to be gone", async () => !await ConnectedAsync());
            var adopted = 0;
            var last = 0L;
            var began = Stopwatch.GetTimestamp();
            _agent = StartAgent(line =>
            {
                if (line.Contains(AdoptedLine, StringComparison.Ordinal) && Interlocked.Increment(ref adopted) == count)
                    Volatile.Write(ref last, Stopwatch.GetTimestamp());
            });
            await UntilAsync("the host to be connected", ConnectedAsync);
            var connected = Stopwatch.GetElapsedTime(began).TotalSeconds;
            await UntilAsync("every microVM to be adopted", () => Task.FromResult(Volatile.Read(ref last) != 0));
            return (Stopwatch.GetElapsedTime(began, last).TotalSeconds, connected);
        }

        public async Task DeleteAsync()
        {
            foreach (var id in _ids)
                (await _http.DeleteAsync($"/v1/vms/{id}")).EnsureSuccessStatusCode();
            foreach (var id in _ids)
                await UntilAsync("the microVMs to be gone", async () => (await _http.GetAsync($"/v1/vms/{id}")).StatusCode == HttpStatusCode.NotFound);
        }

        public void Dispose()
        {
            foreach (var process in (Process?[])[_agent, _scheduler])
            {
                if (process is { HasExited: false })
                    End(process);
            }

            EndStrays();
            _http.Dispose();
        }

        // After a run that broke off: no VMM may stay.
        private void EndStrays()
        {
            foreach (var file in Directory.Exists(Path.Combine(folder, "host")) ? Directory.GetFiles(Path.Combine(folder, "host"), "vmm.pid", SearchOption.AllDirectories) : [])
            {
                var pid = File.ReadLines(file).LastOrDefault()?.Split(' ')[0];
                var id = Path.GetFileName(Path.GetDirectoryName(file)!);
                if (pid is null || !File.Exists($"/proc/{pid}/cmdline") || !File.ReadAllText($"/proc/{pid}/cmdline").Contains(id, StringComparison.Ordinal))
                    continue;
                using var stray = Process.GetProcessById(int.Parse(pid, CultureInfo.InvariantCulture));
                stray.Kill();
                stray.WaitForExit(TimeSpan.FromSeconds(10));
            }
        }

        private async Task<bool> ConnectedAsync()
        {
            var hosts = await _http.GetFromJsonAsync<JsonElement>("/v1/hosts");
            return hosts.GetProperty("items").EnumerateArray().Any(host => host.GetProperty("state").GetString() == "connected");
        }

        private Process StartAgent(Action<string> line, params string[] token)
        {
            var agent = Start(["host", "--data", Path.Combine(folder, "host"), "--join", $"127.0.0.1:{_link}", "--id", "bench", "--cpus", "1000", .. token]);
            Read(agent, line);
            return agent;
        }

        private static Process Start(params string[] words) => Process.Start(
            new ProcessStartInfo("dotnet", [Path.Combine(Checkout.Artifacts, "cli", "fleet.dll"), .. words]) { RedirectStandardOutput = true, RedirectStandardError = true })!;

        private static void Read(Process process, Action<string> line)
        {
            process.OutputDataReceived += (_, data) => line(data.Data ?? "");
            process.BeginOutputReadLine();
            process.BeginErrorReadLine();
        }

        private static void End(Process process)
        {
            using var kill = Process.Start("kill", ["-TERM", process.Id.ToString(CultureInfo.InvariantCulture)]);
            kill.WaitForExit();
            if (!process.WaitForExit(TimeSpan.FromSeconds(30)))
                process.Kill();
        }

        private static async Task UntilAsync(string what, Func<Task<bool>> condition)
        {
            var began = Stopwatch.GetTimestamp();
            while (true)
            {
                try
                {
                    if (await condition())
                        return;
                }
                catch (HttpRequestException)
                {
                    // Not up yet.
                }

                if (Stopwatch.GetElapsedTime(began) > Patience)
                    throw new BenchmarkException($"waited {Patience.TotalSeconds} s for {what}");
                await Task.Delay(20);
            }
        }
    }
}
