using System.Collections.Concurrent;
using System.Globalization;
using Fleet.Host.Consoles;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Fencing;
using Fleet.Host.Snapshots;
using Fleet.Host.State;
using Fleet.Shared.Contracts;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Host.Drivers.Simulated;

/// <summary>
/// Guests that do not exist: timings and faults from the spec's script, no process, no thread, one timer each. For fleets of
/// thousands on one machine. What happened so far follows from the time of the launch, which is written down, so that a
/// restarted agent finds them as it would find real ones.
/// </summary>
public sealed class SimulatedDriver(TimeProvider clock, RunLogs? runs = null) : IVmmDriver
{
    /// <summary>
    /// The launch's time in ms since 1970, <c>leased</c> when the guest runs by a lease, and <c>stop_requested</c> once it was
    /// stopped: <c>1700000000000 leased stop_requested</c>.
    /// </summary>
    private const string StateFile = "simulated";

    private const string Leased = "leased";
    private const string StopRequested = "stop_requested";

    /// <summary>Of a guest that was taken over: it stands still until it gets one.</summary>
    private static readonly VmmLease NoLease = new(TimeSpan.Zero, TimeSpan.MaxValue);

    private const string LaunchFails = "launch_fails";

    /// <inheritdoc/>
    public string Name => "simulated";

    /// <inheritdoc/>
    public Task<DriverStatus> ProbeAsync(CancellationToken cancellation) => Task.FromResult(new DriverStatus
    {
        Name = Name,
        Usable = true,
        StockKernels = false,
        Detail = "no guest runs; timings and faults from a script",
    });

    /// <inheritdoc/>
    public Task<IVmm> LaunchAsync(VmmLaunch launch, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(launch);
        cancellation.ThrowIfCancellationRequested();
        var script = launch.Spec.Simulated ?? new SimulatedGuest();
        if (script.Fault == LaunchFails)
            throw new LaunchFailedException("launch_failed", "The simulated launch failed, as its script says.");
        var now = DateTimeOffset.FromUnixTimeMilliseconds(clock.GetUtcNow().ToUnixTimeMilliseconds());
        try
        {
            if (launch.SnapshotEpoch > 0)
            {
                var saved = SnapshotFiles.Find(launch.Directory, launch.SnapshotEpoch)
                    ?? throw new LaunchFailedException("snapshot_lost", $"What the microVM was saved in under epoch {launch.SnapshotEpoch} is not on this host any more.");
                now -= saved.Played.ToTimeSpan();
                WriteState(launch, now, leased: launch.Lease is not null, stopped: false);
                SnapshotFiles.Delete(launch.Directory, launch.SnapshotEpoch);
            }
            else
            {
                File.WriteAllText(Path.Combine(launch.Directory, ConsoleLog.FileName), "simulated guest\n");
                WriteState(launch, now, leased: launch.Lease is not null, stopped: false);
            }
        }
        catch (Exception failed) when (failed is IOException or UnauthorizedAccessException)
        {
            throw new LaunchFailedException("launch_failed", $"The directory {launch.Directory} can't be written: {failed.Message}", failed);
        }

        var vmm = new SimulatedVmm(launch, now, launch.Lease, runs is null ? null : new RunLog(runs, launch, clock));
        vmm.Begin(script, clock);
        return Task.FromResult<IVmm>(vmm);
    }

    /// <inheritdoc/>
    public async Task<IVmm?> AdoptAsync(VmmLaunch launch, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(launch);
        var path = Path.Combine(launch.Directory, StateFile);
        if (SnapshotFiles.Find(launch.Directory, launch.Epoch) is not null)
            return EndedVmm.OfSaved();
        // What it is to go on from is there until it does.
        if (!File.Exists(path) || SnapshotFiles.Find(launch.Directory, launch.SnapshotEpoch) is not null)
            return null;
        var words = (await File.ReadAllTextAsync(path, cancellation).ConfigureAwait(false)).Split(' ');
        if (!long.TryParse(words[0], NumberStyles.None, CultureInfo.InvariantCulture, out var started)
            || started > DateTimeOffset.MaxValue.ToUnixTimeMilliseconds())
        {
            var lost = new SimulatedVmm(launch, default, null, null);
            lost.End(Broken("vmm_failed", $"{path} does not say when the guest was launched."));
            return lost;
        }

        // A wall clock that went back since: what its script has yet to do would be hours away.
        started = Math.Min(started, clock.GetUtcNow().ToUnixTimeMilliseconds());
        var over = words.Contains(StopRequested);
        var vmm = new SimulatedVmm(
            launch,
            DateTimeOffset.FromUnixTimeMilliseconds(started),
            words.Contains(Leased) ? NoLease : null,
            over || runs is null ? null : new RunLog(runs, launch, clock));
        if (over)
            vmm.End(SimulatedVmm.Stopped);
        else
            vmm.Begin(launch.Spec.Simulated ?? new SimulatedGuest(), clock);
        return vmm;
    }

    private static VmmEnd Broken(string code, string message) => new(false, null, new Reason { Code = code, Message = message });

    private static void WriteState(VmmLaunch launch, DateTimeOffset started, bool leased, bool stopped)
    {
        var path = Path.Combine(launch.Directory, StateFile);
        string[] words = [started.ToUnixTimeMilliseconds().ToString(CultureInfo.InvariantCulture), .. leased ? [Leased] : (string[])[], .. stopped ? [StopRequested] : (string[])[]];
        File.WriteAllText(path + ".new", string.Join(' ', words));
        File.Move(path + ".new", path, overwrite: true);
    }

    private sealed class SimulatedVmm(VmmLaunch launch, DateTimeOffset started, VmmLease? lease, RunLog? runs) : IVmm
    {
        /// <summary>A timer takes at most 49 days; what is later is waited for in parts.</summary>
        private static readonly TimeSpan LongestTimer = TimeSpan.FromDays(40);

        private readonly TaskCompletionSource<VmmEnd> _completion = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private readonly TaskCompletionSource _ready = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private readonly ConcurrentDictionary<string, RateLimit> _limits = new(launch.Spec.RateLimits);
        private readonly Lock _gate = new();
        private readonly Queue<(DateTimeOffset At, Action Happens)> _script = new();
        private VmmLease? _lease = lease;
        private ITimer? _timer;
        private TimeProvider _clock = TimeProvider.System;
        private bool _over;

        public static VmmEnd Stopped => new(true, null, new Reason { Code = "stop_requested", Message = "Stopped on request." });

        public int Pid => 0;

        public Task<VmmEnd> Completion => _completion.Task;

        public Task GuestReady => _ready.Task;

        public Task<IReadOnlyList<int>> VcpuThreads { get; } = Task.FromResult<IReadOnlyList<int>>([]);

        /// <summary>Lets happen what should have happened by now, and waits for the rest.</summary>
        public void Begin(SimulatedGuest script, TimeProvider clock)
        {
            _clock = clock;
            var booted = started + TimeSpan.FromMilliseconds(script.BootMs);
            var ends = booted + TimeSpan.FromMilliseconds(script.RunMs);
            if (script.Fault != "never_boots")
                _script.Enqueue((booted, () => _ready.TrySetResult()));
            if (script.Fault == "vmm_dies")
                _script.Enqueue((ends, () => End(Broken("vmm_killed", "The simulated VMM died, as its script says."))));
            else if (script.RunMs > 0 && script.Fault != "never_boots")
                _script.Enqueue((ends, () => End(Exited(script.ExitStatus))));
            lock (_gate)
            {
                runs?.Run(_lease?.LapsesAt);
                _timer = clock.CreateTimer(_ => Play(), null, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
                Play();
            }
        }

        public void End(VmmEnd end)
        {
            lock (_gate)
            {
                _over = true;
                _timer?.Dispose();
                runs?.End();
                _completion.TrySetResult(end);
                _ready.TrySetCanceled();
            }
        }

        public Task StopAsync(TimeSpan grace)
        {
            lock (_gate)
            {
                try
                {
                    if (!_over && Directory.Exists(launch.Directory))
                        WriteState(launch, started, leased: _lease is not null, stopped: true);
                }
                finally
                {
                    End(Stopped);
                }
            }

            return Task.CompletedTask;
        }

        /// <summary>On paper: how far its script was.</summary>
        public Task SuspendAsync(string forHost = "", uint forEnrolment = 0)
        {
            lock (_gate)
            {
                if (_over)
                    throw new SnapshotFailedException("The guest has ended.");
                try
                {
                    SnapshotFiles.Complete(launch.Directory, new SnapshotRecord
                    {
                        VmId = launch.VmId,
                        Epoch = launch.Epoch,
                        Driver = "simulated",
                        ForHost = forHost,
                        ForEnrolment = forEnrolment,
                        Played = Duration.FromTimeSpan(_clock.GetUtcNow() - started),
                    });
                }
                catch (Exception failed) when (failed is IOException or UnauthorizedAccessException)
                {
                    throw new SnapshotFailedException($"It could not be written down: {failed.Message}", failed);
                }

                End(VmmEnd.OfSaved);
            }

            return Task.CompletedTask;
        }

        /// <summary>Kept and told; with no guest there is nothing that could be throttled.</summary>
        public Task<LimiterReading?> ReadLimiterAsync(string name, CancellationToken cancellation) =>
            Task.FromResult<LimiterReading?>(new(_limits.GetValueOrDefault(name), 0, 0, 0, 0));

        /// <summary>What its script says, from its start to now.</summary>
        public VmmUse? ReadUse()
        {
            lock (_gate)
            {
                return _over ? null : SimulatedUse.At(launch.Spec, _clock.GetUtcNow() - started);
            }
        }

        public Task SetLimiterAsync(string name, RateLimit? limit, CancellationToken cancellation)
        {
            if (limit is null)
                _limits.TryRemove(name, out _);
            else
                _limits[name] = limit;
            return Task.CompletedTask;
        }

        public Task<bool> HoldLeaseAsync(VmmLease lease, CancellationToken cancellation)
        {
            lock (_gate)
            {
                if (!_over && (_lease is null || lease.LapsesAt > _lease.LapsesAt))
                {
                    _lease = lease;
                    runs?.Run(lease.LapsesAt);
                    Play();
                }
            }

            return Task.FromResult(true);
        }

        public ValueTask WriteConsoleAsync(ReadOnlyMemory<byte> input, CancellationToken cancellation) => ValueTask.CompletedTask;

        public ValueTask DisposeAsync()
        {
            lock (_gate)
            {
                _over = true;
                _timer?.Dispose();
                runs?.Dispose();
            }

            return ValueTask.CompletedTask;
        }

        private static VmmEnd Exited(int status) => new(
            true, new GuestExit { Status = status }, new Reason { Code = "command_exited", Message = $"The command ended with status {status}." });

        private void Play()
        {
            lock (_gate)
            {
                while (!_over)
                {
                    var boot = Posix.BootTime;
                    var stands = _lease is { } held && boot >= held.LapsesAt;
                    if (stands && boot >= _lease!.EndsAt)
                    {
                        End(Broken("lease_over", "The lease was not made longer in time: another copy of the microVM may run elsewhere."));
                        return;
                    }

                    var leaseLeft = _lease is null ? TimeSpan.MaxValue : _lease.EndsAt - boot;
                    if (stands || !_script.TryPeek(out var next))
                    {
                        Wait(leaseLeft);
                        return;
                    }

                    var left = next.At - _clock.GetUtcNow();
                    if (left > TimeSpan.Zero)
                    {
                        Wait(left < leaseLeft ? left : leaseLeft);
                        return;
                    }

                    _script.Dequeue();
                    next.Happens();
                }
            }
        }

        private void Wait(TimeSpan left)
        {
            // Rounded up: a timer that fires a moment early would be set again and again.
            var due = left < LongestTimer ? TimeSpan.FromMilliseconds(Math.Ceiling(left.TotalMilliseconds)) : LongestTimer;
            _timer?.Change(due, Timeout.InfiniteTimeSpan);
        }
    }
}
