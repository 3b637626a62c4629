using System.IO.Compression;
using System.Text;

namespace Fleet.Scheduler.Simulation;

/// <summary>Lines of a trace, unpacked where its name ends in .gz. Neither a long line nor a small file that unpacks to a large one takes more memory than a line.</summary>
internal sealed class TraceFile : IDisposable
{
    private const int LongestLine = 1 << 16;

    private readonly StreamReader _reader;
    private readonly StringBuilder _line = new();

    public TraceFile(string path)
    {
        Path = path;
        try
        {
            Stream stream = File.OpenRead(path);
            _reader = new StreamReader(path.EndsWith(".gz", StringComparison.Ordinal) ? new GZipStream(stream, CompressionMode.Decompress) : stream);
        }
        catch (Exception cannot) when (cannot is IOException or UnauthorizedAccessException)
        {
            throw new TraceException(TraceException.NotFound, $"'{path}' can't be read: {cannot.Message}");
        }
    }

    /// <param name="path">What it is called in errors.</param>
    /// <param name="stream">Left open.</param>
    public TraceFile(string path, Stream stream)
    {
        Path = path;
        _reader = new StreamReader(stream, leaveOpen: true);
    }

    public string Path { get; }

    /// <summary>Of the last line, from 1.</summary>
    public int Number { get; private set; }

    /// <summary>Null: there is no more.</summary>
    /// <exception cref="TraceException">It is too long, or does not unpack.</exception>
    public string? Next()
    {
        _line.Clear();
        try
        {
            Number++;
            int character;
            while ((character = _reader.Read()) >= 0)
            {
                if (character == '\n')
                    break;
                if (_line.Length == LongestLine)
                    throw Malformed($"longer than {LongestLine} characters");
                _line.Append((char)character);
            }
            if (character < 0 && _line.Length == 0)
                return null;
            if (_line.Length > 0 && _line[^1] == '\r')
                _line.Length--;
            return _line.ToString();
        }
        catch (Exception broken) when (broken is IOException or InvalidDataException)
        {
            throw Malformed(broken.Message);
        }
    }

    public TraceException Malformed(string what) => new(TraceException.Malformed, $"'{Path}', line {Number}: {what}.");

    public void Dispose() => _reader.Dispose();
}
