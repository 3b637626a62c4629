using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Fleet.Vmm.Api;
using Fleet.Vmm.Tests.Devices.Virtio;
using Xunit;

namespace Fleet.Vmm.Tests.Api;

/// <summary>A directory of its own, gone afterwards.</summary>
internal sealed class ScratchDirectory : IDisposable
{
    public ScratchDirectory() => Root = Directory.CreateTempSubdirectory("fleet-vmm-").FullName;

    public string Root { get; }

    public string File(string name, string? content = null)
    {
        var path = Path.Combine(Root, name);
        if (content is not null)
        {
            System.IO.File.WriteAllText(path, content);
        }

        return path;
    }

    public void Dispose() => Directory.Delete(Root, recursive: true);
}

/// <summary>The whole VMM but KVM, on a thread of its own: real socket, real loop, real files.</summary>
internal sealed class RunningVmm : IDisposable
{
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    private readonly Thread _thread;
    private readonly System.IO.Pipes.AnonymousPipeServerStream _signals = new(System.IO.Pipes.PipeDirection.Out);
    private int? _exitCode;

    public RunningVmm(FakeMachines? machines = null, bool waitForSocket = true, params string[] arguments)
        : this([], machines, waitForSocket, arguments)
    {
    }

    /// <summary>In a network of its own, with these taps.</summary>
    public RunningVmm(string[] taps, FakeMachines? machines = null, bool waitForSocket = true, params string[] arguments)
    {
        Machines = machines ?? new FakeMachines();
        Socket = Directory.File("api.sock");
        ExitFile = Directory.File("exit.json");
        Log = Directory.File("log");
        Kernel = Directory.File("kernel", "not a kernel, but a file");
        string[] all = ["--api-sock", Socket, "--exit-file", ExitFile, "--log-path", Log, "--id", "test-1", "--level", "Debug", .. arguments];

        // A duplicate, because the VMM closes the descriptor that it is given.
        var reader = NonBlockingDuplicate((int)_signals.ClientSafePipeHandle.DangerousGetHandle());
        _thread = new Thread(() =>
        {
            if (taps.Length > 0)
            {
                OwnNetwork.Enter(taps);
            }

            _exitCode = VmmProcess.Run(all, (_, _) => Machines, TimeProvider.System, () => reader);
        }) { IsBackground = true };
        _thread.Start();
        if (waitForSocket)
        {
            Assert.True(SpinWait.SpinUntil(IsListening, Patience), "no API socket");
        }
    }

    public ScratchDirectory Directory { get; } = new();

    public FakeMachines Machines { get; }

    public string Socket { get; }

    public string ExitFile { get; }

    public string Log { get; }

    public string Kernel { get; }

    public RawClient Connect() => new(Socket);

    public (int Status, string Body) Request(string method, string path, string? body = null)
    {
        using var client = Connect();
        return client.Request(method, path, body);
    }

    public void Ok(string method, string path, string body)
    {
        var answer = Request(method, path, body);
        Assert.Equal((204, ""), answer);
    }

    /// <summary>The sentence of a refused request.</summary>
    public string Fault(string method, string path, string? body = null)
    {
        var (status, text) = Request(method, path, body);
        Assert.Equal(400, status);
        return FaultOf(text);
    }

    public static string FaultOf(string body)
    {
        using var json = JsonDocument.Parse(body);
        Assert.Equal("fault_message", Assert.Single(json.RootElement.EnumerateObject()).Name);
        return json.RootElement.GetProperty("fault_message").GetString()!;
    }

    public void Start()
    {
        Ok("PUT", "/boot-source", $$"""{"kernel_image_path": "{{Kernel}}"}""");
        Ok("PUT", "/actions", """{"action_type": "InstanceStart"}""");
    }

    public void Signal(int number)
    {
        var info = new byte[128];
        info[0] = (byte)number;
        _signals.Write(info);
        _signals.Flush();
    }

    public int WaitForExit()
    {
        Assert.True(_thread.Join(Patience), "the VMM did not end");
        return _exitCode!.Value;
    }

    public (int Code, string Reason, string Message) ReadExitFile()
    {
        using var json = JsonDocument.Parse(File.ReadAllText(ExitFile));
        var root = json.RootElement;
        return (root.GetProperty("code").GetInt32(), root.GetProperty("reason").GetString()!, root.GetProperty("message").GetString()!);
    }

    /// <summary>The file alone says nothing: it is there between bind and listen.</summary>
    private bool IsListening()
    {
        try
        {
            using var client = Connect();
            return true;
        }
        catch (SocketException early) when (early.SocketErrorCode is SocketError.ConnectionRefused or SocketError.AddressNotAvailable)
        {
            return false;
        }
    }

    public void Dispose()
    {
        if (_thread.IsAlive)
        {
            Signal(15);
            WaitForExit();
        }

        _signals.Dispose();
        Directory.Dispose();
    }

    private static int NonBlockingDuplicate(int fd)
    {
        const int DuplicateCloseOnExec = 1030;
        const int SetFlags = 4;
        const int NonBlocking = 0x800;
        var duplicate = Native.fcntl(fd, DuplicateCloseOnExec, 0);
        Assert.True(duplicate >= 0);
        Assert.Equal(0, Native.fcntl(duplicate, SetFlags, NonBlocking));
        return duplicate;
    }
}

internal static partial class Native
{
    [System.Runtime.InteropServices.LibraryImport("libc", SetLastError = true)]
    public static partial int fcntl(int fd, int command, int argument);

    [System.Runtime.InteropServices.LibraryImport("libc", SetLastError = true)]
    public static partial int dup2(int fd, int number);

    [System.Runtime.InteropServices.LibraryImport("libc", SetLastError = true)]
    public static partial int kill(int pid, int signal);

    [System.Runtime.InteropServices.LibraryImport("libc", SetLastError = true, StringMarshalling = System.Runtime.InteropServices.StringMarshalling.Utf8)]
    public static partial int mkfifo(string path, uint mode);
}

/// <summary>A client that sends exactly the bytes it is told to.</summary>
internal sealed class RawClient : IDisposable
{
    private readonly Socket _socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly List<byte> _received = [];

    public RawClient(string path)
    {
        _socket.ReceiveTimeout = (int)RunningVmm.Patience.TotalMilliseconds;
        _socket.SendTimeout = _socket.ReceiveTimeout;
        _socket.Connect(new UnixDomainSocketEndPoint(path));
    }

    public Socket Socket => _socket;

    public void Send(string text) => Send(Encoding.Latin1.GetBytes(text));

    public void Send(byte[] bytes)
    {
        for (var sent = 0; sent < bytes.Length;)
        {
            sent += _socket.Send(bytes.AsSpan(sent));
        }
    }

    public (int Status, string Body) Request(string method, string path, string? body = null)
    {
        Send($"{method} {path} HTTP/1.1\r\nHost: localhost\r\n" + (body is null ? "\r\n" : $"Content-Length: {Encoding.UTF8.GetByteCount(body)}\r\n\r\n"));
        if (body is not null)
        {
            Send(Encoding.UTF8.GetBytes(body));
        }

        return ReadAnswer();
    }

    /// <summary>The next answer, its headers checked.</summary>
    public (int Status, string Body) ReadAnswer()
    {
        int end;
        while ((end = Text().IndexOf("\r\n\r\n", StringComparison.Ordinal)) < 0)
        {
            Assert.True(ReadSome(), $"the connection ended within an answer: {Text()}");
        }

        var head = Text()[..end].Split("\r\n");
        Assert.Matches("^HTTP/1\\.1 [0-9]{3} ", head[0]);
        var status = int.Parse(head[0].AsSpan(9, 3), System.Globalization.CultureInfo.InvariantCulture);
        var length = head.Where(h => h.StartsWith("Content-Length: ", StringComparison.Ordinal)).Select(h => int.Parse(h.AsSpan(16), System.Globalization.CultureInfo.InvariantCulture)).SingleOrDefault();
        Assert.Equal(status is 100 or 204, length == 0);
        if (length > 0)
        {
            Assert.Contains("Content-Type: application/json", head);
        }

        while (_received.Count < end + 4 + length)
        {
            Assert.True(ReadSome(), "the connection ended within a body");
        }

        var body = Encoding.UTF8.GetString([.. _received.Skip(end + 4).Take(length)]);
        _received.RemoveRange(0, end + 4 + length);
        return (status, body);
    }

    /// <summary>True when the server ends the connection without another byte.</summary>
    public bool IsEnded()
    {
        try
        {
            return _received.Count == 0 && !ReadSome();
        }
        catch (SocketException reset) when (reset.SocketErrorCode == SocketError.ConnectionReset)
        {
            return true;
        }
    }

    public void Dispose() => _socket.Dispose();

    private string Text() => Encoding.Latin1.GetString([.. _received]);

    private bool ReadSome()
    {
        var buffer = new byte[65536];
        var got = _socket.Receive(buffer);
        _received.AddRange(buffer.AsSpan(0, got));
        return got > 0;
    }
}
