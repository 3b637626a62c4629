namespace Fleet.Scheduler.Hosts;

/// <summary>What a lease means on the host, and how much longer the control plane counts.</summary>
/// <param name="Lifetime">From the host's own sending of a heartbeat on: then its guests stand still.</param>
/// <param name="EndsAfter">And so long after that their VMMs end. Until then they go on when the lease is renewed.</param>
/// <param name="Margin">What the control plane waits beyond the lifetime before it places anything again.</param>
/// <remarks>
/// Safe while a host's boot clock runs at most <see cref="MostDrift"/> slower than the control plane's monotonic clock, and its
/// kernel stops a vCPU within <see cref="StopTime"/> of its timer: the margin has room for both.
/// </remarks>
public sealed record LeaseTerms(TimeSpan Lifetime, TimeSpan EndsAfter, TimeSpan Margin)
{
    /// <summary>1 %: quartz is off by at most a ten thousandth, and NTP corrects by at most a two thousandth.</summary>
    public const double MostDrift = 0.01;

    /// <summary>From the timer's expiry until no vCPU runs the guest: a machine that is busy, not one that hangs.</summary>
    public static readonly TimeSpan StopTime = TimeSpan.FromMilliseconds(500);

    /// <summary>
    /// From the last heartbeat that a control-plane node answers before it dies until its hosts' actors grant leases elsewhere. A heartbeat of 3 s, then 2.5 s until the node is
    /// unreachable, 3 s until that is settled and 3 s of margin (hocon/cluster.conf), and shards move: 12 to 13 s measured (docs/reliability.md). Meanwhile agents
    /// of a node that is cut off or without power hear nothing for 9 to 12 s (SchedulerLink's missed beats), and dial another, which asks their actors again every
    /// 2 s: 18 s. The rest is for a second node that does not answer either, or one that is busy.
    /// </summary>
    public static readonly TimeSpan FailOver = TimeSpan.FromSeconds(20);

    public static readonly LeaseTerms Default = new(TimeSpan.FromSeconds(20), TimeSpan.FromMinutes(10), TimeSpan.FromSeconds(2));

    /// <summary>Why these terms can't be kept; null: they can.</summary>
    /// <param name="heartbeat">How often hosts renew.</param>
    /// <param name="severalNodes">Whether the control plane has other nodes that take over from one that dies.</param>
    public string? FirstProblem(TimeSpan heartbeat, bool severalNodes)
    {
        if (severalNodes && Lifetime < FailOver)
            return $"A lease of {Lifetime.TotalSeconds:0.###} s is shorter than the {FailOver.TotalSeconds:0} s in which the nodes of a cell take over from one that dies: every guest of its hosts would stand still meanwhile.";
        if (Lifetime < heartbeat * 3)
            return $"A lease of {Lifetime.TotalSeconds:0.###} s is shorter than three heartbeats of {heartbeat.TotalSeconds:0.###} s: one that is late would stop every guest.";
        var least = (Lifetime * MostDrift) + StopTime;
        return Margin < least
            ? $"A margin of {Margin.TotalSeconds:0.###} s is less than the {least.TotalSeconds:0.###} s that clocks and processors may be off by: a microVM could run twice."
            : null;
    }
}

/// <summary>
/// One host's lease as its actor counts it. Begun by an actor's start as well: the one before may have granted until a moment
/// ago. Not safe for several threads.
/// </summary>
internal sealed class HostLease(LeaseTerms terms, TimeProvider clock, Pulse pulse)
{
    private readonly Moment _begun = Moment.Now(clock, pulse);
    private Moment _granted = Moment.Now(clock, pulse);
    private TimeSpan _former;
    private TimeSpan _before;

    /// <summary>By this actor: the one before may have, too.</summary>
    public bool IsGranted { get; private set; }

    /// <summary>Since it was granted last; before that since the actor started, and before as the one before it said. Time in which this process stood still does not count.</summary>
    public TimeSpan Age => _granted.Age(clock, pulse) + (IsGranted ? TimeSpan.Zero : _before);

    /// <summary>The host may count from any time before this.</summary>
    public void Grant()
    {
        _granted = Moment.Now(clock, pulse);
        IsGranted = true;
    }

    /// <summary>Whoever granted before this actor did so for that long. Hosts and VMMs keep the longer deadline.</summary>
    /// <param name="lifetime">Of such a grant.</param>
    /// <param name="ago">How long before this actor's start the last one was at least.</param>
    public void GrantedBefore(TimeSpan lifetime, TimeSpan ago) => (_former, _before) = (lifetime, ago);

    /// <summary>The longest lifetime of a grant that may still count somewhere.</summary>
    public TimeSpan Outstanding => UntilFormerOver > TimeSpan.Zero && _former > terms.Lifetime ? _former : terms.Lifetime;

    /// <summary>Zero or less: nothing runs on the host's side any more.</summary>
    public TimeSpan UntilGivenUp => terms.Lifetime + terms.Margin - Age is var left && left > UntilFormerOver ? left : UntilFormerOver;

    // Clocks may drift for longer than over a lifetime of ours.
    private TimeSpan UntilFormerOver => _former == TimeSpan.Zero ? TimeSpan.MinValue : (_former * (1 + LeaseTerms.MostDrift)) + terms.Margin - _begun.Age(clock, pulse) - _before;

    private readonly record struct Moment(long At, TimeSpan Stood)
    {
        public static Moment Now(TimeProvider clock, Pulse pulse) => new(clock.GetTimestamp(), pulse.StoodStill);

        public TimeSpan Age(TimeProvider clock, Pulse pulse) => clock.GetElapsedTime(At) - (pulse.StoodStill - Stood);
    }
}
