using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Cli.Output;

/// <summary>
/// The terminal that standard input is, made to hand on every key as it is typed: lines and echo are the business of the
/// terminal at the other end, and signals too unless they are kept. Dispose it, and it is as before.
/// </summary>
internal sealed partial class RawTerminal : IDisposable
{
    /// <summary>Larger than the C library's struct termios (60 bytes).</summary>
    private const int TermiosBytes = 128;

    private const int Now = 0;

    /// <summary>Where c_oflag and c_lflag are in struct termios.</summary>
    private const int OutputFlags = 4, LocalFlags = 12;

    /// <summary>ISIG.</summary>
    private const byte KeysAreSignals = 1;

    private readonly byte[] _before;

    private RawTerminal(byte[] before) => _before = before;

    /// <summary>
    /// What is typed, as it comes: the base library's own stream makes whole lines of what is typed into a terminal, and echoes it once more.
    /// </summary>
    public static FileStream OpenInput() => new(new SafeFileHandle(0, ownsHandle: false), FileAccess.Read, bufferSize: 0);

    /// <summary>Null: standard input is no terminal.</summary>
    /// <param name="keepSignals">Ctrl-C is for this program, and what it prints is as ever.</param>
    public static RawTerminal? TryEnter(bool keepSignals = false)
    {
        var before = new byte[TermiosBytes];
        if (tcgetattr(0, before) != 0)
            return null;
        var raw = (byte[])before.Clone();
        cfmakeraw(raw);
        if (keepSignals)
        {
            before.AsSpan(OutputFlags, sizeof(uint)).CopyTo(raw.AsSpan(OutputFlags));
            raw[LocalFlags] |= KeysAreSignals;
        }
        return tcsetattr(0, Now, raw) == 0 ? new RawTerminal(before) : null;
    }

    public void Dispose() => _ = tcsetattr(0, Now, _before);

    [LibraryImport("libc")]
    private static partial int tcgetattr(int fd, [Out] byte[] termios);

    [LibraryImport("libc")]
    private static partial int tcsetattr(int fd, int when, byte[] termios);

    [LibraryImport("libc")]
    private static partial void cfmakeraw([In, Out] byte[] termios);
}
