using System.Net.Sockets;
using System.Text.Json;
using Fleet.Host.Consoles;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Fencing;
using Fleet.Host.Pressure;
using Fleet.Shared.Contracts;
using Serilog;

namespace Fleet.Host.Drivers;

/// <summary>
/// What every VMM that is a process has in common: its status port and console are kept, its end is noticed whoever its
/// parent is, and stopping it is bounded in time. A driver adds how to talk to its VMM.
/// </summary>
internal abstract class RunningVmm : IVmm
{
    // Until the guest is ready somebody waits for it; afterwards only files must not grow.
    private static readonly TimeSpan EagerPoll = TimeSpan.FromMilliseconds(50);
    private static readonly TimeSpan EagerFor = TimeSpan.FromMinutes(2);
    private static readonly TimeSpan LazyPoll = TimeSpan.FromMilliseconds(500);

    // After its last word fleet-init only syncs and powers down. A guest that takes longer is helped along.
    private static readonly TimeSpan Farewell = TimeSpan.FromSeconds(20);

    // Parts of the five seconds that a stop may take beyond its grace.
    private static readonly TimeSpan QuitTimeout = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan KillTimeout = TimeSpan.FromSeconds(2);

    private static readonly TimeSpan StuckTold = TimeSpan.FromSeconds(10);

    private const long MaxLogBytes = 1 << 20;

    private readonly StatusLog _status;
    private readonly ConsoleLog _console;
    private readonly TaskCompletionSource<VmmEnd> _completion = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource<IReadOnlyList<int>> _threads = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource _ready = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly CancellationTokenSource _detached = new();
    private readonly Lock _gate = new();
    private Task? _keeping;
    private bool _stopAsked;
    private volatile bool _impatient;
    private VmmEnd? _verdict;
    private ConsoleExtent _kept;

    protected RunningVmm(VmmLaunch launch, VmmProcess process, DriverOptions options)
    {
        Launch = launch;
        Process = process;
        Clock = options.Clock;
        Log = options.Log.ForContext("vm", launch.VmId);
        _status = new StatusLog(Path.Combine(launch.Directory, VmmFiles.Status));
        _console = new ConsoleLog(launch.Directory, options.Clock);
    }

    public int Pid => Process.Pid;

    public Task<VmmEnd> Completion => _completion.Task;

    public Task GuestReady => _ready.Task;

    public Task<IReadOnlyList<int>> VcpuThreads => _threads.Task;

    protected VmmLaunch Launch { get; }

    protected VmmProcess Process { get; }

    protected TimeProvider Clock { get; }

    protected ILogger Log { get; }

    /// <summary>Cancelled when the VMM is let go or gone.</summary>
    protected CancellationToken Detached => _detached.Token;

    /// <summary>Begins to keep the VMM; to be called once, when it runs.</summary>
    public void Keep() => _keeping = KeepAsync();

    public Task StopAsync(TimeSpan grace)
    {
        // The guest is asked once; a further call only sets an earlier end to the waiting, if it does.
        bool first = !Interlocked.Exchange(ref _stopAsked, true);
        return StopOnceAsync(grace, first);
    }

    public virtual Task<LimiterReading?> ReadLimiterAsync(string name, CancellationToken cancellation) => Task.FromResult<LimiterReading?>(null);

    public virtual VmmUse? ReadUse() => Process.Ended.IsCompleted ? null : ProcessIdentity.ReadUse(Pid);

    public virtual Task SetLimiterAsync(string name, RateLimit? limit, CancellationToken cancellation) =>
        limit is null ? Task.CompletedTask : throw new NotSupportedException($"This VMM has no rate limiter '{name}'.");

    public virtual Task<BalloonReading?> ReadBalloonAsync(CancellationToken cancellation) => Task.FromResult<BalloonReading?>(null);

    public virtual Task SetBalloonAsync(uint targetMib, TimeSpan tells, CancellationToken cancellation) => Task.CompletedTask;

    public virtual void ShareCpu(CpuShare share)
    {
    }

    public virtual Task SuspendAsync(string forHost = "", uint forEnrolment = 0) => throw new Snapshots.SnapshotFailedException("Its driver can't save it.");

    public virtual Task<bool> HoldLeaseAsync(VmmLease lease, CancellationToken cancellation) => Task.FromResult(false);

    public virtual async Task<Stream?> ConnectGuestAsync(CancellationToken cancellation)
    {
        if (!File.Exists(Path.Combine(Launch.Directory, VmmFiles.GuestSocket))) return null;
        try
        {
            return new NetworkStream(await VmmSocket.ConnectAsync(Launch.Directory, VmmFiles.GuestSocket, cancellation).ConfigureAwait(false), ownsSocket: true);
        }
        catch (SocketException e)
        {
            throw new IOException($"The VMM does not take a connection to its guest: {e.Message}", e);
        }
    }

    public ValueTask WriteConsoleAsync(ReadOnlyMemory<byte> input, CancellationToken cancellation)
    {
        cancellation.ThrowIfCancellationRequested();
        string path = Path.Combine(Launch.Directory, VmmFiles.ConsoleInput);
        if (input.IsEmpty || Completion.IsCompleted || !File.Exists(path)) return ValueTask.CompletedTask;
        using var pipe = Posix.TryOpenFifoWriter(path);
        if (pipe is not null) Posix.WriteNonblocking(pipe, input.Span);
        return ValueTask.CompletedTask;
    }

    /// <summary>Lets go of the VMM, which runs on.</summary>
    public async ValueTask DisposeAsync()
    {
        await _detached.CancelAsync().ConfigureAwait(false);
        if (_keeping is not null) await _keeping.ConfigureAwait(false);
        await ReleaseAsync().ConfigureAwait(false);
        GC.SuppressFinalize(this);
    }

    /// <summary>Ends the VMM at once and waits until it is gone, however long the kernel takes: what may run is never called ended.</summary>
    internal async Task DestroyAsync()
    {
        Process.Signal(Posix.SigKill);
        while (!Process.Ended.IsCompleted)
        {
            await Process.Gone.WaitAsync(StuckTold, TimeProvider.System).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            if (!Process.Ended.IsCompleted) Log.Error("VMM {Pid} does not end after SIGKILL; look for it in state D. Waiting for it", Pid);
        }
        await DisposeAsync().ConfigureAwait(false);
    }

    /// <summary>Asks the guest to power down. Called again each second until the guest is ready to hear it.</summary>
    protected abstract Task AskGuestAsync(CancellationToken cancellation);

    /// <summary>The VMM has a limit on file sizes, which is to go along with its console. One with volumes has none: they are larger.</summary>
    protected virtual bool FilesAreLimited => Launch.Spec.Volumes.Count == 0;

    /// <summary>Files of the directory where a VMM writes a few lines, if anything.</summary>
    protected virtual IEnumerable<string> SmallFiles => [VmmFiles.Exit];

    /// <summary>Asks the VMM to end now.</summary>
    protected abstract Task QuitAsync(CancellationToken cancellation);

    /// <summary>Says how the VMM ended when neither a request nor the guest's status explains it.</summary>
    protected abstract VmmEnd Explain(ProcessEnd end);

    /// <summary>Gives back what the driver holds of the VMM: connections, not the process.</summary>
    protected abstract ValueTask ReleaseAsync();

    /// <summary>Notes which threads the vCPUs are; the first answer counts.</summary>
    protected void Learn(IEnumerable<int> threads) => _threads.TrySetResult([.. threads]);

    /// <summary>Notes why the VMM is about to end; the first reason counts.</summary>
    protected void Decide(VmmEnd verdict)
    {
        lock (_gate) _verdict ??= verdict;
    }

    /// <summary>The limit on file sizes is the console's again.</summary>
    protected void LimitFiles()
    {
        if (Posix.MayLimitOthers) Process.LimitFileSize(_kept.Start + (ulong)ConsoleLog.Limit);
    }

    /// <summary>Ends the VMM and waits until it is gone, however long the kernel takes.</summary>
    protected async Task EndAsync()
    {
        while (!Process.Ended.IsCompleted) await FinishAsync().ConfigureAwait(false);
        if (_keeping is not null) await _keeping.ConfigureAwait(false);
    }

    /// <summary>Asks the VMM to end, and kills it when it does not.</summary>
    protected async Task FinishAsync()
    {
        using (var limit = new CancellationTokenSource(QuitTimeout, Clock))
        {
            await AttemptAsync(QuitAsync, "quit", limit.Token).ConfigureAwait(false);
            await Process.Gone.WaitAsync(limit.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
        if (Process.Ended.IsCompleted) return;
        await AttemptAsync(_ => { Process.Signal(Posix.SigKill); return Task.CompletedTask; }, "kill", CancellationToken.None)
            .ConfigureAwait(false);
        await Process.Gone.WaitAsync(KillTimeout, Clock).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        if (!Process.Ended.IsCompleted) Log.Error("VMM {Pid} does not end after SIGKILL; look for it in state D", Pid);
    }

    /// <summary>An end without a word, told by signal or exit code and the VMM's last line.</summary>
    protected VmmEnd Unexplained(ProcessEnd end)
    {
        string? words = VmmProcess.LastWords(Launch.Directory);
        string tail = words is null ? "" : $" Its last line: {words}";
        return end switch
        {
            { Signal: { } signal } => Failed("vmm_killed", $"The VMM (pid {Pid}) was ended by signal {signal}.{tail}"),
            { ExitCode: { } code and not 0 } => Failed("vmm_failed", $"The VMM (pid {Pid}) stopped with exit code {code}.{tail}"),
            _ => Failed("vmm_killed", $"The VMM (pid {Pid}) ended without a word.{tail}"),
        };
    }

    protected static VmmEnd Failed(string code, string message) =>
        new(false, null, new Reason { Code = code, Message = message });

    protected static VmmEnd InOrder(string code, string message) =>
        new(true, null, new Reason { Code = code, Message = message });

    private async Task StopOnceAsync(TimeSpan grace, bool ask)
    {
        Decide(new VmmEnd(true, null, StopRequested()));
        await Task.Yield();
        if (grace > TimeSpan.Zero && !Process.Ended.IsCompleted)
        {
            using var limit = new CancellationTokenSource(grace, Clock);
            bool heard;
            do
            {
                bool ready = GuestReady.IsCompletedSuccessfully;
                // A VMM that was just taken over may not be connected yet: what it did not get is said again.
                heard = !ask || (await AttemptAsync(AskGuestAsync, "ask the guest to power down", limit.Token).ConfigureAwait(false) && ready);
                var patience = heard ? Timeout.InfiniteTimeSpan : TimeSpan.FromSeconds(1);
                await Process.Gone.WaitAsync(patience, Clock, limit.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }
            while (!heard && !Process.Ended.IsCompleted && !limit.IsCancellationRequested);
        }
        if (!Process.Ended.IsCompleted)
        {
            _impatient = grace > TimeSpan.Zero;
            await FinishAsync().ConfigureAwait(false);
        }
        if (Process.Ended.IsCompleted && _keeping is not null) await _keeping.ConfigureAwait(false);
    }

    private async Task<bool> AttemptAsync(Func<CancellationToken, Task> action, string what, CancellationToken cancellation)
    {
        try
        {
            await action(cancellation).ConfigureAwait(false);
            return true;
        }
        catch (Exception e) when (e is IOException or SocketException or TimeoutException or OperationCanceledException
            or HttpRequestException or JsonException or ObjectDisposedException or VmmRefusedException)
        {
            Log.Warning("VMM {Pid}: could not {What}: {Why}", Pid, what, e.Message);
            return false;
        }
    }

    private async Task KeepAsync()
    {
        await Task.Yield();
        try
        {
            await LookAfterAsync().ConfigureAwait(false);
        }
        catch (Exception e)
        {
            // Whatever it was, the end must still be told.
            Log.Error(e, "VMM {Pid} is no longer looked after: its console may fill up and its guest is not seen to be ready", Pid);
            await Process.Gone.WaitAsync(Detached).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
        if (Process.Ended.IsCompleted) await ConcludeAsync().ConfigureAwait(false);
        else
        {
            _ready.TrySetCanceled(Detached);
            _threads.TrySetCanceled(Detached);
        }
    }

    private async Task LookAfterAsync()
    {
        long began = Clock.GetTimestamp();
        long? farewell = null;
        while (!Process.Ended.IsCompleted && !Detached.IsCancellationRequested)
        {
            LookAtFiles();
            if (_status.Exit is not null || _status.Error is not null)
            {
                farewell ??= Clock.GetTimestamp();
                if (Clock.GetElapsedTime(farewell.Value) > Farewell)
                {
                    Log.Warning("Guest of VMM {Pid} said its last word but does not power down; ending it", Pid);
                    await FinishAsync().ConfigureAwait(false);
                }
            }
            using var wake = CancellationTokenSource.CreateLinkedTokenSource(Detached);
            bool eager = !GuestReady.IsCompleted && Clock.GetElapsedTime(began) < EagerFor;
            var pause = Task.Delay(eager ? EagerPoll : LazyPoll, Clock, wake.Token);
            await Task.WhenAny(pause, Process.Ended).ConfigureAwait(false);
            await wake.CancelAsync().ConfigureAwait(false);
        }
    }

    private async Task ConcludeAsync()
    {
        LookAtFiles();
        VmmEnd end;
        try
        {
            end = Judge(await Process.Ended.ConfigureAwait(false));
        }
        catch (Exception e)
        {
            // Completion must complete whatever the directory looks like by now.
            Log.Error(e, "The end of VMM {Pid} could not be explained", Pid);
            end = Failed("vmm_failed", $"The VMM (pid {Pid}) ended and its files could not be read: {e.Message}");
        }
        Log.Information("VMM {Pid} of {VmId} ended: {Code}: {Message}", Pid, Launch.VmId, end.Reason.Code, end.Reason.Message);
        _completion.TrySetResult(end);
        _ready.TrySetCanceled(CancellationToken.None);
        _threads.TrySetCanceled(CancellationToken.None);
        await _detached.CancelAsync().ConfigureAwait(false);
        await ReleaseAsync().ConfigureAwait(false);
    }

    private static Reason StopRequested(string more = "") => new() { Code = "stop_requested", Message = more.Length == 0 ? "Stopped on request." : $"Stopped on request. {more}" };

    private VmmEnd Judge(ProcessEnd end)
    {
        VmmEnd? verdict;
        lock (_gate) verdict = _verdict;
        // Before the guest's own words: what it was about to say it says when it goes on.
        if (verdict is { Saved: true }) return verdict;
        if (_status.Exit is { } exit)
        {
            return verdict is { InOrder: true, Reason.Code: "stop_requested" }
                ? verdict with { Exit = exit, Reason = _status.Killed ? StopRequested("Its command did not end in its time, and was killed.") : verdict.Reason }
                : new VmmEnd(true, exit, new Reason { Code = "command_exited", Message = $"The command ended with status {exit.Status}." });
        }
        if (verdict is { Reason.Code: "stop_requested" }) return _impatient ? verdict with { Reason = StopRequested("Its guest did not power down within the grace, and was ended.") } : verdict;
        if (_status.Error is { Code: "unhealthy" } unhealthy) return Failed("unhealthy", $"The health check failed, and fleet-init ended the guest: {unhealthy.Message}.");
        if (_status.Error is { } error)
        {
            return Failed("launch_failed", $"fleet-init could not go on: {error.Code}: {error.Message}");
        }
        return verdict ?? Explain(end);
    }

    private void LookAtFiles()
    {
        try
        {
            _status.Poll();
            if (_status.Ready && _ready.TrySetResult()) File.Delete(Path.Combine(Launch.Directory, VmmFiles.Initrd));
            var extent = _console.Trim();
            // What was said last is still to be read.
            if (Process.Ended.IsCompleted) return;
            foreach (string name in SmallFiles) EndIfTooLong(name);
            Shorten(VmmFiles.Log);
            Shorten(VmmFiles.ResetLog);
            if (extent.Start == _kept.Start || !FilesAreLimited) return;
            Process.LimitFileSize(extent.Start + (ulong)ConsoleLog.Limit);
            _kept = extent;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or System.ComponentModel.Win32Exception)
        {
            Log.Warning("Files of VMM {Pid} in {Directory} can't be looked after: {Why}", Pid, Launch.Directory, e.Message);
        }
    }

    // The limit on file sizes goes by offsets and so grows with the console's. Log, status and console are cut; of its last words a VMM
    // writes one line, and one that writes on has been broken into and would fill the disk.
    private void EndIfTooLong(string name)
    {
        var file = new FileInfo(Path.Combine(Launch.Directory, name));
        if (!file.Exists || file.Length <= MaxLogBytes) return;
        Log.Error("VMM {Pid} wrote {Bytes} bytes into {Name}, where a few lines belong; ending it", Pid, file.Length, name);
        Decide(Failed("vmm_failed", $"The VMM (pid {Pid}) wrote {file.Length} bytes into {name}, where a few lines belong: a guest broke into it, or it has a defect."));
        Process.Signal(Posix.SigKill);
        using var handle = File.OpenHandle(file.FullName, FileMode.Open, FileAccess.Write, FileShare.ReadWrite | FileShare.Delete);
        RandomAccess.SetLength(handle, 0);
    }

    // What a hostile guest makes its VMM say is not worth keeping. The VMM appends, so it goes on at the new end.
    private void Shorten(string name)
    {
        var file = new FileInfo(Path.Combine(Launch.Directory, name));
        if (!file.Exists || file.Length <= MaxLogBytes) return;
        using var handle = File.OpenHandle(file.FullName, FileMode.Open, FileAccess.Write, FileShare.ReadWrite | FileShare.Delete);
        RandomAccess.SetLength(handle, 0);
    }
}

/// <summary>The VMM answered, and the answer was no.</summary>
internal sealed class VmmRefusedException(string message) : Exception(message);
