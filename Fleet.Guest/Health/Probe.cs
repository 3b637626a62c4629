using System.Runtime.InteropServices;
using System.Text;
using Fleet.Guest.Linux;
using Fleet.Guest.Processes;

namespace Fleet.Guest.Health;

/// <summary>One check. Each gives null when it passed, else what was wrong, and takes no longer than its time-out.</summary>
internal static unsafe class Probe
{
    private const int AF_INET = 2, SOCK_STREAM = 1, SOCK_CLOEXEC = 0x80000, SOCK_NONBLOCK = 0x800;
    private const int EINPROGRESS = 115, SOL_SOCKET = 1, SO_ERROR = 4;

    /// <summary>struct sockaddr_in.</summary>
    private const int AddressBytes = 16;

    private const int LongestStatusLine = 512;

    /// <summary>Runs a program with no input and no output, or a script as a shell would; it is killed, with its group, when it takes too long.</summary>
    /// <param name="command">What runs.</param>
    /// <param name="folder">In which; null: that of fleet-init.</param>
    /// <param name="exits">Tells of its end.</param>
    /// <param name="nullDevice">Becomes its input and its outputs.</param>
    /// <param name="timeout">How long it may take.</param>
    public static string? Run(CommandLine command, string? folder, ChildExits exits, int nullDevice, TimeSpan timeout)
    {
        using var ended = new ManualResetEventSlim();
        int status = 0, pid = 0;
        var error = command.Path is null ? Libc.ENOENT : exits.Start(
            () => (Spawner.StartOrScript(command.Path, command.Argv, command.Environment, new Surroundings(nullDevice, nullDevice, nullDevice) { Folder = folder }, out var started), started),
            result =>
            {
                status = result;
                ended.Set();
            }, out pid);
        if (error != 0) return $"{command.Argv[0]}: {Files.Describe(error)}";
        if (ended.Wait(timeout)) return ExitStatus.Of(status) is 0 ? null : $"{command.Argv[0]} ended with status {ExitStatus.Of(status)}";
        exits.Signal(pid, Libc.SIGKILL);
        // It is gone before the event is: who tells of its end must find it.
        ended.Wait();
        return $"{command.Argv[0]} did not end within {timeout.TotalSeconds:0} s";
    }

    /// <summary>Connects to a port of this machine, and with a path asks it by HTTP.</summary>
    public static string? Ask(ushort port, string path, TimeSpan timeout)
    {
        var until = Environment.TickCount64 + (long)timeout.TotalMilliseconds;
        var fd = Libc.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0) return $"no socket: {Files.Describe(Marshal.GetLastPInvokeError())}";
        try
        {
            if (Connect(fd, port, until) is { } refused) return $"port {port}: {refused}";
            return path.Length == 0 ? null : Get(fd, port, path, until) is { } wrong ? $"GET {path} of port {port}: {wrong}" : null;
        }
        finally
        {
            Libc.close(fd);
        }
    }

    private static string? Connect(int fd, ushort port, long until)
    {
        // SAFETY: the address is on this frame, and its size is given.
        var address = stackalloc byte[AddressBytes];
        new Span<byte>(address, AddressBytes).Clear();
        *(ushort*)address = AF_INET;
        (address[2], address[3]) = ((byte)(port >> 8), (byte)port);
        (address[4], address[7]) = (127, 1);
        if (Libc.connect(fd, address, AddressBytes) == 0) return null;
        if (Marshal.GetLastPInvokeError() is not EINPROGRESS and var error) return Files.Describe(error);
        if (!Wait(fd, Libc.POLLOUT, until)) return "no connection in time";
        int failed = 0;
        uint length = sizeof(int);
        // SAFETY: the kernel writes one int and its length, on this frame.
        if (Libc.getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &length) != 0) return Files.Describe(Marshal.GetLastPInvokeError());
        return failed == 0 ? null : Files.Describe(failed);
    }

    private static string? Get(int fd, ushort port, string path, long until)
    {
        var request = Encoding.ASCII.GetBytes($"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        // The path is bounded: it fits into a fresh socket's buffer.
        if (!Files.WriteAll(fd, request)) return "it takes no request";
        var line = stackalloc byte[LongestStatusLine];
        var length = 0;
        while (length < LongestStatusLine)
        {
            if (!Wait(fd, Libc.POLLIN, until)) return "no answer in time";
            // SAFETY: length is below the block's size.
            var read = Libc.read(fd, line + length, (nuint)(LongestStatusLine - length));
            if (read < 0 && Marshal.GetLastPInvokeError() is Libc.EINTR or Libc.EAGAIN) continue;
            if (read <= 0) break;
            length += (int)read;
            if (new ReadOnlySpan<byte>(line, length).Contains((byte)'\n')) break;
        }
        return Judge(new ReadOnlySpan<byte>(line, length));
    }

    /// <summary>What the beginning of an HTTP answer says.</summary>
    internal static string? Judge(ReadOnlySpan<byte> answer)
    {
        var space = answer.IndexOf((byte)' ');
        if (!answer.StartsWith("HTTP/1."u8) || space < 0 || answer.Length < space + 4
            || !int.TryParse(answer.Slice(space + 1, 3), System.Globalization.NumberStyles.None, null, out var status))
        {
            return "the answer is no HTTP";
        }
        return status is >= 200 and <= 399 ? null : $"status {status}";
    }

    private static bool Wait(int fd, short events, long until)
    {
        while (true)
        {
            var left = until - Environment.TickCount64;
            if (left <= 0) return false;
            var entry = new PollEntry { Fd = fd, Events = events };
            // SAFETY: one entry, on this frame.
            var ready = Libc.poll(&entry, 1, (int)left);
            if (ready > 0) return true;
            if (ready < 0 && Marshal.GetLastPInvokeError() != Libc.EINTR) return false;
        }
    }
}
