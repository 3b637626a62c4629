using Fleet.Host.Drivers;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Usage;

/// <summary>
/// Makes samples of readings: the microVMs are asked at the same time, and what was answered until the next look is one sample. CPU is what was
/// used between two readings, so a microVM's first one gives none. Not safe for several threads.
/// </summary>
internal sealed class UsageTable
{
    public static readonly TimeSpan SampleEvery = TimeSpan.FromSeconds(10);

    /// <summary>Readings nearer to each other say little: the kernel counts in hundredths of a second.</summary>
    private static readonly TimeSpan LeastBetween = TimeSpan.FromSeconds(1);

    private readonly Dictionary<string, Reading> _before = new(StringComparer.Ordinal);
    private readonly Dictionary<string, VmUse> _sampled = new(StringComparer.Ordinal);
    private MachineReading? _machineBefore;
    private MachineReading? _machine;
    private TimeSpan? _askedAt;
    private bool _untold;
    private ulong _sequence;

    private sealed record Reading(ulong Epoch, VmmUse Use, TimeSpan At);

    /// <summary>It is time to ask again.</summary>
    public bool IsDue(TimeSpan now) => _askedAt is not { } at || now - at >= SampleEvery;

    /// <summary>All microVMs are asked now; what of the sample before was not told is lost.</summary>
    public void Begin(MachineReading? machine, TimeSpan now)
    {
        _sampled.Clear();
        (_machineBefore, _machine) = (_machine, machine);
        _askedAt = now;
        _untold = true;
    }

    /// <summary>What one answered.</summary>
    public void Put(string vmId, ulong epoch, VmmUse use, TimeSpan at)
    {
        var before = _before.GetValueOrDefault(vmId);
        if (before?.Epoch == epoch && at - before.At < LeastBetween)
            return;
        _before[vmId] = new Reading(epoch, use, at);
        // Less than before: the process is another one.
        if (before?.Epoch != epoch || use.Cpu < before.Use.Cpu)
            return;
        _sampled[vmId] = new VmUse
        {
            VmId = vmId,
            Epoch = epoch,
            CpuMillis = (uint)Math.Round(Math.Min((use.Cpu - before.Use.Cpu) / (at - before.At) * 1000, uint.MaxValue)),
            MemoryKib = (ulong)Math.Max(0, use.MemoryKib),
        };
    }

    /// <summary>It runs here no more.</summary>
    public void Forget(string vmId)
    {
        _before.Remove(vmId);
        _sampled.Remove(vmId);
    }

    /// <summary>The sample that is to be told; null: none is.</summary>
    public UsageSample? Next(TimeSpan now)
    {
        if (!_untold || _askedAt is not { } at || at == now)
            return null;
        return new UsageSample
        {
            Sequence = _sequence + 1,
            AgeMs = (uint)Math.Min((now - at).TotalMilliseconds, uint.MaxValue),
            Machine = _machine is null || _machineBefore is null
                ? null
                : new MachineUse { CpuMillis = _machine.CpuMillisSince(_machineBefore), MemoryKib = _machine.MemoryKib },
            Vms = { _sampled.Values },
        };
    }

    /// <summary>What <see cref="Next"/> gave is on its way.</summary>
    public void Told()
    {
        _sequence++;
        _untold = false;
    }
}
