using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Prediction;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Simulation;

/// <summary>
/// Plays a trace on made-up hosts: each microVM goes where the policy says when it comes, or is refused. From the first arrival to the last; hosts admit by
/// ratios and predictors as real ones do, but at once, and nobody's view is behind.
/// </summary>
public sealed class FleetSimulation
{
    /// <summary>Moments that are told of.</summary>
    public const int Points = 300;

    /// <summary>Hosts that may be simulated.</summary>
    public const int MostHosts = 100_000;

    /// <summary>MicroVMs at once whose use is kept for predictions: some 3 KB each.</summary>
    private const int MostSeries = 200_000;

    private const double SlotSeconds = 300;

    /// <summary>Five minutes that may be gone through where use is simulated: more than two years.</summary>
    private const double MostSlots = 250_000;

    private readonly SimulationPlan _plan;
    private readonly PlacementPolicy _policy;
    private readonly List<Machine> _machines = [];
    private readonly Dictionary<int, (Machine Machine, Guest Guest)> _places = [];
    private readonly List<SimulationPoint> _points = [];
    private readonly bool _knowsMemory;
    private readonly Resources _size;
    private readonly double _end;

    private Resources _promised;
    private (double Cpu, double Memory) _used;
    private (double Cpu, double Memory) _promisedArea;
    private (double Cpu, double Memory) _usedSum;
    private long _slot;
    private long _busy, _cpuShort, _memoryShort;
    private double _now;
    private int _hostsUsed, _mostHostsUsed, _arrived, _refused;
    private int? _placedBeforeRefusal;

    private FleetSimulation(SimulationPlan plan)
    {
        _plan = plan;
        _policy = PlacementPolicies.Make(plan.Policy, plan.Seed) ?? throw new ArgumentException($"There is no policy '{plan.Policy}'.", nameof(plan));
        if (plan.Prediction is { } terms && (terms.FirstProblem() is not null || plan.Usage.Count == 0))
            throw new ArgumentException("Predictions need predictors and curves of use.", nameof(plan));
        if (plan.Hosts.Sum(host => (long)host.Count) is <= 0 or > MostHosts)
            throw new TraceException(TraceException.TooLarge, $"There must be 1 to {MostHosts} hosts.");
        foreach (var (size, count) in plan.Hosts)
        {
            // By its size: what labels it would have nobody knows.
            var predictors = plan.Prediction is { } prediction
                ? HostPredictors.Of(prediction.For(new Inventory { Cpus = (uint)Math.Min(size.Cpus, uint.MaxValue), MemoryMib = (ulong)size.MemoryMib }))
                : null;
            for (var i = 0; i < count; i++)
            {
                _machines.Add(new Machine(_machines.Count, size, predictors));
                _policy.Open(Most(size, predictors));
                _size += size;
            }
        }
        _knowsMemory = plan.Usage.All(curve => curve.Memory is not null);
        _end = plan.Trace.Events.LastOrDefault(one => one.Comes).At;
        if (plan.Usage.Count > 0 && _end / SlotSeconds > MostSlots)
            throw new TraceException(TraceException.TooLarge, $"The trace lasts {_end / 86_400:0} days; use is simulated for at most {MostSlots * SlotSeconds / 86_400:0}.");
    }

    /// <exception cref="TraceException">It would take too much time or memory.</exception>
    public static SimulationResult Run(SimulationPlan plan, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(plan);
        return new FleetSimulation(plan).Run(cancellation);
    }

    private SimulationResult Run(CancellationToken cancellation)
    {
        var random = new Random(_plan.Seed);
        foreach (var (at, vm, comes) in _plan.Trace.Events)
        {
            if (at > _end)
                break;
            cancellation.ThrowIfCancellationRequested();
            Pass(at, cancellation);
            if (comes)
                Arrive(vm, _plan.Usage.Count == 0 ? null : _plan.Usage[random.Next(_plan.Usage.Count)]);
            else
                Leave(vm);
        }
        while (_points.Count < Points)
            Tell(_end * _points.Count / (Points - 1));
        var isUsed = _plan.Usage.Count > 0 && _slot > 0;
        return new(
            _plan, _machines.Count, _arrived, _refused, _placedBeforeRefusal ?? _arrived, _mostHostsUsed,
            Mean(_promisedArea.Cpu, _size.Cpus, _promised.Cpus), Mean(_promisedArea.Memory, _size.MemoryMib, _promised.MemoryMib),
            isUsed ? _usedSum.Cpu / _slot / _size.Cpus : null, isUsed && _knowsMemory ? _usedSum.Memory / _slot / _size.MemoryMib : null,
            isUsed && _busy > 0 ? (double)_cpuShort / _busy : null, isUsed && _knowsMemory && _busy > 0 ? (double)_memoryShort / _busy : null,
            _points);
    }

    private double Mean(double area, long size, long last) => _end > 0 ? area / _end / size : (double)last / size;

    private Resources Cap(in Resources size) => new((long)(size.Cpus * _plan.CpuRatio), (long)(size.MemoryMib * _plan.MemoryRatio));

    // Of an empty host: what both the ratios and the predictors leave.
    private Resources Most(in Resources size, HostPredictors? by)
    {
        var cap = Cap(size);
        if (by is null)
            return cap;
        var forecast = new PeakForecast(default, Room(size, by));
        return new(Math.Min(cap.Cpus, (long)forecast.MostCpus), Math.Min(cap.MemoryMib, (long)forecast.MostMemoryMib));
    }

    private static PeakUse Room(in Resources size, HostPredictors by) => new(size.Cpus * (1 - by.Terms.Reserve), size.MemoryMib * (1 - by.Terms.Reserve));

    // Time goes on: moments to be told of and ends of five minutes come before what happens next.
    private void Pass(double to, CancellationToken cancellation)
    {
        while (true)
        {
            var point = _points.Count < Points ? _end * _points.Count / (Points - 1) : double.MaxValue;
            var slot = _plan.Usage.Count > 0 ? (_slot + 1) * SlotSeconds : double.MaxValue;
            var next = Math.Min(point, slot);
            if (next >= to)
                break;
            Spend(next);
            if (point <= slot)
            {
                Tell(point);
                continue;
            }
            cancellation.ThrowIfCancellationRequested();
            Use();
        }
        Spend(to);
    }

    private void Spend(double to)
    {
        _promisedArea = (_promisedArea.Cpu + (_promised.Cpus * (to - _now)), _promisedArea.Memory + (_promised.MemoryMib * (to - _now)));
        _now = to;
    }

    private void Tell(double at) => _points.Add(new(
        at, (double)_promised.Cpus / _size.Cpus, (double)_promised.MemoryMib / _size.MemoryMib,
        _plan.Usage.Count > 0 ? _used.Cpu / _size.Cpus : null, _plan.Usage.Count > 0 && _knowsMemory ? _used.Memory / _size.MemoryMib : null, _hostsUsed, _refused));

    private void Arrive(int vm, UsageCurve? curve)
    {
        _arrived++;
        var needs = _plan.Trace.Needs[vm];
        var host = _policy.Place(needs);
        if (host < 0)
        {
            _refused++;
            _placedBeforeRefusal ??= _arrived - 1;
            return;
        }
        if (_plan.Prediction is not null && _places.Count == MostSeries)
            throw new TraceException(TraceException.TooLarge, $"More than {MostSeries} microVMs run at once; with predictions that is too many.");
        var machine = _machines[host];
        var guest = new Guest(needs, curve, machine.Predictors is null ? null : new UsageSeries(), machine.Predictors is null || !_knowsMemory ? null : new UsageSeries(), machine.Guests.Count);
        machine.Guests.Add(guest);
        machine.Promised += needs;
        _promised += needs;
        _places.Add(vm, (machine, guest));
        if (machine.Guests.Count == 1)
            _mostHostsUsed = Math.Max(_mostHostsUsed, ++_hostsUsed);
        Admit(machine);
    }

    private void Leave(int vm)
    {
        if (!_places.Remove(vm, out var place))
            return;
        var (machine, guest) = place;
        var last = machine.Guests[^1];
        machine.Guests[guest.Slot] = last;
        last.Slot = guest.Slot;
        machine.Guests.RemoveAt(machine.Guests.Count - 1);
        machine.Promised -= guest.Needs;
        _promised -= guest.Needs;
        if (machine.Guests.Count == 0)
            _hostsUsed--;
        _policy.End(machine.Number, guest.Needs);
        Admit(machine);
    }

    // Five minutes are over: what was used in them is known.
    private void Use()
    {
        var sample = (int)(_slot % UsageCurves.Samples);
        _used = default;
        foreach (var machine in _machines)
        {
            if (machine.Guests.Count == 0)
                continue;
            double cpu = 0, memory = 0;
            foreach (var guest in machine.Guests)
            {
                var share = guest.Curve!.Cpu[sample];
                cpu += share * guest.Needs.Cpus;
                guest.Cpu?.Put(_slot, share, share);
                if (!_knowsMemory)
                    continue;
                share = guest.Curve.Memory![sample];
                memory += share * guest.Needs.MemoryMib;
                guest.Memory?.Put(_slot, share, share);
            }
            _busy++;
            _cpuShort += cpu > machine.Size.Cpus ? 1 : 0;
            _memoryShort += memory > machine.Size.MemoryMib ? 1 : 0;
            _used = (_used.Cpu + cpu, _used.Memory + memory);
            if (_plan.Prediction is null)
                continue;
            var shares = (Cpu: cpu / Math.Max(1, machine.Promised.Cpus), Memory: memory / Math.Max(1, machine.Promised.MemoryMib));
            machine.Cpu.Put(_slot, shares.Cpu, Math.Max(1, machine.Promised.Cpus));
            if (_knowsMemory)
                machine.Memory.Put(_slot, shares.Memory, Math.Max(1, machine.Promised.MemoryMib));
            Admit(machine);
        }
        _usedSum = (_usedSum.Cpu + _used.Cpu, _usedSum.Memory + _used.Memory);
        _slot++;
    }

    // As a host's actor: what both the ratios and the predicted peak leave.
    private void Admit(Machine machine)
    {
        if (machine.Predictors is not { } by)
            return;
        var now = TimeSpan.FromSeconds((_slot + 1) * SlotSeconds);
        var cpu = new ResourceUse([.. machine.Guests.Select(guest => new Consumer(guest.Needs.Cpus, guest.Cpu))], machine.Cpu, now);
        var memory = new ResourceUse([.. machine.Guests.Select(guest => new Consumer(guest.Needs.MemoryMib, guest.Memory))], machine.Memory, now);
        var forecast = new PeakForecast(new PeakUse(by.Cpu.Predict(cpu), by.Memory.Predict(memory)), Room(machine.Size, by));
        var left = Cap(machine.Size) - machine.Promised;
        _policy.SetFree(machine.Number, new(Math.Min(left.Cpus, (long)forecast.FreeCpus), Math.Min(left.MemoryMib, (long)forecast.FreeMemoryMib)));
    }

    private sealed class Machine(int number, Resources size, HostPredictors? predictors)
    {
        public HostPredictors? Predictors => predictors;

        public int Number => number;

        public Resources Size => size;

        public Resources Promised { get; set; }

        public List<Guest> Guests { get; } = [];

        public MachineSeries Cpu { get; } = new();

        public MachineSeries Memory { get; } = new();
    }

    private sealed class Guest(Resources needs, UsageCurve? curve, UsageSeries? cpu, UsageSeries? memory, int slot)
    {
        public Resources Needs => needs;

        public UsageCurve? Curve => curve;

        public UsageSeries? Cpu => cpu;

        public UsageSeries? Memory => memory;

        /// <summary>Where it stands on its machine.</summary>
        public int Slot { get; set; } = slot;
    }
}
