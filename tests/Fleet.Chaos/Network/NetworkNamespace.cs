using System.Globalization;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;

namespace Fleet.Chaos.Network;

/// <summary>
/// A network of its own for some processes, with one interface <c>fleet0</c> whose packets go to whoever holds <see cref="Tun"/>, and its own
/// loopback. Nothing leads from it to the machine's network.
/// </summary>
internal sealed unsafe partial class NetworkNamespace : IDisposable
{
    private const string Prefix = "fleet-chaos-";
    private const string Folder = "/run/netns";
    private const string Interface = "fleet0";
    private const int NewNetwork = 0x40000000;
    private const ulong SetInterface = 0x400454ca;
    private const short TunWithoutHeader = 0x1001;
    private const int NonBlocking = 0x800;

    private NetworkNamespace(string name, int tun) => (Name, Tun) = (name, tun);

    public string Name { get; }

    /// <summary>Descriptor of the interface's other end: whole IPv4 packets, one per read and write. Does not block.</summary>
    public int Tun { get; }

    /// <summary>What to put before a command so that it runs in here; the process id stays.</summary>
    public string[] Enter => ["nsenter", $"--net={Folder}/{Name}", "--"];

    public static bool IsPossible => Environment.IsPrivilegedProcess && File.Exists("/dev/net/tun");

    /// <param name="name">Short; made unique by our process id.</param>
    /// <param name="address">Of the interface, for example 10.71.0.2.</param>
    /// <exception cref="InvalidOperationException">The machine does not let us.</exception>
    public static NetworkNamespace Create(string name, string address)
    {
        var full = string.Create(CultureInfo.InvariantCulture, $"{Prefix}{Environment.ProcessId}-{name}");
        Kernel.Run("ip", "netns", "add", full);
        try
        {
            var tun = Inside(full, OpenTun);
            Kernel.Run("ip", "-n", full, "link", "set", "lo", "up");
            Kernel.Run("ip", "-n", full, "addr", "add", $"{address}/24", "dev", Interface);
            // Few large packets: every one costs two system calls of ours.
            Kernel.Run("ip", "-n", full, "link", "set", Interface, "mtu", "16000", "up");
            return new NetworkNamespace(full, tun);
        }
        catch
        {
            Kernel.Run("ip", "netns", "delete", full);
            throw;
        }
    }

    /// <summary>A socket of this network; whoever has it may use it from everywhere.</summary>
    public Socket OpenSocket()
    {
        Socket? socket = null;
        _ = Inside(Name, () =>
        {
            socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
            return 0;
        });
        return socket!;
    }

    public void Dispose()
    {
        _ = close(Tun);
        Kernel.Run("ip", "netns", "delete", Name);
    }

    /// <summary>Ends what harnesses that died left: their processes, by the network they are in, and the networks.</summary>
    public static void CleanUp()
    {
        if (!Directory.Exists(Folder))
            return;
        foreach (var name in Directory.EnumerateFiles(Folder, $"{Prefix}*").Select(path => Path.GetFileName(path)))
        {
            var owner = name[Prefix.Length..].Split('-')[0];
            if (Directory.Exists($"/proc/{owner}"))
                continue;
            foreach (var pid in Kernel.Run("ip", "netns", "pids", name).Split('\n', StringSplitOptions.RemoveEmptyEntries))
                Kernel.Signal(int.Parse(pid, CultureInfo.InvariantCulture), Kernel.KillNow);
            Kernel.Run("ip", "netns", "delete", name);
        }
    }

    /// <summary>On a thread that is in that network and ends then: a thread of the pool would carry it to somebody else.</summary>
    private static int Inside(string name, Func<int> work)
    {
        var result = 0;
        Exception? failure = null;
        var thread = new Thread(() =>
        {
            try
            {
                using var network = File.OpenHandle($"{Folder}/{name}");
                if (setns((int)network.DangerousGetHandle(), NewNetwork) < 0)
                    throw Failed("setns");
                result = work();
            }
            catch (Exception thrown)
            {
                failure = thrown;
            }
        });
        thread.Start();
        thread.Join();
        return failure is null ? result : throw new InvalidOperationException($"Network {name}: {failure.Message}", failure);
    }

    private static int OpenTun()
    {
        const int ReadWrite = 2;
        var tun = open("/dev/net/tun", ReadWrite | NonBlocking | 0x80000);
        if (tun < 0)
            throw Failed("/dev/net/tun");

        // struct ifreq: the name, then the flags.
        var request = stackalloc byte[40];
        new Span<byte>(request, 40).Clear();
        Encoding.ASCII.GetBytes(Interface, new Span<byte>(request, 16));
        *(short*)(request + 16) = TunWithoutHeader;

        // SAFETY: the structure is on this frame; the kernel is done with it when the call returns.
        if (ioctl(tun, SetInterface, (nint)request) >= 0)
            return tun;
        var failure = Failed("TUNSETIFF");
        _ = close(tun);
        throw failure;
    }

    private static InvalidOperationException Failed(string call) => new($"{call}: {Marshal.GetLastPInvokeErrorMessage()}");

    [LibraryImport("libc", SetLastError = true)]
    private static partial int setns(int descriptor, int kind);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int ioctl(int descriptor, ulong request, nint argument);

    [LibraryImport("libc")]
    private static partial int close(int descriptor);
}
