namespace Fleet.Guest.Linux;

/// <summary>Settings of a serial terminal.</summary>
internal static unsafe class Terminal
{
    /// <summary>Larger than the C library's struct termios (60 bytes).</summary>
    private const int TermiosBytes = 128;

    private const uint B115200 = 0x1002;
    private const int TCSANOW = 0, TCOOFF = 0, TCOON = 1;
    private const nuint TIOCSWINSZ = 0x5414;

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
    /// A serial line does not know its window. Unless it is told one, line editors ask the terminal by escape sequences, which
    /// end up in the log when nobody is there to answer.
    /// </summary>
    public static void SetSize(int fd)
    {
        // SAFETY: struct winsize is four 16-bit numbers: rows, columns and two unused.
        var size = stackalloc ushort[4] { 24, 80, 0, 0 };
        Libc.ioctl(fd, TIOCSWINSZ, size);
    }

    /// <summary>True when this process's session has the terminal, so that a foreground group can be named.</summary>
    public static bool IsControlling(int fd) => Libc.tcgetpgrp(fd) >= 0;

    /// <summary>Lets go what a Ctrl-S holds back: nobody is left to type Ctrl-Q.</summary>
    public static void Resume(int fd)
    {
        // TCOON undoes only what TCOOFF did; the two together also undo a Ctrl-S.
        Libc.tcflow(fd, TCOOFF);
        Libc.tcflow(fd, TCOON);
    }

    /// <summary>Waits until everything written has left the port, at most <see cref="DrainLimit"/>, also what a Ctrl-S holds back. As long as another writes it never has.</summary>
    public static bool Drain(int fd)
    {
        var drained = new Thread(() =>
        {
            Resume(fd);
            while (Libc.tcdrain(fd) != 0 && System.Runtime.InteropServices.Marshal.GetLastPInvokeError() == Libc.EINTR)
            {
            }
        }, 256 * 1024)
        { IsBackground = true };
        drained.Start();
        return drained.Join(DrainLimit);
    }
}
