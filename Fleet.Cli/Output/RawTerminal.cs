using System.Runtime.InteropServices;

namespace Fleet.Cli.Output;

/// <summary>
/// The terminal that standard input is, made to hand on every key as it is typed: lines, echo and signals are the business of the
/// terminal at the other end. Dispose it, and it is as before.
/// </summary>
internal sealed partial class RawTerminal : IDisposable
{
    /// <summary>Larger than the C library's struct termios (60 bytes).</summary>
    private const int TermiosBytes = 128;

    private const int Now = 0;

    private readonly byte[] _before;

    private RawTerminal(byte[] before) => _before = before;

    /// <summary>Null: standard input is no terminal.</summary>
    public static RawTerminal? TryEnter()
    {
        var before = new byte[TermiosBytes];
        if (tcgetattr(0, before) != 0)
            return null;
        var raw = (byte[])before.Clone();
        cfmakeraw(raw);
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
