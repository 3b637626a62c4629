using System.Text;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Logs;

/// <summary>
/// The command's output on its way to the console, which takes a byte at a time and is far slower than a command can be. Where the host
/// gets all of it by the log, the console may miss some and says so; else the command waits. Thread-safe.
/// </summary>
/// <param name="console">Descriptor of the console.</param>
/// <param name="patience">A console that takes nothing for so long takes nothing any more. Also how long the end waits for what the host has anyway.</param>
internal sealed class ConsoleCopy(int console, TimeSpan patience)
{
    private const int Capacity = 1 << 20;
    private const int WriteBytes = 4096;

    /// <summary>While more is missed all the time: so many bytes at once, and between them a pause of so many times what they took, in milliseconds at most.</summary>
    private const int BehindBytes = 256, PauseTimes = 19, MostPause = 2000;

    private readonly object _gate = new();
    private readonly byte[] _ring = new byte[Capacity];
    private int _start;
    private int _count;
    private long _left;
    private int _underWay;
    private bool _finishing;
    private long _progressAt;

    public void Start() => new Thread(Write, 256 * 1024) { IsBackground = true, Name = "console" }.Start();

    /// <summary>Puts bytes behind the others.</summary>
    /// <param name="bytes">As they were written.</param>
    /// <param name="mayMiss">They need not be shown: where there is no room they are not. Else waits for it.</param>
    public void Put(ReadOnlySpan<byte> bytes, bool mayMiss)
    {
        lock (_gate)
        {
            // Once some is missing, the whole ring at once, and not a line here and a line there.
            if (mayMiss && (bytes.Length > Capacity - _count || (_left > 0 && _count > 0)))
            {
                _left += bytes.Length;
                return;
            }
            TellLeft();
            Add(bytes);
        }
    }

    /// <summary>Waits until everything is out, as long as the console goes on taking.</summary>
    /// <param name="mayMiss">The host has all of it: what is not out within the time of patience is not shown.</param>
    public void Finish(bool mayMiss)
    {
        lock (_gate)
        {
            _finishing = true;
            Monitor.PulseAll(_gate);
            var began = Environment.TickCount64;
            while (mayMiss && _count > 0 && began + (long)patience.TotalMilliseconds - Environment.TickCount64 is > 0 and var left) Monitor.Wait(_gate, (int)left);
            if (mayMiss)
            {
                _left += _count - _underWay;
                _count = _underWay;
            }
            TellLeft();
            _progressAt = Environment.TickCount64;
            while (_count > 0 && _progressAt + (long)patience.TotalMilliseconds - Environment.TickCount64 is > 0 and var left) Monitor.Wait(_gate, (int)left);
        }
    }

    private void TellLeft()
    {
        if (_left == 0) return;
        Add(Encoding.ASCII.GetBytes($"\nfleet-init: {_left} bytes of output are not shown here; the log has them\n"));
        _left = 0;
    }

    private void Add(ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            while (_count == Capacity) Monitor.Wait(_gate);
            var end = (_start + _count) % Capacity;
            var count = Math.Min(bytes.Length, Math.Min(Capacity - _count, Capacity - end));
            bytes[..count].CopyTo(_ring.AsSpan(end));
            _count += count;
            bytes = bytes[count..];
            Monitor.PulseAll(_gate);
        }
    }

    private void Write()
    {
        var left = 0L;
        while (true)
        {
            int start, count;
            bool isBehind;
            lock (_gate)
            {
                while (_count == 0) Monitor.Wait(_gate);
                isBehind = _left > left && !_finishing;
                left = _left;
                (start, count) = (_start, Math.Min(_count, Math.Min(isBehind ? BehindBytes : WriteBytes, Capacity - _start)));
                _underWay = count;
            }
            var began = Environment.TickCount64;
            // These bytes stay as they are until they are given free below.
            Files.WriteAll(console, _ring.AsSpan(start, count));
            // The port takes a page of bytes at once; what they cost shows when they have gone out.
            if (isBehind) _ = Libc.tcdrain(console);
            var took = (int)(Environment.TickCount64 - began);
            lock (_gate)
            {
                _start = (_start + count) % Capacity;
                _count -= count;
                _underWay = 0;
                _progressAt = Environment.TickCount64;
                Monitor.PulseAll(_gate);
                // What is not shown whole is not worth the machine's CPU, of which each byte costs some: a twentieth of it at the most.
                if (isBehind && !_finishing && took > 0) Monitor.Wait(_gate, Math.Min(PauseTimes * took, MostPause));
            }
        }
    }
}
