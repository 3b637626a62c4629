using Fleet.Host.Agent;
using Fleet.Host.Drivers;
using Fleet.Host.Pressure;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Usage;

/// <summary>How long threads of vCPUs ran, and how long they were ready to run and waited for a CPU.</summary>
internal readonly record struct VcpuTimes(TimeSpan Run, TimeSpan Wait)
{
    /// <summary>Share of the time they wanted a CPU in which they had none, 0 to 1.</summary>
    public double WaitShare => Run + Wait > TimeSpan.Zero ? Wait / (Run + Wait) : 0;
}

/// <summary>How far CPUs were short in a time.</summary>
/// <param name="Vcpus">Of all vCPUs that answered, without what those waited that a quota held back.</param>
/// <param name="Steal">Share of the CPUs' time that was stolen, 0 to 1.</param>
/// <param name="Cpus">That there are.</param>
/// <param name="Span">How long it was.</param>
internal readonly record struct CpuShortage(VcpuTimes Vcpus, double Steal, int Cpus, TimeSpan Span);

/// <summary>
/// Makes samples of readings: the microVMs are asked at the same time, and what was answered until the next look is one sample. CPU is what was
/// used between two readings, so a microVM's first one gives none. Not safe for several threads.
/// </summary>
internal sealed class UsageTable
{
    public static readonly TimeSpan SampleEvery = TimeSpan.FromSeconds(10);

    /// <summary>What a guest said longer ago says nothing of now: it says it every 10 s.</summary>
    private static readonly TimeSpan GuestWordFor = TimeSpan.FromSeconds(30);

    /// <summary>Readings nearer to each other say little: the kernel counts in hundredths of a second.</summary>
    private static readonly TimeSpan LeastBetween = TimeSpan.FromSeconds(1);

    /// <summary>What ran for so much longer than its quota allows is held by none: its driver has no control groups. Less may be readings that were not quite ten seconds apart.</summary>
    private const double Unheld = 1.25;

    private readonly Dictionary<string, Reading> _before = new(StringComparer.Ordinal);
    private readonly Dictionary<string, VmUse> _sampled = new(StringComparer.Ordinal);
    private readonly Dictionary<(string VmId, int Vcpu), VcpuReading> _vcpusBefore = [];
    private readonly Dictionary<string, VmVcpus> _vcpus = new(StringComparer.Ordinal);
    private readonly Dictionary<string, (ulong Epoch, uint Mib)> _balloons = new(StringComparer.Ordinal);
    private readonly Dictionary<string, (ulong Epoch, GuestFigures Figures, TimeSpan At)> _guests = new(StringComparer.Ordinal);
    private MachineReading? _machineBefore;
    private MachineReading? _machine;
    private Stalls _stallsBefore;
    private Stalls _stalls;
    private TimeSpan? _askedBefore;
    private TimeSpan? _askedAt;
    private bool _untold;
    private ulong _sequence;

    private sealed record Reading(ulong Epoch, VmmUse Use, TimeSpan At);

    private sealed record VcpuReading(ulong Epoch, VcpuUsage Usage);

    /// <summary>The vCPUs of one microVM, between the last two looks.</summary>
    /// <param name="Times">Of those that answered.</param>
    /// <param name="Allowed">CPUs that they might use together.</param>
    /// <param name="HeldBack">One of them had no credits left, so that a quota held them together to that.</param>
    private readonly record struct VmVcpus(VcpuTimes Times, double Allowed, bool HeldBack)
    {
        /// <summary>
        /// What tells of the machine. The kernel counts as waiting also how long a group's quota holds its threads (measured under Linux 6.18 with idle
        /// CPUs: a busy process held to a tenth of a CPU ran 0.40 s in 4 s and "waited" 3.60 s). How much of it was want of CPUs can't be told from
        /// that, since a group's throttled time is counted by CPU and not by thread: of one that is held back as much counts as it did not get of what it may use.
        /// </summary>
        public VcpuTimes ForWantOfCpus(TimeSpan span)
        {
            if (!HeldBack || Times.Run > Allowed * span * Unheld)
                return Times;
            var missed = Allowed * span - Times.Run;
            return Times with { Wait = TimeSpan.FromTicks(Math.Min(Math.Max(0, missed.Ticks), Times.Wait.Ticks)) };
        }
    }

    /// <summary>Of the vCPUs that answered, between the last two looks: how long they ran and how long they waited for a CPU.</summary>
    public VcpuTimes Vcpus => Sum(_vcpus.Values.Select(static one => one.Times));

    /// <summary>It is time to ask again.</summary>
    public bool IsDue(TimeSpan now) => _askedAt is not { } at || now - at >= SampleEvery;

    /// <summary>How the CPUs were shared between the two last looks, whose answers are in by now; null: there were not two.</summary>
    public CpuShortage? CpuOfLastLook(TimeSpan now) => _askedBefore is { } before && _askedAt is { } at && at > before && now > at
        ? new(
            Sum(_vcpus.Values.Select(one => one.ForWantOfCpus(at - before))),
            _machine is null || _machineBefore is null ? 0 : _machine.StealSince(_machineBefore),
            _machine?.Cpus ?? Environment.ProcessorCount,
            at - before)
        : null;

    /// <summary>All microVMs are asked now; what of the sample before was not told is lost.</summary>
    public void Begin(MachineReading? machine, Stalls stalls, TimeSpan now)
    {
        _sampled.Clear();
        _vcpus.Clear();
        (_machineBefore, _machine) = (_machine, machine);
        (_stallsBefore, _stalls) = (_stalls, stalls);
        (_askedBefore, _askedAt) = (_askedAt, now);
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
        if (before is null || before.Epoch != epoch || use.Cpu < before.Use.Cpu)
            return;
        _sampled[vmId] = new VmUse
        {
            VmId = vmId,
            Epoch = epoch,
            CpuMillis = (uint)Math.Round(Math.Min((use.Cpu - before.Use.Cpu) / (at - before.At) * 1000, uint.MaxValue)),
            MemoryKib = (ulong)Math.Max(0, use.MemoryKib),
            Stalls = use.Stalls.Since(before.Use.Stalls, at - before.At).ToFigures(),
        };
    }

    /// <summary>What one of its vCPUs answered.</summary>
    public void Put(string vmId, ulong epoch, VcpuUsage usage)
    {
        var key = (vmId, usage.Index);
        var before = _vcpusBefore.GetValueOrDefault(key);
        _vcpusBefore[key] = new VcpuReading(epoch, usage);
        // Less than before: the thread is another one.
        if (before?.Epoch != epoch || usage.Run < before.Usage.Run || usage.Wait < before.Usage.Wait)
            return;
        var (times, allowed, heldBack) = _vcpus.GetValueOrDefault(vmId);
        // What it is allowed by this reading holds from here on; up to here it was what it was allowed by the one before.
        _vcpus[vmId] = new VmVcpus(
            new VcpuTimes(times.Run + usage.Run - before.Usage.Run, times.Wait + usage.Wait - before.Usage.Wait),
            allowed + before.Usage.Allowance,
            heldBack || before.Usage.Allowance < 1);
    }

    /// <summary>What the balloon of one holds.</summary>
    public void PutBalloon(string vmId, ulong epoch, uint mib) => _balloons[vmId] = (epoch, mib);

    /// <summary>What the guest of one said of itself.</summary>
    public void PutGuest(string vmId, ulong epoch, GuestFigures? figures, TimeSpan at)
    {
        if (figures is null) _guests.Remove(vmId);
        else _guests[vmId] = (epoch, figures, at);
    }

    /// <summary>It runs here no more.</summary>
    public void Forget(string vmId)
    {
        _before.Remove(vmId);
        _sampled.Remove(vmId);
        _vcpus.Remove(vmId);
        _balloons.Remove(vmId);
        _guests.Remove(vmId);
        foreach (var key in _vcpusBefore.Keys.Where(key => key.VmId == vmId).ToList())
            _vcpusBefore.Remove(key);
    }

    /// <summary>The sample that is to be told; null: none is.</summary>
    public UsageSample? Next(TimeSpan now)
    {
        if (!_untold || _askedAt is not { } at || at == now)
            return null;
        var span = at - (_askedBefore ?? at);
        var banks = _vcpusBefore.Where(one => one.Value.Usage.Credits is not null).ToLookup(one => (one.Key.VmId, one.Value.Epoch), one => one.Value.Usage);
        foreach (var (vmId, use) in _sampled)
        {
            use.BalloonMib = _balloons.TryGetValue(vmId, out var balloon) && balloon.Epoch == use.Epoch ? balloon.Mib : 0;
            use.Guest = _guests.TryGetValue(vmId, out var guest) && guest.Epoch == use.Epoch && now - guest.At < GuestWordFor ? guest.Figures : null;
            var bank = banks[(vmId, use.Epoch)];
            use.VcpusHeldBack = (uint)bank.Count(vcpu => vcpu.Allowance < 1);
            use.Credits = bank.Any() ? new CpuCreditFigures { BalanceMs = (long)bank.Sum(vcpu => vcpu.Credits!.Value.TotalMilliseconds) } : null;
            use.CpuWaitMillis = Millis(_vcpus.GetValueOrDefault(vmId).Times.Wait, span);
        }
        return new UsageSample
        {
            Sequence = _sequence + 1,
            AgeMs = (uint)Math.Min((now - at).TotalMilliseconds, uint.MaxValue),
            Machine = _machine is null || _machineBefore is null ? null : UseOf(_machine, _machineBefore, span),
            Vms = { _sampled.Values },
        };
    }

    private static VcpuTimes Sum(IEnumerable<VcpuTimes> all) => all.Aggregate(default(VcpuTimes), static (sum, one) => new VcpuTimes(sum.Run + one.Run, sum.Wait + one.Wait));

    private MachineUse UseOf(MachineReading machine, MachineReading before, TimeSpan span) => new()
    {
        CpuMillis = machine.CpuMillisSince(before),
        MemoryKib = machine.MemoryKib,
        StealPermille = Permille(machine.StealSince(before)),
        CpuWaitMillis = Millis(Vcpus.Wait, span),
        Stalls = _stalls.Since(_stallsBefore, span).ToFigures(),
    };

    private static uint Millis(TimeSpan time, TimeSpan span) => span > TimeSpan.Zero ? (uint)Math.Min(time / span * 1000, uint.MaxValue) : 0;

    private static uint Permille(double share) => (uint)Math.Round(share * 1000);

    /// <summary>What <see cref="Next"/> gave is on its way.</summary>
    public void Told()
    {
        _sequence++;
        _untold = false;
    }
}
