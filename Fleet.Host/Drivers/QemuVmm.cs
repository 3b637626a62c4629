using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Fencing;

namespace Fleet.Host.Drivers;

/// <summary>
/// A microVM under QEMU. QEMU is told to pause when the guest resets or powers off, not to exit: so the end of a guest
/// waits for an agent that is down, and a QEMU that is gone unasked was killed.
/// </summary>
internal sealed class QemuVmm : RunningVmm
{
    private static readonly TimeSpan LookEvery = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan LookTimeout = TimeSpan.FromSeconds(10);

    // A guest that halts to wait for an interrupt shows the same for an instant; nobody is halted twice by accident
    // with interrupts off on every vCPU and no CPU time used between.
    private const int HaltedReadings = 2;

    private readonly SemaphoreSlim _attention = new(0, 1);
    private QmpConnection? _qmp;
    private Task _tending = Task.CompletedTask;
    private readonly RunLog? _runs;
    private ulong? _cpuTicks;
    private int _halted;

    public QemuVmm(VmmLaunch launch, VmmProcess process, DriverOptions options) : base(launch, process, options)
    {
        // One that is taken over runs; a new one will in a moment.
        if (options.Runs is not { } runs) return;
        _runs = new RunLog(runs, launch, options.Clock);
        _runs.Run();
    }

    /// <summary>Connects, learns the vCPUs' threads and lets the guest run; false when QEMU ended instead.</summary>
    public async Task<bool> BeginAsync(CancellationToken cancellation)
    {
        if (!await ConnectAsync(cancellation).ConfigureAwait(false)) return false;
        await LookAsync(cancellation).ConfigureAwait(false);
        Attend();
        return true;
    }

    /// <summary>Keeps and tends the VMM; connecting is tried again until it works.</summary>
    public void Attend()
    {
        Keep();
        _tending = TendAsync();
    }

    protected override Task AskGuestAsync(CancellationToken cancellation)
    {
        var keys = new JsonArray();
        foreach (string key in (string[])["ctrl", "alt", "delete"]) keys.Add(new JsonObject { ["type"] = "qcode", ["data"] = key });
        return Connected().ExecuteAsync("send-key", new JsonObject { ["keys"] = keys }, cancellation);
    }

    protected override async Task QuitAsync(CancellationToken cancellation)
    {
        if (_qmp is { Lost.IsCompleted: false } qmp)
        {
            try
            {
                await qmp.ExecuteAsync("quit", null, cancellation).ConfigureAwait(false);
                return;
            }
            catch (IOException e)
            {
                // QEMU may be gone before its answer is sent.
                Log.Debug("QEMU {Pid} did not answer quit: {Why}", Pid, e.Message);
            }
        }
        Process.Signal(Posix.SigTerm);
    }

    protected override VmmEnd Explain(ProcessEnd end) => Unexplained(end);

    protected override async ValueTask ReleaseAsync()
    {
        if (Process.Ended.IsCompleted) _runs?.End();
        else _runs?.Dispose();
        await _tending.ConfigureAwait(false);
        if (Interlocked.Exchange(ref _qmp, null) is { } qmp) await qmp.DisposeAsync().ConfigureAwait(false);
    }

    private QmpConnection Connected() => _qmp ?? throw new IOException("There is no connection to QEMU");

    private async Task<bool> ConnectAsync(CancellationToken cancellation)
    {
        var socket = await VmmSocket.ConnectAsync(Launch.Directory, VmmFiles.QmpSocket, Process, Clock, cancellation).ConfigureAwait(false);
        if (socket is null) return false;
        _qmp = await QmpConnection.OpenAsync(socket, Clock, OnEvent, cancellation).ConfigureAwait(false);
        var cpus = await _qmp.ExecuteAsync("query-cpus-fast", null, cancellation).ConfigureAwait(false);
        Learn(cpus is JsonArray list ? list.Select(c => c?["thread-id"]?.GetValue<int>() ?? 0) : []);
        return true;
    }

    private void OnEvent(string name, JsonObject data)
    {
        if (name is not ("SHUTDOWN" or "STOP" or "GUEST_PANICKED")) return;
        Log.Debug("QEMU {Pid} says {Event} {Data}", Pid, name, data.ToJsonString());
        if (_attention.CurrentCount == 0) _attention.Release();
    }

    private async Task TendAsync()
    {
        await Task.Yield();
        while (!Detached.IsCancellationRequested && !Process.Ended.IsCompleted)
        {
            try
            {
                await _attention.WaitAsync(LookEvery, Detached).ConfigureAwait(false);
                using var time = new CancellationTokenSource(LookTimeout, Clock);
                using var limit = CancellationTokenSource.CreateLinkedTokenSource(Detached, time.Token);
                if (_qmp is not { Lost.IsCompleted: false })
                {
                    if (Interlocked.Exchange(ref _qmp, null) is { } old) await old.DisposeAsync().ConfigureAwait(false);
                    if (!await ConnectAsync(limit.Token).ConfigureAwait(false)) return;
                }
                await LookAsync(limit.Token).ConfigureAwait(false);
            }
            catch (OperationCanceledException) when (Detached.IsCancellationRequested)
            {
                return;
            }
            catch (Exception e) when (e is IOException or SocketException or TimeoutException or JsonException
                or OperationCanceledException or VmmRefusedException or InvalidOperationException)
            {
                if (!Process.Ended.IsCompleted) Log.Warning("QEMU {Pid} can't be asked how it is: {Why}", Pid, e.Message);
            }
        }
    }

    private async Task LookAsync(CancellationToken cancellation)
    {
        var status = await Connected().ExecuteAsync("query-status", null, cancellation).ConfigureAwait(false);
        switch (status?["status"]?.GetValue<string>())
        {
            case "prelaunch":
                await Connected().ExecuteAsync("cont", null, cancellation).ConfigureAwait(false);
                break;
            case "running":
                await LookForHaltAsync(cancellation).ConfigureAwait(false);
                break;
            case "shutdown":
                await EndAsync(TripleFaulted()
                    ? Failed("guest_crashed", "The guest's processor shut down after a triple fault.")
                    : InOrder("guest_shutdown", "The guest powered off or reset.")).ConfigureAwait(false);
                break;
            case "internal-error" or "guest-panicked" or "io-error":
                await EndAsync(Failed("guest_crashed", "The guest did what can't be emulated; vmm.log in its directory has its registers."))
                    .ConfigureAwait(false);
                break;
        }
    }

    private Task EndAsync(VmmEnd verdict)
    {
        Decide(verdict);
        return FinishAsync();
    }

    private async Task LookForHaltAsync(CancellationToken cancellation)
    {
        // A guest that works is not halted, and asking would interrupt it.
        ulong? ticks = ProcessIdentity.CpuTicks(Pid);
        bool idle = ticks is not null && _cpuTicks is not null && ticks - _cpuTicks <= 2;
        _cpuTicks = ticks;
        if (!idle)
        {
            _halted = 0;
            return;
        }
        var command = new JsonObject { ["command-line"] = "info registers -a" };
        var registers = await Connected().ExecuteAsync("human-monitor-command", command, cancellation).ConfigureAwait(false);
        _halted = HaltedForGood(registers?.GetValue<string>() ?? "") ? _halted + 1 : 0;
        if (_halted < HaltedReadings) return;
        await EndAsync(Failed("guest_halted", "Every vCPU halted with interrupts off; nothing could wake it.")).ConfigureAwait(false);
    }

    /// <summary>Whether every vCPU of QEMU's register dump is halted with EFLAGS.IF clear.</summary>
    internal static bool HaltedForGood(string registers)
    {
        const ulong interruptFlag = 1 << 9;
        int cpus = 0;
        foreach (var line in registers.Split('\n'))
        {
            int halt = line.IndexOf(" HLT=", StringComparison.Ordinal);
            if (halt < 0) continue;
            int flags = Math.Max(line.IndexOf("RFL=", StringComparison.Ordinal), line.IndexOf("EFL=", StringComparison.Ordinal));
            if (flags < 0) return false;
            var hex = line.AsSpan(flags + 4);
            int end = hex.IndexOf(' ');
            if (end < 0 || !ulong.TryParse(hex[..end], System.Globalization.NumberStyles.HexNumber, null, out ulong value)) return false;
            if (line[halt + 5] != '1' || (value & interruptFlag) != 0) return false;
            cpus++;
        }
        return cpus > 0;
    }

    // QEMU reports a triple fault as a reset like any other; only its log of CPU resets, and under emulation only, knows better.
    private bool TripleFaulted()
    {
        string path = Path.Combine(Launch.Directory, VmmFiles.ResetLog);
        if (!File.Exists(path)) return false;
        using var file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
        var tail = new byte[64];
        long start = Math.Max(0, RandomAccess.GetLength(file) - tail.Length);
        int read = RandomAccess.Read(file, tail, start);
        return Encoding.ASCII.GetString(tail, 0, read).Contains("Triple fault", StringComparison.Ordinal);
    }
}
