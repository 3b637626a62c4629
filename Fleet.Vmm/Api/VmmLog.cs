using System.Runtime.CompilerServices;
using System.Text;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Api;

/// <summary>From nothing to everything.</summary>
internal enum LogLevel
{
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// <summary>The levels' names as Firecracker takes them, case ignored.</summary>
internal static class LogLevels
{
    public static readonly string[] Names = ["Off", "Trace", "Debug", "Info", "Warn", "Warning", "Error"];

    public static LogLevel FromIndex(int index) => index switch
    {
        0 => LogLevel.Off,
        1 => LogLevel.Trace,
        2 => LogLevel.Debug,
        3 => LogLevel.Info,
        4 or 5 => LogLevel.Warn,
        _ => LogLevel.Error,
    };

    public static LogLevel? Parse(string name)
    {
        for (var i = 0; i < Names.Length; i++)
        {
            if (string.Equals(name, Names[i], StringComparison.OrdinalIgnoreCase))
            {
                return FromIndex(i);
            }
        }

        return null;
    }

    public static string Name(LogLevel level) => level switch
    {
        LogLevel.Off => "Off",
        LogLevel.Error => "Error",
        LogLevel.Warn => "Warning",
        LogLevel.Info => "Info",
        LogLevel.Debug => "Debug",
        _ => "Trace",
    };
}

/// <summary>
/// The log: Firecracker's lines, <c>2026-11-23T12:00:00.123456700 [id:main:LEVEL:origin] message</c>, to a file, a FIFO, or standard
/// error until one is named. It never waits: what can't be written at once is dropped and counted.
/// </summary>
internal sealed class VmmLog(string instanceId, TimeProvider clock) : IDisposable
{
    /// <summary>PIPE_BUF: a line up to here enters a pipe whole or not at all.</summary>
    private const int LongestLine = 4096;

    /// <summary>Lines per <see cref="Window"/>; a caller that floods the API must not flood the disk.</summary>
    private const int LinesPerWindow = 500;

    /// <summary>What a guest causes has lines of its own: one that breaks its devices all the while must not hide what the host did.</summary>
    private const int GuestsLinesPerWindow = 100;

    private static readonly TimeSpan Window = TimeSpan.FromSeconds(5);

    private const int StandardError = 2;

    private readonly byte[] _line = new byte[LongestLine];
    private int _sink = StandardError;
    private LogLevel _level = LogLevel.Info;
    private bool _showLevel;
    private bool _showOrigin;
    private readonly LineBudget _budget = new(clock, LinesPerWindow);
    private readonly LineBudget _guestsBudget = new(clock, GuestsLinesPerWindow);

    /// <summary>Lines that were dropped: the sink was full or failed, or there were too many.</summary>
    public ulong Missed { get; private set; }

    /// <summary>Applies what is said and keeps the rest. Throws <see cref="SystemCallException"/> when the path can't be opened; nothing is changed then.</summary>
    public void Configure(LoggerConfig config)
    {
        if (config.LogPath is { } path)
        {
            var sink = Descriptors.OpenSink(path);
            Dispose();
            _sink = sink;
        }

        _level = config.Level ?? _level;
        _showLevel = config.ShowLevel ?? _showLevel;
        _showOrigin = config.ShowLogOrigin ?? _showOrigin;
    }

    public void Error(string message, [CallerMemberName] string member = "", [CallerLineNumber] int line = 0) => Write(LogLevel.Error, message, member, line);

    public void Warn(string message, [CallerMemberName] string member = "", [CallerLineNumber] int line = 0) => Write(LogLevel.Warn, message, member, line);

    /// <summary>As <see cref="Warn"/>, of something that the guest can cause as often as it likes.</summary>
    public void WarnOfGuest(string message, [CallerMemberName] string member = "", [CallerLineNumber] int line = 0) =>
        Write(LogLevel.Warn, message, member, line, _guestsBudget);

    public void Info(string message, [CallerMemberName] string member = "", [CallerLineNumber] int line = 0) => Write(LogLevel.Info, message, member, line);

    public void Debug(string message, [CallerMemberName] string member = "", [CallerLineNumber] int line = 0) => Write(LogLevel.Debug, message, member, line);

    public void Dispose()
    {
        if (_sink != StandardError)
        {
            _ = Descriptors.close(_sink);
            _sink = StandardError;
        }
    }

    private void Write(LogLevel level, string message, string member, int line, LineBudget? budget = null)
    {
        if (level > _level)
        {
            return;
        }

        if (!(budget ?? _budget).Take() || !Descriptors.CanWrite(_sink) || !Descriptors.WriteAll(_sink, Format(level, message, member, line)))
        {
            Missed++;
        }
    }

    private ReadOnlySpan<byte> Format(LogLevel level, string message, string member, int line)
    {
        var text = new LineWriter(_line);
        text.Time(clock.GetUtcNow());
        text.Ascii(" [");
        text.Ascii(instanceId);
        text.Ascii(":main");
        if (_showLevel)
        {
            text.Ascii(":");
            text.Ascii(level switch { LogLevel.Error => "ERROR", LogLevel.Warn => "WARN", LogLevel.Info => "INFO", LogLevel.Debug => "DEBUG", _ => "TRACE" });
        }

        if (_showOrigin)
        {
            text.Ascii(":");
            text.Ascii(member);
            text.Ascii(":");
            text.Number(line, 1);
        }

        text.Ascii("] ");
        text.Message(message);
        return text.Finish();
    }

    /// <summary>So many lines per <see cref="Window"/>.</summary>
    private sealed class LineBudget(TimeProvider clock, int lines)
    {
        private long _start;
        private int _taken;

        public bool Take()
        {
            var now = clock.GetTimestamp();
            if (_taken == 0 || clock.GetElapsedTime(_start, now) >= Window)
            {
                _start = now;
                _taken = 0;
            }

            return ++_taken <= lines;
        }
    }

    /// <summary>Fills a line; what does not fit is cut off. The last byte is kept for the newline.</summary>
    private ref struct LineWriter(Span<byte> line)
    {
        private readonly Span<byte> _line = line;
        private int _length;

        public void Time(DateTimeOffset time)
        {
            // By hand: the formatter of the framework pulls in cultures.
            var utc = time.UtcDateTime;
            Number(utc.Year, 4);
            Ascii("-");
            Number(utc.Month, 2);
            Ascii("-");
            Number(utc.Day, 2);
            Ascii("T");
            Number(utc.Hour, 2);
            Ascii(":");
            Number(utc.Minute, 2);
            Ascii(":");
            Number(utc.Second, 2);
            Ascii(".");
            Number((int)(utc.Ticks % TimeSpan.TicksPerSecond) * 100L, 9);
        }

        public void Number(long value, int digits)
        {
            Span<byte> text = stackalloc byte[20];
            var at = text.Length;
            do
            {
                text[--at] = (byte)('0' + value % 10);
                value /= 10;
            }
            while (value > 0 || text.Length - at < digits);

            foreach (var digit in text[at..])
            {
                Put(digit);
            }
        }

        public void Ascii(string text)
        {
            foreach (var c in text)
            {
                Put((byte)c);
            }
        }

        /// <summary>Control characters come from callers and guests; escaped, so that one message stays one line and no terminal obeys it.</summary>
        public void Message(string text)
        {
            Span<byte> utf8 = stackalloc byte[4];
            foreach (var rune in text.EnumerateRunes())
            {
                if (rune.Value is < 0x20 or (>= 0x7f and < 0xa0))
                {
                    Ascii("\\x");
                    Put(Hex(rune.Value >> 4));
                    Put(Hex(rune.Value & 15));
                    continue;
                }

                var size = rune.EncodeToUtf8(utf8);
                if (_length + size >= _line.Length)
                {
                    return;
                }

                utf8[..size].CopyTo(_line[_length..]);
                _length += size;
            }
        }

        public ReadOnlySpan<byte> Finish()
        {
            _line[_length++] = (byte)'\n';
            return _line[.._length];
        }

        private static byte Hex(int digit) => (byte)(digit < 10 ? '0' + digit : 'a' + digit - 10);

        private void Put(byte value)
        {
            if (_length < _line.Length - 1)
            {
                _line[_length++] = value;
            }
        }
    }
}
