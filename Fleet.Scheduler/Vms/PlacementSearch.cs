using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Vms;

/// <summary>
/// One try to find a host: which are still to be asked, who said no and why. Bounded: a host is asked once, and after
/// <see cref="MostRefusals"/> the try is over. Others give way only where no host is left that has not been asked: one that the index takes for
/// free may have the room.
/// </summary>
internal sealed class PlacementSearch
{
    /// <summary>Hosts that look free but say no: the index is far behind then, and a pause helps more than another question.</summary>
    public const int MostRefusals = 16;

    /// <summary>Hosts that nobody gave way on: so many are remembered, by every microVM that waits and in each question to the index.</summary>
    private const int MostUnyielding = 256;

    private static readonly TimeSpan LeastPatience = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan MostPatience = TimeSpan.FromSeconds(5);

    /// <summary>Waiting microVMs spread over this when capacity changes, so that a host is not asked by all at once; over more after each search that found nothing, so that placement has time for who comes.</summary>
    private static readonly TimeSpan WakeSpread = TimeSpan.FromMilliseconds(250);

    /// <summary>No later than this a microVM looks for the room that came.</summary>
    private static readonly TimeSpan MostWakePause = TimeSpan.FromSeconds(5);

    private readonly IReadOnlyCollection<string> _avoided;
    private readonly HashSet<string> _asked;
    private readonly RejectionTally _refused = new();
    private readonly Queue<string> _candidates = new();
    private IReadOnlyList<Rejection> _rejectedByIndex = [];
    private readonly List<VolumeRecord> _volumes = [];
    private bool _indexHasMore = true;
    private int _passedOver;
    private int _silent;

    /// <param name="demand">What is wanted.</param>
    /// <param name="epoch">Under which epoch.</param>
    /// <param name="avoided">Hosts that are not to be asked.</param>
    public PlacementSearch(Demand demand, ulong epoch, IReadOnlyCollection<string> avoided)
    {
        Demand = demand;
        Epoch = epoch;
        _avoided = [.. avoided];
        _asked = new(avoided, StringComparer.Ordinal);
        _passedOver = _asked.Count;
        if (avoided.Count > 0)
            _refused.Add(new Rejection { Reason = RejectionReason.LaunchFailed, Hosts = (uint)avoided.Count });
    }

    /// <summary>From a change of capacity to the search.</summary>
    /// <param name="fruitless">Searches before that found nothing.</param>
    /// <param name="chance">From 0 to 1.</param>
    public static TimeSpan WakePause(int fruitless, double chance) =>
        DoublingPause.After(WakeSpread, fruitless, MostWakePause) * chance;

    public Demand Demand { get; private set; }

    /// <summary>The hosts of the microVMs that its rules name.</summary>
    public void Found(IReadOnlyDictionary<string, string> hosts) => Demand = Neighbours.With(Demand, hosts);

    /// <summary>One of its volumes that is somewhere already: no other host is asked. Null: none is.</summary>
    public VolumeRecord? Volume { get; private set; }

    /// <summary>Whether it is known where its volumes are.</summary>
    public bool KnowsVolumes { get; set; }

    /// <summary>The host said that another microVM has a volume of it.</summary>
    public bool VolumeInUse { get; private set; }

    /// <summary>Hosts where earlier volumes of its names are left: nobody gives way there for one that would not get its own.</summary>
    public IReadOnlyCollection<string> LeftAt { get; set; } = [];

    /// <summary>A host had room, and an earlier volume of the name of one that is to be made is left there.</summary>
    /// <param name="problem">What the volumes' actor said.</param>
    public void VolumeLeftThere(Reason problem)
    {
        VolumeLeft = problem;
        Refused(new Rejection { Reason = RejectionReason.VolumeInUse, Hosts = 1 });
    }

    /// <summary>Null: no host with room was passed over for that.</summary>
    public Reason? VolumeLeft { get; private set; }

    public void BindTo(VolumeRecord volume)
    {
        Volume = volume;
        Demand = Demand.Without(VolumeRules.Key(volume.Tenant, volume.Name)) with { Host = volume.Host };
        _volumes.Add(volume);
    }

    /// <summary>The spec as hosts are to hear it: a volume that is older than it keeps its size.</summary>
    public VmSpec WithSizes(VmSpec spec)
    {
        if (_volumes.Count == 0)
            return spec;
        var sized = spec.Clone();
        foreach (var volume in sized.Volumes)
            volume.SizeMib = _volumes.FirstOrDefault(known => known.Name == volume.Name)?.SizeMib ?? volume.SizeMib;
        return sized;
    }

    public ulong Epoch { get; }

    /// <summary>The host whose answer is awaited; empty: none.</summary>
    public string Asking { get; private set; } = "";

    public IReadOnlySet<string> Asked => _asked;

    /// <summary>No host has room: they are asked to have others give way.</summary>
    public bool Preempting { get; private set; }

    /// <summary>Begins anew with the hosts, once.</summary>
    /// <param name="unyielding">Those that nobody gave way on in the searches before: others come first.</param>
    public void Preempt(IEnumerable<string> unyielding)
    {
        Preempting = true;
        _asked.Clear();
        _asked.UnionWith(_avoided);
        _asked.UnionWith(LeftAt);
        _asked.UnionWith(unyielding);
        _passedOver = _asked.Count;
    }

    /// <summary>Hosts that nobody gave way on, for the next search to pass over; none when all have been asked by now, or too many to remember.</summary>
    public IReadOnlyCollection<string> Unyielding => Preempting && _indexHasMore && !HasAskedEnough ? [.. _asked.Except(LeftAt)] : [];

    // Of those that may give way at all.
    private bool HasAskedEnough => Preempting && _asked.Count - _avoided.Count - LeftAt.Count > MostUnyielding;

    public void Take(PlacementAdvice advice)
    {
        _candidates.Clear();
        foreach (var host in advice.Hosts)
            _candidates.Enqueue(host);
        // Why they have no room was told before.
        if (!Preempting)
            _rejectedByIndex = advice.Rejections;
        _indexHasMore = advice.Hosts.Count > 0;
        IsEarly = advice.IsEarly;
    }

    /// <summary>The next host to ask; null when there is none in the present advice, or enough have refused.</summary>
    public string? Next()
    {
        if (AskedNow >= MostRefusals || !_candidates.TryDequeue(out var host))
            return null;
        _asked.Add(host);
        Asking = host;
        return host;
    }

    /// <summary>
    /// How long the asked host's answer may take: twice as long after each that gave none. One whose actor is away holds up no fail-over (it has 5 s beyond
    /// the lease), and while a store stands not every search takes room on every host.
    /// </summary>
    public TimeSpan Patience => DoublingPause.After(LeastPatience, _silent, MostPatience);

    /// <summary>The asked host gave no answer in time.</summary>
    public void Silent()
    {
        _silent++;
        Refused(new Rejection { Reason = RejectionReason.Unreachable, Hosts = 1 });
    }

    /// <summary>The asked host said no.</summary>
    public void Refused(Rejection rejection)
    {
        if (!Preempting)
            _refused.Add(rejection);
        VolumeInUse |= rejection.Reason == RejectionReason.VolumeInUse;
        Asking = "";
    }

    /// <summary>Whether the index should be asked again, without those that refused: its last advice was not its last word.</summary>
    public bool MaySearchOn => _indexHasMore && AskedNow < MostRefusals;

    /// <summary>Whether those of lower classes are to give way: no host is left that may have room.</summary>
    public bool MayPreempt => !Preempting && !_indexHasMore && Demand.Rank > 0;

    /// <summary>
    /// Another try may find what this one did not: there may be hosts that the index has not heard of yet, that it has more of, or that gave no answer. Where nobody gave way on
    /// <see cref="MostUnyielding"/> hosts it is decided.
    /// </summary>
    public bool IsUndecided => IsEarly || _silent > 0 || (_indexHasMore && !HasAskedEnough);

    private int AskedNow => _asked.Count - _passedOver;

    /// <summary>There may be hosts that the index has not heard of yet.</summary>
    public bool IsEarly { get; private set; }

    /// <summary>Every host said no for good. Of what <see cref="Explain"/> has added up.</summary>
    public bool IsLasting => !IsEarly && Volume is null && _refused.ToList().All(rejection => rejection.Reason is RejectionReason.LaunchFailed or RejectionReason.OtherHost or RejectionReason.Driver or RejectionReason.Architecture or RejectionReason.Kernel or RejectionReason.CpuTemplate or RejectionReason.Labels or RejectionReason.Zone);

    public Reason Explain()
    {
        foreach (var rejection in _rejectedByIndex)
            _refused.Add(rejection);
        return _refused.Explain(Demand);
    }
}
