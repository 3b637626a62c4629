using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Metadata;
using Fleet.Vmm.Tests.Devices.Virtio;
using Xunit;

namespace Fleet.Vmm.Tests.Metadata;

/// <summary>
/// Linux as the guest: this machine's own ARP and TCP, in a network of the test's own, talk through a tap to the service,
/// with check sums and segmentation left to the device as a guest's driver leaves them.
/// </summary>
public class KernelTcpTests
{
    private const int Header = NetDevice.HeaderSize;
    private static readonly IPEndPoint Metadata = new(IPAddress.Parse("169.254.169.254"), 80);

    [SkippableFact]
    public void Should_serve_what_Linux_asks()
    {
        Skip.IfNot(OwnNetwork.IsPossible, "needs root and /dev/net/tun");
        OwnNetwork.Run(
            () => WithService(needsToken: false, _ =>
            {
                using (var socket = Connect())
                {
                    // Three on one connection, the last one asked together with the one before.
                    Assert.EndsWith("\r\n\r\nami-1", Ask(socket, "GET /latest/meta-data/ami-id HTTP/1.1\r\nHost: a\r\n\r\n", "ami-1"), StringComparison.Ordinal);
                    var both = Ask(socket, "GET /latest/meta-data/ami-id HTTP/1.1\r\n\r\nGET /no HTTP/1.1\r\n\r\n", "/no.");
                    Assert.Contains("ami-1HTTP/1.1 404", both, StringComparison.Ordinal);
                }

                // A request as large as there is, which Linux leaves to the device to cut into segments.
                using var large = Connect();
                var request = "GET /latest/user-data HTTP/1.1\r\nConnection: close\r\nX: ";
                large.Send(Encoding.ASCII.GetBytes(request + new string('x', MetadataService.LargestRequest - request.Length - 4) + "\r\n\r\n"));
                Assert.EndsWith("läuft", ReadToEnd(large), StringComparison.Ordinal);

                // A whole HTTP client, over one connection.
                using var client = Client();
                Assert.Equal("ami-1", client.GetStringAsync("/latest/meta-data/ami-id").GetAwaiter().GetResult());
                client.DefaultRequestHeaders.Accept.ParseAdd("application/json");
                Assert.Equal("[\"a\",{\"b\":\"c\"}]", client.GetStringAsync("/latest/meta-data/list").GetAwaiter().GetResult());
                Assert.Equal(HttpStatusCode.NotFound, client.GetAsync("/no").GetAwaiter().GetResult().StatusCode);
            }),
            "fleet0");
    }

    [SkippableFact]
    public void Should_send_long_answers_to_many_at_once()
    {
        Skip.IfNot(OwnNetwork.IsPossible, "needs root and /dev/net/tun");
        OwnNetwork.Run(
            () => WithService(needsToken: true, service =>
            {
                var text = string.Concat(Enumerable.Range(0, 9000).Select(i => $"{i:x4} "));
                service.Store.Replace(MetadataValue.String(text));
                using var first = Connect();
                var token = Ask(first, "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n", "").Split("\r\n\r\n")[1];
                for (var round = 0; round < 3; round++)
                {
                    var sockets = Enumerable.Range(0, 5).Select(_ => Connect()).ToList();
                    sockets.ForEach(socket => socket.Send(Encoding.ASCII.GetBytes($"GET / HTTP/1.0\r\nX-metadata-token: {token}\r\n\r\n")));
                    foreach (var socket in sockets)
                    {
                        Assert.Equal(text, ReadToEnd(socket).Split("\r\n\r\n")[1]);
                        socket.Dispose();
                    }
                }
            }),
            "fleet0");
    }

    // Runs the service behind the tap on a thread of this network while the test asks.
    private static void WithService(bool needsToken, Action<MetadataService> test)
    {
        Busybox("ip", "addr", "add", "169.254.0.1/16", "dev", "fleet0");
        using var memory = new GuestMemory(1 << 20);
        using var tap = new TapInterface("fleet0", memory);
        tap.SetOffloads(NetworkOffloads.Checksum | NetworkOffloads.Tso4);
        var service = new MetadataService(51200, TimeProvider.System) { Settings = new MetadataSettings(["e"], needsToken, Service.Address, false) };
        service.Store.Replace(Service.Parse(Service.Document));
        var stop = false;
        Exception? failure = null;
        var partial = 0;
        var pump = new Thread(() =>
        {
            try
            {
                partial = Pump(new MetadataNetwork(service, Service.Address), tap, memory, ref stop);
            }
            catch (Exception thrown)
            {
                failure = thrown;
            }
        });
        pump.Start();
        try
        {
            test(service);
        }
        finally
        {
            Volatile.Write(ref stop, true);
            pump.Join();
        }

        Assert.Null(failure);
        Assert.True(partial > 0, "no frame came without its sum: the test proves less than it says");
        Assert.Equal(0ul, service.Metrics.Since((int)MetadataCount.AcceptedWithError));
    }

    // As the network device does it; how many frames came with their sums left out.
    private static int Pump(MetadataNetwork network, TapInterface tap, GuestMemory memory, ref bool stop)
    {
        var partial = 0;
        var frame = new byte[NetDevice.LargestFrame];
        while (!Volatile.Read(ref stop))
        {
            var idle = true;
            while (tap.Receive(frame) is var length and > Header)
            {
                idle = false;
                partial += frame[0] & 1;
                _ = network.TryTake(frame.AsSpan(Header, length - Header), (frame[0] & 1) != 0);
            }

            network.Tick();
            while (network.NextFrame(frame.AsSpan(Header)) is var made && made > 0)
            {
                idle = false;
                frame.AsSpan(0, Header).Clear();
                frame.AsSpan(0, Header + made).CopyTo(memory.Slice(0x1000, Header + made));
                Assert.True(tap.Send([new GuestBuffer(0x1000, Header + made)]));
            }

            if (idle)
            {
                Thread.Yield();
            }
        }

        return partial;
    }

    private static Socket Connect()
    {
        var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { ReceiveTimeout = 20_000, SendTimeout = 20_000, NoDelay = true };
        socket.Connect(Metadata);
        return socket;
    }

    private static string Ask(Socket socket, string request, string end)
    {
        socket.Send(Encoding.ASCII.GetBytes(request));
        var text = new StringBuilder();
        var buffer = new byte[4096];
        do
        {
            var got = socket.Receive(buffer);
            Assert.True(got > 0, $"ended after: {text}");
            text.Append(Encoding.UTF8.GetString(buffer, 0, got));
        }
        while (!text.ToString().EndsWith(end, StringComparison.Ordinal));
        return text.ToString();
    }

    private static string ReadToEnd(Socket socket)
    {
        using var all = new MemoryStream();
        var buffer = new byte[4096];
        for (int got; (got = socket.Receive(buffer)) > 0;)
        {
            all.Write(buffer, 0, got);
        }

        return Encoding.UTF8.GetString(all.ToArray());
    }

    private static HttpClient Client()
    {
        // Made here: a socket belongs to the network of the thread that makes it.
        var socket = Connect();
        return new HttpClient(new SocketsHttpHandler { ConnectCallback = (_, _) => ValueTask.FromResult<Stream>(new NetworkStream(socket, ownsSocket: true)), UseProxy = false })
        {
            BaseAddress = new Uri("http://169.254.169.254"),
            Timeout = TimeSpan.FromSeconds(20),
        };
    }

    private static void Busybox(params string[] arguments)
    {
        using var command = Process.Start("busybox", arguments);
        command.WaitForExit();
        Assert.Equal(0, command.ExitCode);
    }
}
