using System.Globalization;

namespace Fleet.Chaos.Faults;

/// <summary>What can be done to a fleet.</summary>
internal enum FaultKind
{
    /// <summary>kill -9; started again when the fault ends, as a supervisor would.</summary>
    Kill,

    /// <summary>SIGTERM, and started again: an upgrade.</summary>
    Restart,

    /// <summary>SIGSTOP, then SIGCONT.</summary>
    Pause,

    /// <summary>Stopped and let go in turn, half of the time each: a slow machine.</summary>
    Slow,

    /// <summary>kill -9 of the agent and of all its VMMs, and nobody hears that their connections end: the plug is pulled.</summary>
    PowerOff,

    /// <summary>SIGSTOP of the agent and of all its VMMs: the machine hangs.</summary>
    Hang,

    /// <summary>kill -9 of one VMM.</summary>
    KillVmm,

    /// <summary>Nothing passes between it and anybody.</summary>
    Cut,

    /// <summary>What it sends does not arrive; what it is sent does.</summary>
    CutSending,

    /// <summary>What it is sent does not arrive; what it sends does.</summary>
    CutHearing,

    /// <summary>Nothing passes between this scheduler and the other schedulers; hosts and database reach all.</summary>
    Split,

    /// <summary>Packets come late, out of order, twice or not at all.</summary>
    Disturb,

    /// <summary>Its wall clock jumps, by up to an hour either way, and stays so until the fault ends.</summary>
    ClockJump,

    /// <summary>No byte more fits on its disk.</summary>
    DiskFull,

    /// <summary>Nothing passes between this scheduler and the database; it reaches its peers, and hosts and clients reach it.</summary>
    CutDatabase,

    /// <summary>Nothing passes between this host and one of the schedulers.</summary>
    CutOne,

    /// <summary>SIGSTOP of one VMM, then SIGCONT; its agent and all others go on.</summary>
    HangVmm,

    /// <summary>The operator takes the host out of placement, and back in.</summary>
    Cordon,

    /// <summary>The operator has the host's microVMs leave it, by a deadline before the fault ends or not, and takes it back in.</summary>
    Drain,
}

internal enum Role
{
    Scheduler,
    Host,
    Database,
}

/// <summary>One fault.</summary>
/// <param name="At">From the start of the run.</param>
/// <param name="Kind">What.</param>
/// <param name="Role">To what kind of process.</param>
/// <param name="Index">Which of its role.</param>
/// <param name="Lasts">Until it is healed.</param>
/// <param name="Salt">Picks what the kind leaves open (which VMM, how far a clock jumps).</param>
internal sealed record Fault(TimeSpan At, FaultKind Kind, Role Role, int Index, TimeSpan Lasts, uint Salt)
{
    public TimeSpan Ends => At + Lasts;

    public override string ToString() => string.Create(
        CultureInfo.InvariantCulture, $"{At.TotalSeconds,7:0.0} s  {Kind} {Role} {Index} for {Lasts.TotalSeconds:0.0} s");
}

/// <summary>What there is to break, and how hard it shall be tried.</summary>
internal sealed record ScheduleOptions
{
    public required int Schedulers { get; init; }

    public required int Hosts { get; init; }

    /// <summary>PostgreSQL stands beside the schedulers.</summary>
    public bool Database { get; init; }

    public required TimeSpan Length { get; init; }

    /// <summary>Long faults last longer than this, short ones less.</summary>
    public required TimeSpan Lease { get; init; }

    /// <summary>Mean time between two faults.</summary>
    public TimeSpan Pace { get; init; } = TimeSpan.FromSeconds(6);
}

/// <summary>Makes the faults of a run out of its seed. Pure: the same seed and options make the same faults, on every machine.</summary>
internal static class Schedule
{
    private static readonly (FaultKind Kind, int Weight)[] OfHosts =
    [
        (FaultKind.Kill, 4), (FaultKind.Restart, 2), (FaultKind.Pause, 4), (FaultKind.Slow, 2), (FaultKind.PowerOff, 4), (FaultKind.Hang, 3), (FaultKind.KillVmm, 3),
        (FaultKind.Cut, 4), (FaultKind.CutSending, 2), (FaultKind.CutHearing, 2), (FaultKind.Disturb, 3), (FaultKind.ClockJump, 2),
    ];

    private static readonly (FaultKind Kind, int Weight)[] OfSchedulers =
    [
        (FaultKind.Kill, 4), (FaultKind.Restart, 2), (FaultKind.Pause, 3), (FaultKind.Slow, 1), (FaultKind.Cut, 2), (FaultKind.CutSending, 1), (FaultKind.CutHearing, 1),
        (FaultKind.Disturb, 2), (FaultKind.ClockJump, 2),
    ];

    private static readonly (FaultKind Kind, int Weight)[] OfDatabases = [(FaultKind.Kill, 2), (FaultKind.Restart, 2), (FaultKind.Pause, 3), (FaultKind.Cut, 2), (FaultKind.Disturb, 2), (FaultKind.DiskFull, 1)];

    /// <summary>
    /// What came later has a stream of its own, so that a seed that was told before still means the same faults, and some more. It is drawn half as often and gives way to the first.
    /// </summary>
    private static readonly (FaultKind Kind, int Weight)[] OfHostsToo =
        [(FaultKind.CutOne, 3), (FaultKind.HangVmm, 4), (FaultKind.DiskFull, 2), (FaultKind.Cordon, 2), (FaultKind.Drain, 3)];

    public static IReadOnlyList<Fault> Of(ulong seed, ScheduleOptions options)
    {
        var faults = new List<Fault>();
        Draw(faults, new SeededRandom(seed), options, options.Pace, Kinds);
        Draw(faults, new SeededRandom(~seed), options, options.Pace * 2, KindsToo);
        return [.. faults.OrderBy(fault => fault.At)];
    }

    private static void Draw(List<Fault> faults, SeededRandom random, ScheduleOptions options, TimeSpan pace, Func<Role, ScheduleOptions, IEnumerable<(FaultKind Kind, int Weight)>> kinds)
    {
        var at = TimeSpan.FromSeconds(2);
        while (true)
        {
            // Between half and one and a half of the pace.
            at += pace * (0.5 + random.Fraction());
            if (at >= options.Length)
                return;
            var role = (random.Below(10), options.Database) switch
            {
                ( < 6, _) => Role.Host,
                ( < 8, true) => Role.Database,
                _ => Role.Scheduler,
            };
            var index = (int)random.Below(role == Role.Host ? options.Hosts : role == Role.Scheduler ? options.Schedulers : 1);
            if (Pick(kinds(role, options), random) is not { } kind)
                continue;
            var lasts = Length(kind, role, options, random);
            var fault = new Fault(at, kind, role, index, at + lasts < options.Length ? lasts : options.Length - at, random.Salt());
            // What makes no sense on top of the others is left out; the numbers are drawn all the same.
            if (Fits(fault, faults, options))
                faults.Add(fault);
        }
    }

    private static IEnumerable<(FaultKind Kind, int Weight)> Kinds(Role role, ScheduleOptions options) => role switch
    {
        Role.Host => OfHosts,
        Role.Database => OfDatabases,
        _ when options.Schedulers > 1 => [.. OfSchedulers, (FaultKind.Split, 4)],
        // One that stands alone has its journal on a disk of its own.
        _ when !options.Database => [.. OfSchedulers, (FaultKind.DiskFull, 2)],
        _ => OfSchedulers,
    };

    private static IEnumerable<(FaultKind Kind, int Weight)> KindsToo(Role role, ScheduleOptions options) => role switch
    {
        Role.Host => options.Schedulers > 1 ? OfHostsToo : OfHostsToo.Where(of => of.Kind != FaultKind.CutOne),
        Role.Scheduler when options.Database => [(FaultKind.CutDatabase, 1)],
        _ => [],
    };

    private static FaultKind? Pick(IEnumerable<(FaultKind Kind, int Weight)> kinds, SeededRandom random)
    {
        if (!kinds.Any())
            return null;
        var left = (int)random.Below(kinds.Sum(kind => kind.Weight));
        foreach (var (kind, weight) in kinds)
        {
            if ((left -= weight) < 0)
                return kind;
        }

        throw new InvalidOperationException("The weights don't add up.");
    }

    /// <summary>Half of them shorter than a lease can miss, half of them longer than it lasts. The control plane's are shorter: nothing is placed meanwhile.</summary>
    private static TimeSpan Length(FaultKind kind, Role role, ScheduleOptions options, SeededRandom random)
    {
        var fraction = random.Fraction();
        var isLong = random.Below(2) == 1;
        if (kind is FaultKind.KillVmm)
            return TimeSpan.FromSeconds(1);
        if (role != Role.Host)
            return TimeSpan.FromSeconds(0.5) + (options.Lease * (isLong ? 1 : 0.25) * fraction);
        return isLong ? (options.Lease * (1 + fraction)) + TimeSpan.FromSeconds(3) : TimeSpan.FromSeconds(0.3) + (options.Lease * 0.4 * fraction);
    }

    private static bool Fits(Fault fault, List<Fault> others, ScheduleOptions options)
    {
        // One at a time for each, with a moment to come back in between; and two hosts are always left alone, so that there is room.
        var calm = TimeSpan.FromSeconds(2);
        var during = others.Where(other => other.Ends + calm > fault.At && other.At < fault.Ends + calm).ToList();
        if (during.Any(other => other.Role == fault.Role && other.Index == fault.Index))
            return false;
        return fault.Role switch
        {
            Role.Host => during.Count(other => other.Role == Role.Host) < Math.Max(1, options.Hosts - 2),
            Role.Scheduler => during.Count(other => other.Role == Role.Scheduler) < Math.Max(1, (options.Schedulers - 1) / 2),
            _ => true,
        };
    }
}

/// <summary>SplitMix64: the same numbers for ever, which the framework's generator does not promise.</summary>
internal sealed class SeededRandom(ulong seed)
{
    private ulong _state = seed;

    public ulong Next()
    {
        var z = _state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
    }

    public uint Salt() => (uint)Next();

    /// <summary>0 to below 1.</summary>
    public double Fraction() => (Next() >> 11) * (1.0 / (1UL << 53));

    public uint Below(int limit) => (uint)(Next() % (ulong)limit);
}
