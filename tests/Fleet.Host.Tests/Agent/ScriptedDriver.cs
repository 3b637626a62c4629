using System.Collections.Concurrent;
using Fleet.Host.Drivers;
using Fleet.Host.Fencing;
using Fleet.Host.Pressure;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Tests.Agent;

/// <summary>A driver that does what the test wants, under a name of its choice, and counts VMMs.</summary>
internal sealed class ScriptedDriver : IVmmDriver
{
    private int _running;

    public string Name { get; init; } = "simulated";

    public Func<VmmLaunch, CancellationToken, Task> OnLaunch { get; set; } = (_, _) => Task.CompletedTask;

    /// <summary>Null: nothing was ever started there.</summary>
    public Func<VmmLaunch, CancellationToken, Task<IVmm?>> OnAdopt { get; set; } = (_, _) => Task.FromResult<IVmm?>(null);

    public int Launches { get; private set; }

    public int MostAtOnce { get; private set; }

    public int Running => _running;

    public List<ScriptedVmm> Vmms { get; } = [];

    /// <summary>Before anybody sees the VMM.</summary>
    public Action<ScriptedVmm> OnLaunched { get; set; } = _ => { };

    public Func<Task<IReadOnlyList<int>>> NewThreads { get; set; } = () => Task.FromResult<IReadOnlyList<int>>([]);

    public Task<DriverStatus> ProbeAsync(CancellationToken cancellation) => Task.FromResult(new DriverStatus { Name = Name, Usable = true });

    public async Task<IVmm> LaunchAsync(VmmLaunch launch, CancellationToken cancellation)
    {
        lock (Vmms)
            Launches++;
        await OnLaunch(launch, cancellation);
        return NewVmm();
    }

    public Task<IVmm?> AdoptAsync(VmmLaunch launch, CancellationToken cancellation) => OnAdopt(launch, cancellation);

    public ScriptedVmm NewVmm()
    {
        lock (Vmms)
        {
            MostAtOnce = Math.Max(MostAtOnce, ++_running);
            var vmm = new ScriptedVmm(() => Interlocked.Decrement(ref _running), NewThreads);
            Vmms.Add(vmm);
            OnLaunched(vmm);
            return vmm;
        }
    }
}

internal sealed class ScriptedVmm(Action gone, Func<Task<IReadOnlyList<int>>> threads) : IVmm
{
    private readonly TaskCompletionSource<VmmEnd> _completion = new(TaskCreationOptions.RunContinuationsAsynchronously);

    public int Pid => 4711;

    public Task<VmmEnd> Completion => _completion.Task;

    public TaskCompletionSource Ready { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

    public Task GuestReady => Ready.Task;

    public Task<IReadOnlyList<int>> VcpuThreads => threads();

    public VmmUse? Use { get; set; }

    public VmmUse? ReadUse() => Use;

    public Func<TimeSpan, Task> OnStop { get; set; } = _ => Task.CompletedTask;

    public List<TimeSpan> Stops { get; } = [];

    public List<byte> Input { get; } = [];

    public bool LetGo { get; private set; }

    public void End(string code = "stop_requested")
    {
        if (_completion.TrySetResult(new VmmEnd(true, null, new Reason { Code = code, Message = code })))
            gone();
    }

    /// <summary>An end that nobody ordered.</summary>
    public void Break(string code)
    {
        if (_completion.TrySetResult(new VmmEnd(false, null, new Reason { Code = code, Message = code })))
            gone();
    }

    public async Task StopAsync(TimeSpan grace)
    {
        lock (Stops)
            Stops.Add(grace);
        await OnStop(grace);
        End();
    }

    /// <summary>What the VMM answers to a lease.</summary>
    public Func<bool> OnLease { get; set; } = () => true;

    public List<VmmLease> Leases { get; } = [];

    public Task<bool> HoldLeaseAsync(VmmLease lease, CancellationToken cancellation)
    {
        lock (Leases)
            Leases.Add(lease);
        return Task.FromResult(OnLease());
    }

    public ConcurrentQueue<CpuShare> Shares { get; } = [];

    public void ShareCpu(CpuShare share) => Shares.Enqueue(share);

    /// <summary>A guest that hands over at once what it is asked for; null: the VMM has no balloon.</summary>
    public BalloonReading? Balloon { get; set; }

    public ConcurrentQueue<(uint TargetMib, TimeSpan Tells)> BalloonTargets { get; } = [];

    public Task<BalloonReading?> ReadBalloonAsync(CancellationToken cancellation) => Task.FromResult(Balloon);

    public Task SetBalloonAsync(uint targetMib, TimeSpan tells, CancellationToken cancellation)
    {
        Balloon = Balloon! with { TargetMib = targetMib, ActualMib = targetMib };
        BalloonTargets.Enqueue((targetMib, tells));
        return Task.CompletedTask;
    }

    public ConcurrentDictionary<string, RateLimit> Limits { get; } = [];

    /// <summary>Before the VMM takes a limit.</summary>
    public Func<Task> OnSetLimiter { get; set; } = () => Task.CompletedTask;

    public int LimiterSettings { get; private set; }

    public Task<LimiterReading?> ReadLimiterAsync(string name, CancellationToken cancellation) =>
        Task.FromResult<LimiterReading?>(new(Limits.GetValueOrDefault(name), 1, 2, 3, 4));

    public async Task SetLimiterAsync(string name, RateLimit? limit, CancellationToken cancellation)
    {
        await OnSetLimiter();
        LimiterSettings++;
        if (limit is null)
            Limits.TryRemove(name, out _);
        else
            Limits[name] = limit;
    }

    /// <summary>Makes a connection to fleet-init; null: there is no way to it.</summary>
    public Func<Stream?> OnGuest { get; set; } = () => null;

    public Task<Stream?> ConnectGuestAsync(CancellationToken cancellation) => Task.FromResult(OnGuest());

    public ValueTask WriteConsoleAsync(ReadOnlyMemory<byte> input, CancellationToken cancellation)
    {
        lock (Input)
            Input.AddRange(input.Span);
        return ValueTask.CompletedTask;
    }

    public ValueTask DisposeAsync()
    {
        LetGo = true;
        return ValueTask.CompletedTask;
    }
}
