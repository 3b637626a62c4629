using System.Text;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Reporting;

/// <summary>
/// The second serial port, on which fleet-init tells the host how it goes (docs/guest-protocol.md). A machine without one
/// runs the command all the same; the reports are dropped.
/// </summary>
internal sealed class StatusPort
{
    public const string Path = "/dev/ttyS1";

    private const int LongestMessage = 300;

    private readonly int _fd;

    private StatusPort(int fd) => _fd = fd;

    /// <summary>Opens the port raw: no echo, no translation.</summary>
    public static StatusPort Open()
    {
        var fd = Files.Open(Path, Libc.O_WRONLY | Libc.O_NOCTTY, out _);
        if (fd >= 0) Terminal.MakeRaw(fd);
        return new StatusPort(fd);
    }

    public void Ready() => Send("FLEET 1 ready");

    public void Exit(int status) => Send($"FLEET 1 exit {status}");

    /// <summary>The same of one that was asked to end, did not in its time, and was killed.</summary>
    public void Killed(int status)
    {
        Send("FLEET 1 killed");
        Exit(status);
    }

    public void Error(string code, string message) => Send(ErrorLine(code, message));

    /// <summary>Waits until every byte has left the port.</summary>
    public void Drain()
    {
        if (_fd >= 0) Terminal.Drain(_fd);
    }

    /// <summary>One line whatever the message holds.</summary>
    internal static string ErrorLine(string code, string message)
    {
        var line = new StringBuilder($"FLEET 1 error {code} ");
        foreach (var rune in message.AsSpan(0, Math.Min(message.Length, LongestMessage)).EnumerateRunes())
            line.Append(Rune.IsControl(rune) ? "?" : rune.ToString());
        return line.ToString();
    }

    private void Send(string line)
    {
        if (_fd >= 0) Files.WriteAll(_fd, Encoding.UTF8.GetBytes(line + "\n"));
    }
}
