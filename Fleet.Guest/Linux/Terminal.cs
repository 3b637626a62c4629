namespace Fleet.Guest.Linux;

/// <summary>Settings of a serial terminal.</summary>
internal static unsafe class Terminal
{
    /// <summary>Larger than the C library's struct termios (60 bytes).</summary>
    private const int TermiosBytes = 128;

    private const uint B115200 = 0x1002;
    private const int TCSANOW = 0, TCOON = 1;

    /// <summary>A stuck port (a host that reads no more) must not keep the microVM from ending.</summary>
    private static readonly TimeSpan DrainLimit = TimeSpan.FromSeconds(10);

    /// <summary>Bytes go out as they are written, and nothing is echoed.</summary>
    public static void MakeRaw(int fd)
    {
        var termios = stackalloc byte[TermiosBytes];
        // SAFETY: the block is larger than the structure that the three functions read and write.
        if (Libc.tcgetattr(fd, termios) != 0) return;
        Libc.cfmakeraw(termios);
        Libc.cfsetspeed(termios, B115200);
        Libc.tcsetattr(fd, TCSANOW, termios);
    }

    /// <summary>
    /// Waits until everything written has left the port, at most <see cref="DrainLimit"/>. Output that a Ctrl-S holds back
    /// is let go first: nobody is left to type Ctrl-Q.
    /// </summary>
    public static bool Drain(int fd)
    {
        var drained = new Thread(() =>
        {
            Libc.tcflow(fd, TCOON);
            while (Libc.tcdrain(fd) != 0 && System.Runtime.InteropServices.Marshal.GetLastPInvokeError() == Libc.EINTR)
            {
            }
        }, 256 * 1024)
        { IsBackground = true };
        drained.Start();
        return drained.Join(DrainLimit);
    }
}
