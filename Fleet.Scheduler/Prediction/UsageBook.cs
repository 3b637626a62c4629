using Fleet.Scheduler.Hosts;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Prediction;

/// <summary>What a host's microVMs are estimated to use at once at most.</summary>
/// <param name="Cpus">Hardware threads.</param>
/// <param name="MemoryMib">MiB.</param>
public readonly record struct PeakUse(double Cpus, double MemoryMib);

/// <summary>
/// What the microVMs of one host used, in memory only: an actor that was just recovered knows nothing, and takes everybody to be at its limit
/// until there is history again. Holds series of those alone that have a reservation. Not safe for several threads.
/// </summary>
public sealed class UsageBook
{
    /// <summary>A sample that is older than this when it comes says nothing of now.</summary>
    public static readonly TimeSpan OldestSample = TimeSpan.FromMinutes(1);

    private readonly Dictionary<(string VmId, ulong Epoch), Entry> _vms = [];
    private readonly MachineSeries _machineCpu = new();
    private readonly MachineSeries _machineMemory = new();
    private ulong _sequence;

    private sealed record Entry(UsageSeries Cpu, UsageSeries Memory);

    /// <summary>The newest sample's figures of the machine as a whole; null: none came on this stream.</summary>
    public MachineUse? Machine { get; private set; }

    /// <summary>Series that are held: two for each microVM.</summary>
    public int Vms => _vms.Count;

    /// <summary>microVMs with history enough.</summary>
    public int WarmVms(TimeSpan now) => _vms.Values.Count(entry => entry.Cpu.IsWarm(now) && entry.Memory.IsWarm(now));

    /// <summary>A new stream: its sequence begins anew, and what was told by the one before says nothing of now.</summary>
    public void Opened() => (_sequence, Machine) = (0, null);

    /// <summary>Takes what the agent sampled. False, and nothing changes, when it is repeated, out of order or too old.</summary>
    /// <param name="sample">Checked for its form.</param>
    /// <param name="held">The host's reservations: who has none is not listened to.</param>
    /// <param name="now">When it came, on a clock that nobody sets.</param>
    public bool Take(UsageSample sample, IReadOnlyCollection<Reservation> held, TimeSpan now)
    {
        ArgumentNullException.ThrowIfNull(sample);
        ArgumentNullException.ThrowIfNull(held);
        // An age can't name the future, whatever the host's clock says.
        var at = now - TimeSpan.FromMilliseconds(sample.AgeMs);
        if (sample.Sequence <= _sequence || sample.AgeMs > OldestSample.TotalMilliseconds || at < TimeSpan.Zero)
            return false;
        _sequence = sample.Sequence;
        Machine = sample.Machine;

        var told = new Dictionary<(string VmId, ulong Epoch), VmUse>(sample.Vms.Count);
        foreach (var vm in sample.Vms)
            told.TryAdd((vm.VmId, vm.Epoch), vm);
        double cpus = 0, memory = 0, cpuLimit = 0, memoryLimit = 0;
        foreach (var one in held)
        {
            var key = (one.VmId, one.Epoch);
            if (one.Vacated || !told.TryGetValue(key, out var vm))
                continue;
            if (!_vms.TryGetValue(key, out var entry))
                _vms[key] = entry = new Entry(new UsageSeries(), new UsageSeries());
            // Nobody counts above its limit: a VMM's own threads, or a lie, must not make the neighbours' room smaller than limits do.
            var usedCpus = Math.Min(vm.CpuMillis / 1000.0, one.Cpus);
            var usedMemory = Math.Min(vm.MemoryKib / 1024.0, one.MemoryMib);
            entry.Cpu.Add(one.Cpus == 0 ? 0 : usedCpus / one.Cpus, at, now);
            entry.Memory.Add(one.MemoryMib == 0 ? 0 : usedMemory / one.MemoryMib, at, now);
            cpus += usedCpus;
            memory += usedMemory;
            cpuLimit += one.Cpus;
            memoryLimit += one.MemoryMib;
        }
        if (cpuLimit > 0)
            _machineCpu.Add(cpus, cpuLimit, at, now);
        if (memoryLimit > 0)
            _machineMemory.Add(memory, memoryLimit, at, now);
        Forget(held);
        return true;
    }

    /// <summary>Predicted of all reservations that hold room.</summary>
    public PeakUse Predict(IReadOnlyCollection<Reservation> held, IPeakPredictor cpu, IPeakPredictor memory, TimeSpan now)
    {
        ArgumentNullException.ThrowIfNull(held);
        ArgumentNullException.ThrowIfNull(cpu);
        ArgumentNullException.ThrowIfNull(memory);
        var cpus = new List<Consumer>(held.Count);
        var mib = new List<Consumer>(held.Count);
        foreach (var one in held)
        {
            if (!one.Holds)
                continue;
            var entry = _vms.GetValueOrDefault((one.VmId, one.Epoch));
            entry?.Cpu.Roll(now);
            entry?.Memory.Roll(now);
            cpus.Add(new Consumer(one.Cpus, entry?.Cpu));
            mib.Add(new Consumer(one.MemoryMib, entry?.Memory));
        }
        _machineCpu.Roll(now);
        _machineMemory.Roll(now);
        return new PeakUse(cpu.Predict(new ResourceUse(cpus, _machineCpu, now)), memory.Predict(new ResourceUse(mib, _machineMemory, now)));
    }

    private void Forget(IReadOnlyCollection<Reservation> held)
    {
        if (_vms.Count == 0)
            return;
        var kept = held.Where(one => !one.Vacated).Select(one => (one.VmId, one.Epoch)).ToHashSet();
        foreach (var gone in _vms.Keys.Where(key => !kept.Contains(key)).ToList())
            _vms.Remove(gone);
    }
}
