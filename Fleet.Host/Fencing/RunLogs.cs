using System.Globalization;
using System.Text;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;
using Fleet.Shared.Vms;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Host.Fencing;

/// <summary>
/// Where this host's microVMs leave when their guests ran (docs/fencing.md): one file per launch. fleet-vmm writes its own;
/// for the other drivers the agent does.
/// </summary>
/// <param name="folder">Absolute.</param>
/// <param name="hostId">Stands in every line.</param>
public sealed class RunLogs(string folder, string hostId)
{
    private static int s_launches;

    /// <summary>The file of one launch or takeover; made by who writes it.</summary>
    public string NewFile(VmmLaunch launch)
    {
        ArgumentNullException.ThrowIfNull(launch);
        Directory.CreateDirectory(folder);
        return Path.Combine(folder, string.Create(
            CultureInfo.InvariantCulture, $"{launch.VmId}.{launch.Epoch}.{Environment.ProcessId}-{Interlocked.Increment(ref s_launches)}.jsonl"));
    }

    /// <summary>The JSON members that every line has beside its time and event.</summary>
    public string Label(VmmLaunch launch)
    {
        ArgumentNullException.ThrowIfNull(launch);
        var policy = launch.Spec.Fencing == FencingPolicy.Relaxed ? FencingPolicy.Relaxed : FencingPolicy.Strict;
        return string.Create(CultureInfo.InvariantCulture, $"\"vm\":\"{launch.VmId}\",\"epoch\":{launch.Epoch},\"policy\":\"{policy}\",\"host\":\"{hostId}\"");
    }
}

/// <summary>The run intervals of one guest that this process looks after. What can't be written is lost, and nothing else is.</summary>
internal sealed class RunLog : IDisposable
{
    private static readonly TimeSpan AlivePeriod = TimeSpan.FromMilliseconds(500);

    private readonly string _label;
    private readonly SafeFileHandle? _file;
    private readonly ITimer _alive;
    private readonly Lock _gate = new();
    private TimeSpan _until;
    private long _length;
    private bool _runs;
    private bool _ran;
    private bool _over;

    public RunLog(RunLogs logs, VmmLaunch launch, TimeProvider clock)
    {
        _label = logs.Label(launch);
        try
        {
            _file = File.OpenHandle(logs.NewFile(launch), FileMode.CreateNew, FileAccess.Write, FileShare.Read);
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException)
        {
            _over = true;
        }

        _alive = clock.CreateTimer(_ => OnAlive(), null, AlivePeriod, AlivePeriod);
    }

    /// <summary>The guest runs from now on, or runs for longer.</summary>
    /// <param name="until">Since the machine was switched on: then it stands, whoever is there to say so. Null: it does not.</param>
    public void Run(TimeSpan? until = null)
    {
        lock (_gate)
        {
            Settle();
            _until = until ?? TimeSpan.MaxValue;
            if (_runs || _over || Posix.BootTime >= _until)
                return;
            _runs = _ran = true;
            Write("run", Posix.BootTime);
        }
    }

    /// <summary>The guest runs no more, and never will; nothing is said of one that never did.</summary>
    public void End()
    {
        lock (_gate)
        {
            Settle();
            if (_ran)
                Write("end", Posix.BootTime);
        }

        Dispose();
    }

    /// <summary>Lets go of a guest that may run on.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _over = true;
            _alive.Dispose();
            _file?.Dispose();
        }
    }

    private void OnAlive()
    {
        lock (_gate)
        {
            Settle();
            if (_runs)
                Write("alive", Posix.BootTime);
        }
    }

    // This process may have been stopped or busy when the guest's time was over.
    private void Settle()
    {
        if (!_runs || Posix.BootTime < _until)
            return;
        _runs = false;
        Write("stand", _until);
    }

    private void Write(string happened, TimeSpan at)
    {
        if (_over)
            return;
        var line = Encoding.ASCII.GetBytes(string.Create(
            CultureInfo.InvariantCulture, $"{{\"boot_ms\":{(long)at.TotalMilliseconds},{_label},\"event\":\"{happened}\"}}\n"));
        try
        {
            RandomAccess.Write(_file!, line, _length);
            _length += line.Length;
        }
        catch (IOException)
        {
            // A disk that is full must not end the guest.
            return;
        }
    }
}
