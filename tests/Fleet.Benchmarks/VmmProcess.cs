using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using System.Text.Json.Nodes;
using Fleet.Tests;

namespace Fleet.Benchmarks;

/// <summary>A fleet-vmm that a benchmark drives over its API socket; ended and cleaned up behind it.</summary>
internal sealed class VmmProcess : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-bench-").FullName;
    private readonly Process _process;
    private readonly HttpClient _client;

    /// <param name="tap">A tap that it finds, in a network of its own; null: it stays in ours and there is none.</param>
    public VmmProcess(string? tap = null)
    {
        var socket = File("api.sock");
        string[] command = tap is null
            ? [Program, "--api-sock", socket, "--id", "bench"]
            : ["unshare", "-n", "sh", "-c", $"busybox tunctl -t {tap} >&2 && exec \"$0\" \"$@\"", Program, "--api-sock", socket, "--id", "bench"];
        _process = Process.Start(new ProcessStartInfo(command[0], command[1..])
        {
            RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true,
        })!;
        _client = new HttpClient(new SocketsHttpHandler
        {
            ConnectCallback = async (_, cancellation) =>
            {
                var connection = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                await connection.ConnectAsync(new UnixDomainSocketEndPoint(socket), cancellation);
                return new NetworkStream(connection, ownsSocket: true);
            },
        })
        { BaseAddress = new Uri("http://vmm"), Timeout = Patience };
        if (!SpinWait.SpinUntil(() => System.IO.File.Exists(socket) || _process.HasExited, Patience) || _process.HasExited)
            throw new BenchmarkException($"fleet-vmm has no API socket: {_process.StandardError.ReadToEnd()}");
    }

    /// <summary>The published program; throws when it is not built or can't run here.</summary>
    public static string Program
    {
        get
        {
            var program = Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm");
            if (!System.IO.File.Exists(program))
                throw new BenchmarkException($"{program} is not built: run ./fleet build");
            return System.IO.File.Exists("/dev/kvm") ? program : throw new BenchmarkException("no /dev/kvm on this machine, and fleet-vmm needs it");
        }
    }

    public int Pid => _process.Id;

    /// <summary>A path in the benchmark's own folder.</summary>
    public string File(string name) => Path.Combine(_folder, name);

    public void Put(string path, string body) => Send(HttpMethod.Put, path, body);

    public void Patch(string path, string body) => Send(HttpMethod.Patch, path, body);

    private void Send(HttpMethod method, string path, string body)
    {
        using var request = new HttpRequestMessage(method, path) { Content = new StringContent(body, Encoding.UTF8, "application/json") };
        using var answer = _client.Send(request);
        if (!answer.IsSuccessStatusCode)
            throw new BenchmarkException($"{method} {path}: {answer.Content.ReadAsStringAsync().Result}");
    }

    public JsonNode Get(string path) => JsonNode.Parse(_client.GetStringAsync(new Uri(path, UriKind.Relative)).Result)!;

    public void Dispose()
    {
        _client.Dispose();
        if (!_process.HasExited)
            _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
        Directory.Delete(_folder, recursive: true);
    }
}
