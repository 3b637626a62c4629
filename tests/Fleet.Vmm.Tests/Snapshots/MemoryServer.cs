using System.Buffers.Binary;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text.Json;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Tests.Snapshots;

/// <summary>A page fault handler as a user would write one: takes the userfaultfd over a socket, serves pages of a memory file on a thread.</summary>
internal sealed unsafe partial class MemoryServer : IDisposable
{
    private const int PageSize = 4096;
    private const byte PageFault = 0x12;
    private const byte Removed = 0x15;
    private const nuint Copy = 0xc028aa03;
    private const nuint ZeroPage = 0xc020aa04;

    private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly byte[] _memory;
    private readonly Thread _thread;
    private volatile bool _ends;
    private readonly HashSet<ulong> _removed = [];

    public MemoryServer(string socketPath, string memoryPath, int pagesToServe = int.MaxValue)
    {
        _memory = File.ReadAllBytes(memoryPath);
        _listener.Bind(new UnixDomainSocketEndPoint(socketPath));
        _listener.Listen(1);
        _thread = new Thread(() => Serve(pagesToServe)) { IsBackground = true };
        _thread.Start();
    }

    public int Served { get; private set; }

    public string Handshake { get; private set; } = "";

    public Exception? Failure { get; private set; }

    public void Dispose()
    {
        _ends = true;
        _listener.Dispose();
        Assert.True(_thread.Join(TimeSpan.FromSeconds(20)));
    }

    private void Serve(int pagesToServe)
    {
        try
        {
            using var connection = _listener.Accept();
            var fault = Receive(connection);
            using var json = JsonDocument.Parse(Handshake);
            var regions = json.RootElement.EnumerateArray()
                .Select(region => (Start: region.GetProperty("base_host_virt_addr").GetUInt64(), Size: region.GetProperty("size").GetUInt64(), Offset: region.GetProperty("offset").GetUInt64()))
                .ToArray();
            var message = stackalloc byte[32];
            while (!_ends && Served < pagesToServe)
            {
                if (Descriptors.read(fault, message, 32) != 32)
                {
                    Thread.Yield();
                    continue;
                }

                if (message[0] == Removed)
                {
                    var (from, to) = (*(ulong*)(message + 8), *(ulong*)(message + 16));
                    for (var page = from; page < to; page += PageSize)
                    {
                        _removed.Add(page);
                    }
                }
                else if (message[0] == PageFault)
                {
                    Fill(fault, *(ulong*)(message + 16) & ~(ulong)(PageSize - 1), regions);
                }
            }

            _ = Descriptors.close(fault);
        }
        catch (Exception failure) when (failure is SocketException or ObjectDisposedException or InvalidOperationException)
        {
            Failure = failure;
        }
    }

    private void Fill(int fault, ulong page, (ulong Start, ulong Size, ulong Offset)[] regions)
    {
        var (start, _, offset) = regions.Single(region => page >= region.Start && page - region.Start < region.Size);
        Served++;
        if (_removed.Contains(page))
        {
            var zero = stackalloc ulong[4] { page, PageSize, 0, 0 };
            _ = ioctl(fault, ZeroPage, zero);
            return;
        }

        fixed (byte* source = &_memory[page - start + offset])
        {
            var copy = stackalloc ulong[5] { page, (ulong)source, PageSize, 0, 0 };
            _ = ioctl(fault, Copy, copy);
        }
    }

    // One message with one descriptor: SCM_RIGHTS.
    private int Receive(Socket connection)
    {
        var buffer = new byte[4096];
        var control = stackalloc ulong[4];
        fixed (byte* start = buffer)
        {
            var part = stackalloc nuint[2] { (nuint)start, (nuint)buffer.Length };
            var header = stackalloc ulong[7] { 0, 0, (ulong)part, 1, (ulong)control, 32, 0 };
            var got = recvmsg((int)connection.SafeHandle.DangerousGetHandle(), header, 0);
            if (got <= 0 || control[0] != 20)
            {
                throw new InvalidOperationException($"the handshake has {got} bytes and a control message of {control[0]}");
            }

            Handshake = System.Text.Encoding.UTF8.GetString(buffer, 0, (int)got);
        }

        return ((int*)control)[4];
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint recvmsg(int fd, ulong* header, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int ioctl(int fd, nuint request, void* argument);
}
