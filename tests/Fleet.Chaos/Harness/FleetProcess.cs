using System.Diagnostics;
using Fleet.Chaos.Network;

namespace Fleet.Chaos.Harness;

/// <summary>One process of the fleet under test, which may die and is started again. Thread-safe.</summary>
internal sealed class FleetProcess(string name, string[] command, string log) : ITarget, IDisposable
{
    private static readonly TimeSpan OrderlyEnd = TimeSpan.FromSeconds(30);

    private readonly Lock _gate = new();
    private Process? _process;
    private bool _wanted;
    private long _begins;

    public string Name => name;

    /// <summary>0: it does not run.</summary>
    public int Pid
    {
        get
        {
            lock (_gate)
                return _process is { HasExited: false } process ? process.Id : 0;
        }
    }

    public IReadOnlyList<int> Pids => Pid is var pid and > 0 ? [pid] : [];

    public bool HasFailed
    {
        get
        {
            lock (_gate)
                return _wanted && _process is { HasExited: true };
        }
    }

    public void Start()
    {
        lock (_gate)
        {
            _wanted = true;
            if (_process is { HasExited: false })
                return;
            _process?.Dispose();
            _begins = File.Exists(log) ? new FileInfo(log).Length : 0;
            _process = Process.Start(new ProcessStartInfo("sh", ["-c", "out=$1; shift; exec \"$@\" >>\"$out\" 2>&1 </dev/null", "sh", log, .. command]))!;
        }
    }

    public Task StartAsync()
    {
        Start();
        return Task.CompletedTask;
    }

    public Task KillAsync()
    {
        Kill();
        return Task.CompletedTask;
    }

    public void Kill()
    {
        lock (_gate)
        {
            _wanted = false;
            if (_process is not { HasExited: false } process)
                return;
            process.Kill();
            process.WaitForExit();
        }
    }

    public async Task<bool> EndAsync()
    {
        Process? process;
        lock (_gate)
        {
            _wanted = false;
            process = _process;
        }

        if (process is not { HasExited: false })
            return true;
        Kernel.Signal(process.Id, Kernel.Continue);
        Kernel.Signal(process.Id, Kernel.End);
        using var patience = new CancellationTokenSource(OrderlyEnd);
        try
        {
            await process.WaitForExitAsync(patience.Token);
            return true;
        }
        catch (OperationCanceledException)
        {
            Kill();
            return false;
        }
    }

    public string LogTail(int lines = 20)
    {
        if (!File.Exists(log))
            return "";
        using var file = new FileStream(log, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        file.Position = Volatile.Read(ref _begins);
        using var reader = new StreamReader(file);
        return string.Join('\n', reader.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries).TakeLast(lines));
    }

    public void Dispose()
    {
        Kill();
        _process?.Dispose();
    }
}
