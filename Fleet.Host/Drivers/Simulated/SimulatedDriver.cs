using System.Globalization;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Drivers.Simulated;

/// <summary>
/// Guests that do not exist: timings and faults from the spec's script, no process, no thread, one timer each. For fleets of
/// thousands on one machine. What happened so far follows from the time of the launch, which is written down, so that a
/// restarted agent finds them as it would find real ones.
/// </summary>
public sealed class SimulatedDriver(TimeProvider clock) : IVmmDriver
{
    private const string LaunchFails = "launch_fails";

    /// <summary>The launch's time in ms since 1970, and once it is over how: <c>1700000000000 stop_requested</c>.</summary>
    private const string StateFile = "simulated";

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
        var now = clock.GetUtcNow();
        File.WriteAllText(Path.Combine(launch.Directory, Consoles.ConsoleLog.FileName), "simulated guest\n");
        WriteState(launch.Directory, now.ToUnixTimeMilliseconds().ToString(CultureInfo.InvariantCulture));
        return Task.FromResult<IVmm>(new SimulatedVmm(launch.Directory, script, now, clock));
    }

    /// <inheritdoc/>
    public Task<IVmm?> AdoptAsync(VmmLaunch launch, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(launch);
        var path = Path.Combine(launch.Directory, StateFile);
        if (!File.Exists(path))
            return Task.FromResult<IVmm?>(null);
        var words = File.ReadAllText(path).Split(' ');
        if (!long.TryParse(words[0], NumberStyles.None, CultureInfo.InvariantCulture, out var started))
            throw new InvalidDataException($"{path} does not say when the guest was launched.");
        var vmm = new SimulatedVmm(launch.Directory, launch.Spec.Simulated ?? new SimulatedGuest(), DateTimeOffset.FromUnixTimeMilliseconds(started), clock);
        if (words.Length > 1)
            vmm.End(Stopped);
        return Task.FromResult<IVmm?>(vmm);
    }

    private static VmmEnd Stopped => new(true, null, new Reason { Code = "stop_requested", Message = "Stopped on request." });

    private static void WriteState(string directory, string text)
    {
        var path = Path.Combine(directory, StateFile);
        File.WriteAllText(path + ".new", text);
        File.Move(path + ".new", path, overwrite: true);
    }

    private sealed class SimulatedVmm : IVmm
    {
        private readonly string _directory;
        private readonly DateTimeOffset _started;
        private readonly TaskCompletionSource<VmmEnd> _completion = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private readonly TaskCompletionSource _ready = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private readonly List<ITimer> _timers = [];

        public SimulatedVmm(string directory, SimulatedGuest script, DateTimeOffset started, TimeProvider clock)
        {
            _directory = directory;
            _started = started;
            var boot = TimeSpan.FromMilliseconds(script.BootMs);
            if (script.Fault != "never_boots")
                At(boot, () => _ready.TrySetResult());
            var run = TimeSpan.FromMilliseconds(script.RunMs);
            if (script.Fault == "vmm_dies")
                At(boot + run, () => End(new VmmEnd(false, null, new Reason { Code = "vmm_killed", Message = "The simulated VMM died, as its script says." })));
            else if (script.RunMs > 0 && script.Fault != "never_boots")
                At(boot + run, () => End(Exited(script.ExitStatus)));

            void At(TimeSpan after, Action happens)
            {
                var due = started + after - clock.GetUtcNow();
                if (due <= TimeSpan.Zero)
                    happens();
                else
                    _timers.Add(clock.CreateTimer(_ => happens(), null, due, Timeout.InfiniteTimeSpan));
            }
        }

        public int Pid => 0;

        public Task<VmmEnd> Completion => _completion.Task;

        public Task GuestReady => _ready.Task;

        public IReadOnlyList<int> VcpuThreads => [];

        public void End(VmmEnd end)
        {
            _completion.TrySetResult(end);
            _ready.TrySetCanceled();
        }

        public Task StopAsync(TimeSpan grace)
        {
            if (!_completion.Task.IsCompleted && Directory.Exists(_directory))
                WriteState(_directory, string.Create(CultureInfo.InvariantCulture, $"{_started.ToUnixTimeMilliseconds()} stop_requested"));
            End(Stopped);
            return Task.CompletedTask;
        }

        public ValueTask WriteConsoleAsync(ReadOnlyMemory<byte> input, CancellationToken cancellation) => ValueTask.CompletedTask;

        public ValueTask DisposeAsync()
        {
            foreach (var timer in _timers)
                timer.Dispose();
            return ValueTask.CompletedTask;
        }

        private static VmmEnd Exited(int status) => new(
            true, new GuestExit { Status = status }, new Reason { Code = "command_exited", Message = $"The command ended with status {status}." });
    }
}
