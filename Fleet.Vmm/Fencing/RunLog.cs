using System.Buffers.Text;
using System.Text;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Fencing;

/// <summary>
/// Writes down when the guest may run (docs/fencing.md), for whoever checks afterwards that no two copies ever did. Each line is one
/// append to the file; one that can't be written is lost, and nothing else is. On the event loop.
/// </summary>
internal sealed class RunLog : IDisposable
{
    /// <summary>What the caller says of the microVM is repeated in every line.</summary>
    public const int LongestLabel = 512;

    private static readonly TimeSpan AlivePeriod = TimeSpan.FromMilliseconds(500);

    private readonly LoopTimer _alive;
    private readonly byte[] _line;
    private readonly byte[] _label;
    private readonly Lease _lease;
    private int _fd;
    private bool _runs;
    private bool _ran;

    /// <param name="path">A file, made when it is missing, or a passed descriptor.</param>
    /// <param name="label">JSON members for every line; printable ASCII, at most <see cref="LongestLabel"/>.</param>
    /// <param name="loop">Tells the time.</param>
    /// <param name="lease">Without it no vCPU runs, whether the loop has seen that or not.</param>
    /// <exception cref="SystemCallException">The file can't be opened.</exception>
    public RunLog(string path, string label, EventLoop loop, Lease lease)
    {
        _lease = lease;
        _label = Encoding.ASCII.GetBytes(label);
        _line = new byte[_label.Length + 128];
        _fd = Descriptors.OpenSink(path);
        _alive = new LoopTimer(loop, OnAlive);
        _alive.Start(AlivePeriod, AlivePeriod);
    }

    /// <summary>The guest may run from now on; before it does.</summary>
    public void Run()
    {
        (_runs, _ran) = (true, true);
        Write("run"u8);
    }

    /// <summary>Every vCPU is out of the guest, until <see cref="Run"/>.</summary>
    public void Stand()
    {
        if (_runs)
        {
            _runs = false;
            Write("stand"u8);
        }
    }

    /// <summary>The same for ever; nothing for a guest that never ran.</summary>
    public void End()
    {
        if (_ran)
        {
            (_runs, _ran) = (false, false);
            Write("end"u8);
        }
    }

    public void Dispose()
    {
        _alive.Dispose();
        if (_fd >= 0)
        {
            _ = Descriptors.close(_fd);
            _fd = -1;
        }
    }

    private void OnAlive()
    {
        // A process that was stopped comes here before it sees that its lease lapsed meanwhile.
        if (_runs && !_lease.HasLapsed)
        {
            Write("alive"u8);
        }
    }

    private void Write(ReadOnlySpan<byte> happened)
    {
        var at = 0;
        Add("{\"boot_ms\":"u8);
        _ = Utf8Formatter.TryFormat(KernelClock.BootNow / 1_000_000, _line.AsSpan(at), out var digits);
        at += digits;
        Add(","u8);
        Add(_label);
        Add(",\"event\":\""u8);
        Add(happened);
        Add("\"}\n"u8);
        _ = Descriptors.WriteAll(_fd, _line.AsSpan(0, at));

        void Add(ReadOnlySpan<byte> text)
        {
            text.CopyTo(_line.AsSpan(at));
            at += text.Length;
        }
    }
}
