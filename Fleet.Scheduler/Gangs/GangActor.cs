using Akka.Actor;
using Akka.Cluster.Sharding;
using Akka.Event;
using Akka.Persistence;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Vms;
using Fleet.Shared.Contracts;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Scheduler.Gangs;

/// <summary>
/// One gang until it is placed. Its members tell it that they wait; when all do it gets room for each (<see cref="GangRound"/>), stores that, and tells them. Before that
/// nothing is stored: whoever takes over begins anew, and room that nobody knows of any more goes back when its host asks. After that only the word to the members is
/// left, which they ask for until they have it.
/// </summary>
internal sealed class GangActor : UntypedPersistentActor, IWithTimers
{
    private const string SearchTimer = "search";
    private const string RoundTimer = "round";
    private const string WakeTimer = "wake";
    private const string LeaveTimer = "leave";

    /// <summary>An answer from placement, a host or a member is late after this.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(5);

    /// <summary>Members that are created together come within this; who waits longer for the rest is told.</summary>
    private static readonly TimeSpan ComeTogether = TimeSpan.FromSeconds(1);

    /// <summary>
    /// The first pause of a gang that met others at the hosts, or for which there was no room when capacity changed. Doubled each time, and always by chance, so that two don't
    /// meet for ever.
    /// </summary>
    private static readonly TimeSpan FirstPause = TimeSpan.FromMilliseconds(250);

    /// <summary>So many rounds in a row that found no room for all, though there should be: it is its rules that keep it out, and no other gang that it met at the hosts.</summary>
    private const int Contests = 3;

    private readonly string _id;
    private readonly CellOptions _options;
    private readonly IActorRef _placement;
    private readonly IActorRef _hosts;
    private readonly LateRegion _vms;
    private readonly ILoggingAdapter _log = Context.GetLogger();
    private readonly SortedDictionary<uint, GangMember> _members = [];

    private GangPlaced? _placed;
    private GangRound? _round;

    // Set while members are read or room is counted: what comes of an older one is of no use.
    private Prepared? _prepared;
    private long _asked;

    // Of the last round: counted from a number by chance, so that it is none of an actor before, whose words may still be on their way.
    private ulong _rounds = (ulong)Random.Shared.NextInt64(1L << 62);
    private int _contests;

    // How often room was counted in vain since there was enough.
    private int _glances;
    private IReadOnlyDictionary<string, string> _neighbours = new Dictionary<string, string>();

    /// <param name="id">Of its first member: the entity id of the shard.</param>
    /// <param name="options">Of the node.</param>
    /// <param name="placement">The node's <see cref="PlacementActor"/>.</param>
    /// <param name="hosts">Takes every <see cref="IToHost"/>.</param>
    /// <param name="vms">Takes every <see cref="IToVm"/>.</param>
    public GangActor(string id, CellOptions options, IActorRef placement, IActorRef hosts, LateRegion vms)
    {
        _id = id;
        _options = options;
        _placement = placement;
        _hosts = hosts;
        _vms = vms;
    }

    public override string PersistenceId => PersistenceIds.Gang(_id);

    public ITimerScheduler Timers { get; set; } = null!;

    /// <summary>At most one event.</summary>
    public override Recovery Recovery => new(SnapshotSelectionCriteria.None);

    /// <summary>No member has spoken for so long: none waits.</summary>
    private TimeSpan LeaveAfter => 4 * _options.CommandRetryMost;

    private sealed record BeginRound : INoSerializationVerificationNeeded;

    /// <summary>Capacity changed: is there room by now? Only if so members are read.</summary>
    private sealed record Glance : INoSerializationVerificationNeeded;

    private sealed record Leave : INoSerializationVerificationNeeded;

    private sealed record Overdue(long Asked) : INoSerializationVerificationNeeded;

    /// <param name="Asked">Which question this answers.</param>
    /// <param name="Waiting">The ids of the members that wait; null: one gave no answer.</param>
    /// <param name="Neighbours">The hosts of the microVMs that the rules name.</param>
    private sealed record Prepared(long Asked, HashSet<string>? Waiting, IReadOnlyDictionary<string, string> Neighbours) : INoSerializationVerificationNeeded;

    protected override void OnRecover(object message)
    {
        if (message is GangPlaced placed)
            _placed = placed;
    }

    protected override void OnCommand(object message)
    {
        switch (message)
        {
            case JoinGang join:
                OnJoin(join);
                break;
            case GangRoomAsked asked:
                OnRoomAsked(asked);
                break;
            case BeginRound:
                Prepare();
                break;
            case CapacityChanged when IsResting && IsComplete && _contests == 0:
                // Not anew when it is set: where capacity changes all the time it would never fire.
                if (!Timers.IsTimerActive(WakeTimer))
                    Timers.StartSingleTimer(WakeTimer, new Glance(), Doubled(_glances) * Random.Shared.NextDouble());
                break;
            case Glance when IsResting && IsComplete:
                Count(_neighbours);
                break;
            case RoomCounted counted when counted.Asked == _asked && IsResting:
                if (counted.Room < Gang.Size)
                    _glances++;
                else
                    Prepare();
                break;
            case Prepared prepared when prepared.Asked == _asked && _round is null:
                OnPrepared(prepared);
                break;
            case RoomCounted counted when counted.Asked == _asked && _prepared is not null:
                OnCounted(counted);
                break;
            case HostsFound found when found.Search == _asked && _round?.Search is { } search:
                search.Take(found.Advice);
                Go();
                break;
            case RoomAnswer answer:
                OnRoom(answer);
                break;
            case Overdue overdue when overdue.Asked == _asked:
                OnOverdue();
                break;
            case Leave:
                Context.Parent.Tell(new Passivate(HandOff.Instance));
                break;
            case HandOff:
                GiveBack();
                Context.Stop(Self);
                break;
            case CapacityChanged or Glance or Prepared or RoomCounted or HostsFound or Overdue:
                break; // of what is over, or for who has something to do already
            default:
                Unhandled(message);
                break;
        }
    }

    private bool IsResting => _placed is null && _round is null && _prepared is null && _members.Count > 0;

    private Gang Gang => _members.First().Value.Spec.Gang;

    private bool IsComplete => _members.Count > 0 && _members.Count == Gang.Size;

    private void OnJoin(JoinGang join)
    {
        Timers.StartSingleTimer(LeaveTimer, new Leave(), LeaveAfter);
        if (_placed is not null)
        {
            TellPlace(join.VmId);
            return;
        }
        if (join.Spec?.Gang is not { } gang || gang.Index >= gang.Size)
            return;
        if (_members.Count == 0)
            Context.System.EventStream.Subscribe(Self, typeof(CapacityChanged));
        var isNew = _members.TryAdd(gang.Index, new GangMember(join.VmId, join.Spec));
        if (isNew && IsResting)
            RoundAfter(IsComplete ? TimeSpan.Zero : ComeTogether);
    }

    /// <summary>A host asks about room that it holds for a member that waits.</summary>
    private void OnRoomAsked(GangRoomAsked asked)
    {
        if (_placed?.Places.Any(place => place.VmId == asked.VmId && place.Host == asked.HostId && place.Epoch == asked.Epoch) == true)
        {
            // The host asks again, and then the member has it.
            TellPlace(asked.VmId);
            return;
        }
        var wanted = asked.Epoch == GangRound.Epoch && _round?.Wants(asked.VmId, asked.HostId, asked.Round) == true;
        if (wanted && !asked.Lost)
            return;
        GiveBack(asked.HostId, asked.VmId, asked.Epoch, asked.Round);
        if (!wanted)
            return;
        EndRound();
        _contests++;
        RoundAfter(Pause());
    }

    // --- one round: who waits, is there room at all, then the room of each ---

    private void RoundAfter(TimeSpan pause) => Timers.StartSingleTimer(RoundTimer, new BeginRound(), pause);

    private TimeSpan Pause() => Doubled(_contests) * (0.25 + Random.Shared.NextDouble());

    private TimeSpan Doubled(int times) => DoublingPause.After(FirstPause, times, _options.PlacementRetry);

    private void Count(IReadOnlyDictionary<string, string> neighbours) =>
        _placement.Tell(new CountRoom(Neighbours.With(Demand.Of(_members.First().Value.Spec), neighbours), (int)Gang.Size, ++_asked));

    private void Prepare()
    {
        if (!IsResting)
            return;
        if (!IsComplete)
        {
            TellWaits(GangRound.Incomplete(Gang, _members.Count));
            return;
        }
        var asked = ++_asked;
        _prepared = new Prepared(asked, null, new Dictionary<string, string>());
        PrepareAsync([.. _members.Values], asked).PipeTo(Self, failure: _ => new Prepared(asked, null, new Dictionary<string, string>()));
        Await();
    }

    private static async Task<Prepared> PrepareAsync(GangMember[] members, long asked, IActorRef vms)
    {
        var replies = await Task.WhenAll(members.Select(member => vms.Ask<VmReply>(new ReadVm { VmId = member.VmId }, Patience))).ConfigureAwait(false);
        string[] named = [.. members.SelectMany(member => Demand.Of(member.Spec).Rules?.Neighbours ?? []).Select(rule => rule.VmId).Distinct()];
        var neighbours = await VmActor.ReadAsync(vms, named).ConfigureAwait(false);
        return new Prepared(asked, [.. replies.Where(reply => reply.Vm is { } vm && VmLife.AwaitsGang(vm)).Select(reply => reply.Vm.Id)], neighbours);
    }

    private Task<Prepared> PrepareAsync(GangMember[] members, long asked) => PrepareAsync(members, asked, ClusterSharding.Get(Context.System).ShardRegion(ShardRegions.Vms));

    private void OnPrepared(Prepared prepared)
    {
        if (prepared.Waiting is null)
        {
            OnOverdue();
            return;
        }
        foreach (var gone in _members.Where(member => !prepared.Waiting.Contains(member.Value.VmId)).Select(member => member.Key).ToList())
            _members.Remove(gone);
        if (_members.Count == 0 || !IsComplete)
        {
            _prepared = null;
            Timers.Cancel(SearchTimer);
            // Who does not want to wait fails: one that had come is gone, maybe for that it had the word of no room and this one had not.
            if (_members.Count > 0)
                TellWaits(GangRound.Incomplete(Gang, _members.Count), isShort: true);
            return;
        }
        _prepared = prepared;
        _neighbours = prepared.Neighbours;
        Count(_neighbours);
        Await();
    }

    private void OnCounted(RoomCounted counted)
    {
        var prepared = _prepared!;
        _prepared = null;
        if (counted.Room < Gang.Size)
        {
            // Nobody is asked for room that can't be enough: what a gang holds for a moment others go without.
            Short(GangRound.Waits(Gang, counted.Room, counted.Why), isCertain: !counted.IsEarly);
            return;
        }
        _glances = 0;
        _round = new GangRound(++_rounds, [.. _members.Values], prepared.Neighbours);
        Go();
    }

    private void Go()
    {
        switch (_round!.Next())
        {
            case GangStep.AskIndex:
                _placement.Tell(new FindHosts(_round.Search!.Demand, _round.Search.Asked.ToHashSet(), ++_asked) { VmId = _round.Member.VmId, IsDecisive = _round.Member.Spec.RefuseWaiting });
                Await();
                break;
            case GangStep.Reserve reserve:
                Tried(_round.Member, reserve.Host, 0);
                _asked++;
                _hosts.Tell(new ReserveRoom { HostId = reserve.Host, VmId = _round.Member.VmId, Epoch = GangRound.Epoch, Spec = _round.Member.Spec, Round = _round.Number });
                Await();
                break;
            case GangStep.Short none:
                EndRound();
                _contests++;
                TellWaits(none.Why, isShort: none.IsDecided && _contests >= Contests);
                RoundAfter(Pause());
                break;
            case GangStep.Whole:
                Timers.Cancel(SearchTimer);
                Persist(new GangPlaced { At = Timestamp.FromDateTimeOffset(_options.Clock.GetUtcNow()), Places = { _round.Held } }, OnPlaced);
                break;
        }
    }

    private void OnRoom(RoomAnswer answer)
    {
        var member = _round?.Member;
        if (_round?.Take(answer) == true)
        {
            if (answer.Rejection is null)
                Tried(member!, answer.HostId, answer.Version);
            Go();
            return;
        }
        // A late yes.
        var wanted = _round?.Wants(answer.VmId, answer.HostId, answer.Round) == true || _placed?.Places.Any(place => place.VmId == answer.VmId && place.Host == answer.HostId) == true;
        if (answer.Rejection is null && !wanted)
            GiveBack(answer.HostId, answer.VmId, answer.Epoch, answer.Round);
    }

    private void OnOverdue()
    {
        if (_round?.Search is { Asking.Length: > 0 })
        {
            // If it said yes after all, the late answer is answered with "give it back".
            _round.Overdue();
            Go();
            return;
        }
        _log.Warning("The gang {GangId} got no answer within {Patience}", _id, Patience);
        EndRound();
        RoundAfter(_options.PlacementRetry * (0.5 + Random.Shared.NextDouble()));
    }

    /// <param name="why">How many have room.</param>
    /// <param name="isCertain">No host is missing in it: who does not want to wait fails.</param>
    private void Short(Reason why, bool isCertain)
    {
        Timers.Cancel(SearchTimer);
        _contests = 0;
        TellWaits(why, isCertain);
        // Or sooner, when capacity changes.
        RoundAfter(_options.PlacementRetry * (0.75 + 0.5 * Random.Shared.NextDouble()));
    }

    private void OnPlaced(GangPlaced placed)
    {
        _placed = placed;
        _round = null;
        Timers.Cancel(RoundTimer);
        Context.System.EventStream.Unsubscribe(Self, typeof(CapacityChanged));
        foreach (var place in placed.Places)
            TellPlace(place.VmId);
    }

    private void TellPlace(string vmId)
    {
        if (_placed!.Places.FirstOrDefault(place => place.VmId == vmId) is { } place)
            _vms.Tell(new TakePlace { VmId = vmId, HostId = place.Host, Epoch = place.Epoch, Round = place.Round }, Self);
    }

    private void TellWaits(Reason why, bool isShort = false)
    {
        foreach (var member in _members.Values)
            _vms.Tell(new GangWaits { VmId = member.VmId, Reason = why, Short = isShort }, Self);
    }

    private void EndRound()
    {
        GiveBack();
        _round = null;
        _prepared = null;
        _asked++;
        Timers.Cancel(SearchTimer);
    }

    /// <summary>All that a round holds; also what it asked for, if its answer is still to come.</summary>
    private void GiveBack()
    {
        if (_round is not { } round || _placed is not null)
            return;
        foreach (var place in round.Held)
            GiveBack(place.Host, place.VmId, place.Epoch, place.Round);
        if (round.Search is { Asking.Length: > 0 } search)
            GiveBack(search.Asking, round.Member.VmId, GangRound.Epoch, round.Number);
        foreach (var member in _members.Values)
            Tried(member, "", 0);
    }

    private void GiveBack(string hostId, string vmId, ulong epoch, ulong round) =>
        _hosts.Tell(new PlacementVerdict { HostId = hostId, VmId = vmId, Epoch = epoch, Round = round, Keep = false });

    private void Tried(GangMember member, string host, ulong version)
    {
        if (GroupNames.MemberOf(member.Spec) is { IsEmpty: false } groups)
            _placement.Tell(new PlaceTried(member.VmId, host, version, groups));
    }

    private void Await() => Timers.StartSingleTimer(SearchTimer, new Overdue(_asked), Patience);
}
