using System.Text.Json.Nodes;
using Fleet.Chaos.Checking;
using Fleet.Chaos.Faults;
using Fleet.Chaos.Network;

namespace Fleet.Chaos.Harness;

/// <summary>
/// Does to a fleet what a schedule says, undoes it, and writes down for the checker what that means: who was silent or struck, when the control plane
/// was away, which microVMs were broken.
/// </summary>
internal sealed class Injector(ChaosFleet fleet, Action<string> tell)
{
    private static readonly TimeSpan SlowTurn = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan LongestOutage = TimeSpan.FromMinutes(3);

    private readonly Lock _gate = new();
    private readonly List<Silence> _silences = [];
    private readonly List<Strike> _strikes = [];
    private readonly List<Stall> _stalls = [];
    private readonly List<Outage> _outages = [];
    private readonly HashSet<(string Vm, ulong Epoch)> _broken = [];
    private readonly Dictionary<FaultKind, int> _done = [];

    /// <summary>Nothing was struck: there was no VMM, or no node took the operator's word.</summary>
    private readonly HashSet<Fault> _inVain = [];

    public IReadOnlyList<Silence> Silences => _silences;

    public IReadOnlyList<Strike> Strikes => _strikes;

    public IReadOnlyList<Stall> Stalls => _stalls;

    public IReadOnlyList<Outage> Outages => _outages;

    public IReadOnlySet<(string Vm, ulong Epoch)> Broken => _broken;

    public IReadOnlyDictionary<FaultKind, int> Done => _done;

    /// <summary>Carries out a schedule; everything is healed when the task ends.</summary>
    public Task RunAsync(IReadOnlyList<Fault> faults, CancellationToken cancellation) => Task.WhenAll(faults.Select(async fault =>
    {
        try
        {
            await Task.Delay(fault.At, cancellation);
        }
        catch (OperationCanceledException)
        {
            return;
        }

        await CarryOutAsync(fault);
    }));

    /// <summary>One fault from its beginning to its end.</summary>
    public async Task CarryOutAsync(Fault fault)
    {
        tell($"{fault}");
        var from = Kernel.BootMs;
        await (fault.Kind switch
        {
            FaultKind.Kill => KillAsync(fault),
            FaultKind.Restart => RestartAsync(fault),
            FaultKind.Pause => PauseAsync(fault),
            FaultKind.Hang => HangAsync(fault),
            FaultKind.Slow => SlowAsync(fault),
            FaultKind.PowerOff => PowerOffAsync(fault),
            FaultKind.KillVmm => KillVmmAsync(fault),
            FaultKind.HangVmm => HangVmmAsync(fault),
            FaultKind.Cut or FaultKind.CutSending or FaultKind.CutHearing or FaultKind.Split or FaultKind.CutDatabase or FaultKind.CutOne or FaultKind.Disturb => BendAsync(fault),
            FaultKind.ClockJump => JumpAsync(fault),
            FaultKind.DiskFull => FillAsync(fault),
            FaultKind.Cordon => OrderAsync(fault, "cordon", null),
            FaultKind.Drain => OrderAsync(fault, "drain", new JsonObject { ["deadline_seconds"] = DrainSeconds(fault), ["grace_seconds"] = 1 }),
            _ => throw new InvalidOperationException($"{fault.Kind} is not known."),
        });
        lock (_gate)
        {
            if (!_inVain.Contains(fault))
                _done[fault.Kind] = _done.GetValueOrDefault(fault.Kind) + 1;
        }

        await NoteAsync(fault, from, Kernel.BootMs);
    }

    private async Task NoteAsync(Fault fault, long from, long until)
    {
        if (fault.Role == Role.Host)
        {
            // Disturbed, slow or half deaf it may or may not have got its lease; its VMMs' word counts then.
            if (fault.Kind is FaultKind.Kill or FaultKind.Pause or FaultKind.Hang or FaultKind.PowerOff or FaultKind.Cut or FaultKind.CutSending)
                Silence(fault.Index, from, until);

            return;
        }

        // No actor minds what time it is.
        if (fault.Kind == FaultKind.CutDatabase)
        {
            lock (_gate)
                _outages.Add(new(fleet.TargetOf(fault.Role, fault.Index).Name, from, until) { FromDatabase = true });
        }
        else if (fault.Kind != FaultKind.ClockJump)
            await NoteOutageAsync(fault.Role, fault.Index, from, until);
    }

    /// <summary>A process that ended by itself was started again.</summary>
    public async Task NoteCrashAsync(Role role, int index, long from)
    {
        if (role != Role.Host)
        {
            await NoteOutageAsync(role, index, from, Kernel.BootMs);
            return;
        }

        Strike(StrikeKind.AgentEnd, index, from);
        Silence(index, from, Kernel.BootMs);
    }

    /// <summary>The database is there when it is healed, a node when it answers again; a run that ends before that has found something else.</summary>
    private async Task NoteOutageAsync(Role role, int index, long from, long healed)
    {
        while (role == Role.Scheduler && await fleet.Api.HealthAsync(index) is not { Status: 200 } && Kernel.BootMs - from < LongestOutage.TotalMilliseconds)
            await Task.Delay(100);
        lock (_gate)
            _outages.Add(new(fleet.TargetOf(role, index).Name, from, role == Role.Scheduler ? Kernel.BootMs : healed));
    }

    private async Task KillAsync(Fault fault)
    {
        var target = fleet.TargetOf(fault.Role, fault.Index);
        await target.KillAsync();
        if (fault.Role == Role.Host)
            Strike(StrikeKind.AgentEnd, fault.Index, Kernel.BootMs);
        await Task.Delay(fault.Lasts);
        await target.StartAsync();
    }

    private async Task RestartAsync(Fault fault)
    {
        var target = fleet.TargetOf(fault.Role, fault.Index);
        if (!await target.EndAsync())
            tell($"{target.Name} did not end in order within its time and was killed");
        // It renews until it has ended.
        var ended = Kernel.BootMs;
        await target.StartAsync();
        if (fault.Role == Role.Host)
        {
            Strike(StrikeKind.AgentEnd, fault.Index, ended);
            Silence(fault.Index, ended, Kernel.BootMs);
        }
    }

    private async Task PauseAsync(Fault fault)
    {
        var target = fleet.TargetOf(fault.Role, fault.Index);
        var pids = target.Pids.ToList();
        var from = Kernel.BootMs;
        pids.ForEach(pid => Kernel.Signal(pid, Kernel.Stop));
        await Task.Delay(fault.Lasts);
        lock (_gate)
            _stalls.Add(new(target.Name, from, Kernel.BootMs));
        pids.ForEach(pid => Kernel.Signal(pid, Kernel.Continue));
    }

    private async Task HangAsync(Fault fault)
    {
        // First the agent: it must not start one more VMM meanwhile.
        var agent = fleet.TargetOf(fault.Role, fault.Index).Pids;
        foreach (var pid in agent)
            Kernel.Signal(pid, Kernel.Stop);
        var vmms = fleet.Vmms(fault.Index).Select(vmm => vmm.Pid).ToList();
        vmms.ForEach(pid => Kernel.Signal(pid, Kernel.Stop));
        var from = Kernel.BootMs;
        await Task.Delay(fault.Lasts);
        Strike(StrikeKind.Hang, fault.Index, from, Kernel.BootMs);
        // As on a machine that goes on: in no certain order, and the agent not first.
        foreach (var pid in vmms.Concat(agent))
            Kernel.Signal(pid, Kernel.Continue);
    }

    private async Task SlowAsync(Fault fault)
    {
        var target = fleet.TargetOf(fault.Role, fault.Index);
        for (var left = fault.Lasts; left > TimeSpan.Zero; left -= SlowTurn * 2)
        {
            target.Signal(Kernel.Stop);
            await Task.Delay(SlowTurn);
            target.Signal(Kernel.Continue);
            await Task.Delay(SlowTurn);
        }
    }

    private async Task PowerOffAsync(Fault fault)
    {
        var process = fleet.Hosts[fault.Index];
        // Nobody hears that its connections end: whoever pulls the plug says no good-bye.
        var bent = CutBoth(fleet.NodeOf(fault.Role, fault.Index), -1);
        Bend(bent);
        // First the agent: it must not tell anybody how its VMMs ended.
        process.Kill();
        foreach (var (vm, epoch, pid) in fleet.Vmms(fault.Index))
        {
            Kernel.Signal(pid, Kernel.KillNow);
            Break(vm, epoch);
        }

        Strike(StrikeKind.PowerOff, fault.Index, Kernel.BootMs);

        await Task.Delay(fault.Lasts);
        Straighten(bent);
        process.Start();
    }

    private Task KillVmmAsync(Fault fault)
    {
        var vmms = fleet.Vmms(fault.Index);
        if (vmms.Count == 0)
        {
            WasInVain(fault);
        }
        else
        {
            var (vm, epoch, pid) = vmms[(int)(fault.Salt % vmms.Count)];
            Break(vm, epoch);
            Kernel.Signal(pid, Kernel.KillNow);
            var now = Kernel.BootMs;
            lock (_gate)
                _strikes.Add(new(StrikeKind.KillVmm, ChaosFleet.HostId(fault.Index), now, now) { Vm = vm, Epoch = epoch });
        }

        return Task.CompletedTask;
    }

    private async Task HangVmmAsync(Fault fault)
    {
        var vmms = fleet.Vmms(fault.Index);
        if (vmms.Count == 0)
        {
            WasInVain(fault);
            return;
        }

        var (vm, epoch, pid) = vmms[(int)(fault.Salt % vmms.Count)];
        Kernel.Signal(pid, Kernel.Stop);
        var from = Kernel.BootMs;
        await Task.Delay(fault.Lasts);
        lock (_gate)
            _strikes.Add(new(StrikeKind.HangVmm, ChaosFleet.HostId(fault.Index), from, Kernel.BootMs) { Vm = vm, Epoch = epoch });
        // Its number may be another's when it has ended meanwhile.
        if (fleet.Vmms(fault.Index).Contains((vm, epoch, pid)))
            Kernel.Signal(pid, Kernel.Continue);
    }

    /// <summary>Half of the time that the fault lasts to twice of it: the operator may take it back before.</summary>
    private static int DrainSeconds(Fault fault) => (int)Math.Ceiling(fault.Lasts.TotalSeconds * (1 + (fault.Salt % 4)) / 2);

    /// <summary>An operator's word about a host, which is repeated until a node takes it; <c>uncordon</c> takes it back.</summary>
    private async Task OrderAsync(Fault fault, string order, JsonObject? body)
    {
        if (!await AskAsync(order, body, fault.Lasts))
            WasInVain(fault);
        await Task.Delay(fault.Lasts);
        await AskAsync("uncordon", null, LongestOutage);

        async Task<bool> AskAsync(string verb, JsonObject? what, TimeSpan patience)
        {
            var until = Kernel.BootMs + (long)patience.TotalMilliseconds;
            for (var node = (int)(fault.Salt % (uint)fleet.Api.Nodes); Kernel.BootMs < until; node = (node + 1) % fleet.Api.Nodes)
            {
                if ((await fleet.Api.SendAsync(node, HttpMethod.Post, $"/v1/hosts/{ChaosFleet.HostId(fault.Index)}/{verb}", what?.DeepClone())).Status is >= 200 and < 300)
                    return true;
                await Task.Delay(300);
            }

            tell($"no node took the word to {verb} {ChaosFleet.HostId(fault.Index)}");
            return false;
        }
    }

    private async Task BendAsync(Fault fault)
    {
        var node = fleet.NodeOf(fault.Role, fault.Index);
        var bent = Bent(fault, node).ToList();
        Bend(bent);
        await Task.Delay(fault.Lasts);
        Straighten(bent);
    }

    private void Bend(IReadOnlyList<(int From, int To, Way Way)> bent)
    {
        foreach (var (from, to, way) in bent)
            fleet.SetWay(from, to, way);
    }

    private void Straighten(IReadOnlyList<(int From, int To, Way Way)> bent)
    {
        foreach (var (from, to, _) in bent)
            fleet.SetWay(from, to, default);
    }

    // Both ways; -1 is everybody.
    private static (int From, int To, Way Way)[] CutBoth(int node, int other) => [(node, other, new Way(Cut: true)), (other, node, new Way(Cut: true))];

    private IEnumerable<(int From, int To, Way Way)> Bent(Fault fault, int node)
    {
        var cut = new Way(Cut: true);
        switch (fault.Kind)
        {
            case FaultKind.Cut:
                return CutBoth(node, -1);
            case FaultKind.CutSending:
                return [(node, -1, cut)];
            case FaultKind.CutHearing:
                return [(-1, node, cut)];
            case FaultKind.Split:
                return Enumerable.Range(0, fleet.Options.Schedulers).Where(other => other != fault.Index).Select(other => fleet.NodeOf(Role.Scheduler, other))
                    .SelectMany(other => CutBoth(node, other));
            case FaultKind.CutDatabase:
                return CutBoth(node, fleet.NodeOf(Role.Database, 0));
            case FaultKind.CutOne:
                return CutBoth(node, fleet.NodeOf(Role.Scheduler, (int)(fault.Salt % (uint)fleet.Options.Schedulers)));
            default:
                var way = new Way(DelayMs: (int)(fault.Salt % 100), JitterMs: 1 + (int)(fault.Salt / 100 % 200), Loss: fault.Salt / 20_000 % 10 / 100.0, Twice: fault.Salt / 200_000 % 20 / 100.0);
                return [(node, -1, way), (-1, node, way)];
        }
    }

    private async Task JumpAsync(Fault fault)
    {
        var clock = fault.Role == Role.Scheduler ? fleet.SchedulerClocks[fault.Index] : fleet.HostClocks[fault.Index];
        clock.Set(TimeSpan.FromSeconds((fault.Salt % 7_200) - 3_600.0));
        await Task.Delay(fault.Lasts);
        clock.Set(TimeSpan.Zero);
    }

    private async Task FillAsync(Fault fault)
    {
        var path = Path.Combine(fleet.DiskOf(fault.Role, fault.Index), "ballast");
        try
        {
            await using (var ballast = File.Create(path))
            {
                var block = new byte[1 << 20];
                try
                {
                    while (true)
                        ballast.Write(block);
                }
                catch (IOException)
                {
                    // Full. What is left of a block goes as well.
                    try
                    {
                        while (true)
                            ballast.Write(block, 0, 512);
                    }
                    catch (IOException)
                    {
                    }
                }
            }
        }
        catch (IOException)
        {
            // Closing it finds the disk full as well.
        }

        await Task.Delay(fault.Lasts);
        File.Delete(path);
    }

    private void Silence(int host, long from, long to)
    {
        lock (_gate)
            _silences.Add(new(ChaosFleet.HostId(host), from, to));
    }

    private void Strike(StrikeKind kind, int host, long from, long? to = null)
    {
        lock (_gate)
            _strikes.Add(new(kind, ChaosFleet.HostId(host), from, to ?? from));
    }

    private void WasInVain(Fault fault)
    {
        lock (_gate)
            _inVain.Add(fault);
    }

    private void Break(string vm, ulong epoch)
    {
        lock (_gate)
            _broken.Add((vm, epoch));
    }
}
