using System.Buffers;
using System.Globalization;
using System.Text;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Consoles;

/// <summary>
/// What fleet-init told through the second serial port (docs/guest-protocol.md). The guest writes the file, so anything
/// may stand in it: only the first 64 KiB are read, a line that is too long or makes no sense is passed over, and the
/// first exit or error is the last word.
/// </summary>
internal sealed class StatusLog(string path)
{
    /// <summary>Bytes that are read; what a guest writes beyond is cut off.</summary>
    public const int MaxBytes = 64 * 1024;

    private const int MaxLine = 512;
    private const int MaxMessage = 200;
    private const string Prefix = "FLEET 1 ";

    private static readonly SearchValues<char> CodeCharacters = SearchValues.Create("abcdefghijklmnopqrstuvwxyz_");

    private readonly byte[] _line = new byte[MaxLine];
    private int _length;
    private bool _tooLong;
    private long _read;

    /// <summary>fleet-init is about to start the command, or has.</summary>
    public bool Ready { get; private set; }

    /// <summary>The command did not end in its time when it was asked to, and fleet-init killed it.</summary>
    public bool Killed { get; private set; }

    /// <summary>How the command ended; null as long as fleet-init has not said so.</summary>
    public GuestExit? Exit { get; private set; }

    /// <summary>Why fleet-init itself could not go on; null when it did not say so.</summary>
    public Reason? Error { get; private set; }

    /// <summary>Reads what is new. Cuts the file when the guest wrote too much. Nothing when there is no file yet.</summary>
    public void Poll()
    {
        if (!File.Exists(path)) return;
        using var file = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite | FileShare.Delete);
        var buffer = new byte[4096];
        while (_read < MaxBytes && Exit is null && Error is null)
        {
            int count = RandomAccess.Read(file, buffer.AsSpan(0, (int)Math.Min(buffer.Length, MaxBytes - _read)), _read);
            if (count == 0) break;
            _read += count;
            Feed(buffer.AsSpan(0, count));
        }
        // The VMM appends, so it goes on at the new end.
        if (RandomAccess.GetLength(file) > MaxBytes) RandomAccess.SetLength(file, MaxBytes);
    }

    /// <summary>Takes in bytes as the guest wrote them.</summary>
    internal void Feed(ReadOnlySpan<byte> bytes)
    {
        foreach (byte b in bytes)
        {
            if (b != (byte)'\n')
            {
                if (_length < MaxLine) _line[_length++] = b;
                else _tooLong = true;
                continue;
            }
            if (!_tooLong) Take(Encoding.Latin1.GetString(_line, 0, _length).TrimEnd('\r'));
            _length = 0;
            _tooLong = false;
        }
    }

    private void Take(string line)
    {
        if (Exit is not null || Error is not null || !line.StartsWith(Prefix, StringComparison.Ordinal)) return;
        var words = line[Prefix.Length..].Split(' ', 3);
        switch (words[0])
        {
            case "ready" when words.Length == 1:
                Ready = true;
                break;
            case "killed" when words.Length == 1:
                Killed = true;
                break;
            case "exit" when words.Length == 2 && byte.TryParse(words[1], NumberStyles.None, CultureInfo.InvariantCulture, out byte status):
                Ready = true;
                Exit = new GuestExit { Status = status };
                break;
            case "error" when words.Length >= 2 && words[1].Length is > 0 and <= 32 && !words[1].AsSpan().ContainsAnyExcept(CodeCharacters):
                Error = new Reason { Code = words[1], Message = Printable(words.Length > 2 ? words[2] : "") };
                break;
        }
    }

    private static string Printable(string text)
    {
        if (text.Length > MaxMessage) text = text[..MaxMessage];
        return string.Concat(text.Select(c => c is >= ' ' and <= '~' ? c : '?'));
    }
}
