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

    public VmmProcess()
    {
        var socket = File("api.sock");
        _process = Process.Start(new ProcessStartInfo(Program, ["--api-sock", socket, "--id", "bench"])
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

    public void Put(string path, string body)
    {
        using var request = new HttpRequestMessage(HttpMethod.Put, path) { Content = new StringContent(body, Encoding.UTF8, "application/json") };
        using var answer = _client.Send(request);
        if (!answer.IsSuccessStatusCode)
            throw new BenchmarkException($"PUT {path}: {answer.Content.ReadAsStringAsync().Result}");
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
