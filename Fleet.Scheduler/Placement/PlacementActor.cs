using System.Collections.Immutable;
using Akka.Actor;
using Akka.Cluster.Tools.PublishSubscribe;
using Akka.Event;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Placement;

/// <summary>Asks the node's own <see cref="PlacementActor"/>; never leaves the node.</summary>
/// <param name="Demand">What is wanted.</param>
/// <param name="Excluded">Hosts that said no just now.</param>
/// <param name="Search">Comes back in the answer, so that an old answer is told from a new one.</param>
internal sealed record FindHosts(Demand Demand, IReadOnlySet<string> Excluded, long Search) : INoSerializationVerificationNeeded
{
    /// <summary>The microVM that will go to the first host of the answer; empty: somebody who only wants to know.</summary>
    public string VmId { get; init; } = "";

    /// <summary>The host that it leaves; empty: it is on none.</summary>
    public string Leaving { get; init; } = "";

    /// <summary>No host has room: those are wanted that would have some if lower classes gave way.</summary>
    public bool Preempt { get; init; }

    /// <summary>It fails where there is no host: that must be certain.</summary>
    public bool IsDecisive { get; init; }
}

/// <summary>Tells the node's own <see cref="PlacementActor"/> what became of a microVM that is a member of groups: see <see cref="HostIndex.Tried"/>.</summary>
internal sealed record PlaceTried(string VmId, string Host, ulong Version, ImmutableArray<string> Groups) : INoSerializationVerificationNeeded;

/// <summary>The answer to <see cref="FindHosts"/>.</summary>
internal sealed record HostsFound(PlacementAdvice Advice, long Search) : INoSerializationVerificationNeeded;

/// <summary>Asks the node's own <see cref="PlacementActor"/> for how many of these there is room at once.</summary>
/// <param name="Demand">What each wants.</param>
/// <param name="Most">More need not be counted.</param>
/// <param name="Asked">Comes back in the answer.</param>
internal sealed record CountRoom(Demand Demand, int Most, long Asked) : INoSerializationVerificationNeeded;

/// <summary>The answer to <see cref="CountRoom"/>.</summary>
/// <param name="Room">At most: it is not more, rules about groups may make it less.</param>
/// <param name="Why">Where there is none at all, why; else empty.</param>
/// <param name="Asked">Of the question.</param>
internal sealed record RoomCounted(int Room, string Why, long Asked) : INoSerializationVerificationNeeded
{
    /// <summary>There may be hosts that the index has not heard of yet.</summary>
    public bool IsEarly { get; init; }
}

/// <summary>Asks the node's own <see cref="PlacementActor"/> what it knows of every host, and what each would say to the demand, if there is one.</summary>
internal sealed record JudgeHosts(Demand? Demand) : INoSerializationVerificationNeeded;

/// <summary>The answer to <see cref="JudgeHosts"/>, in no order.</summary>
internal sealed record HostsJudged(IReadOnlyList<HostVerdict> Hosts) : INoSerializationVerificationNeeded;

/// <summary>Asks the node's own <see cref="PlacementActor"/> for a <see cref="PlacementReview"/>.</summary>
internal sealed record ReviewPlacement(VmSpec Spec, IReadOnlyDictionary<string, string> Neighbours, bool Briefly) : INoSerializationVerificationNeeded;

/// <summary>The answer to <see cref="ReviewPlacement"/>.</summary>
internal sealed record PlacementReviewed(PlacementReview Review) : INoSerializationVerificationNeeded;

/// <summary>On the node's event stream: somewhere is more room than before.</summary>
internal sealed class CapacityChanged : INoSerializationVerificationNeeded
{
    public static readonly CapacityChanged Instance = new();
}

/// <summary>
/// One per node, in memory. Hears every host's view of itself and answers where a microVM could go. It decides nothing:
/// a host's own actor admits.
/// </summary>
internal sealed class PlacementActor : UntypedActor, IWithTimers
{
    /// <summary>Topic on which every host actor tells every node about itself.</summary>
    public const string HostViewTopic = "host-views";

    /// <summary>Changes within this time wake the waiting microVMs once.</summary>
    private static readonly TimeSpan WakeDelay = TimeSpan.FromMilliseconds(50);

    private readonly HostIndex _index = new();
    private readonly CellOptions _options;
    private readonly TaskCompletionSource _ready;
    private readonly ILoggingAdapter _log = Context.GetLogger();
    private readonly long _since;

    /// <param name="options">Of the node.</param>
    /// <param name="ready">Set when this actor hears what hosts say: before that no host actor should start.</param>
    public PlacementActor(CellOptions options, TaskCompletionSource ready)
    {
        _options = options;
        _ready = ready;
        _since = options.Clock.GetTimestamp();
    }

    public ITimerScheduler Timers { get; set; } = null!;

    // Not the wall clock: one that jumps must not make every host silent.
    private TimeSpan Now => _options.Clock.GetElapsedTime(_since);

    // By then every host has said something that can.
    private bool IsEarly => Now < 2 * _options.HostAnnounce;

    private sealed class Wake : INoSerializationVerificationNeeded
    {
        public static readonly Wake Instance = new();
    }

    private sealed class DropSilent : INoSerializationVerificationNeeded
    {
        public static readonly DropSilent Instance = new();
    }

    protected override void PreStart()
    {
        DistributedPubSub.Get(Context.System).Mediator.Tell(new Subscribe(HostViewTopic, Self));
        Timers.StartPeriodicTimer(DropSilent.Instance, DropSilent.Instance, _options.HostAnnounce);
    }

    protected override void OnReceive(object message)
    {
        switch (message)
        {
            case FindHosts find:
                // By then every host has said something that can.
                var isEarly = (Now < 3 * _options.HostAnnounce && !_index.KnowsAll(find.Excluded)) || (find.IsDecisive && IsEarly);
                // Nobody gives way because a host that has room has said nothing yet.
                var advice = find.Preempt && IsEarly ? new PlacementAdvice([], [])
                    : find.VmId.Length == 0 ? _index.Find(_index.Kept(find.Demand, find.Excluded), find.Excluded)
                    : _index.Find(find.Demand, find.Excluded, find.VmId, find.Leaving, Now, find.Preempt);
                Sender.Tell(new HostsFound(advice with { IsEarly = isEarly }, find.Search));
                break;
            case CountRoom count:
                var room = _index.Room(count.Demand, count.Most);
                Sender.Tell(new RoomCounted(room, room > 0 ? "" : _index.Explain(count.Demand), count.Asked) { IsEarly = IsEarly });
                break;
            case PlaceTried tried:
                _index.Tried(tried.VmId, tried.Host, tried.Version, tried.Groups, Now);
                break;
            case JudgeHosts judge:
                Sender.Tell(new HostsJudged(_index.Judge(judge.Demand, Now)));
                break;
            case ReviewPlacement review:
                Sender.Tell(new PlacementReviewed(_index.Review(review.Spec, review.Neighbours, review.Briefly) with { IsEarly = IsEarly }));
                break;
            case HostView view:
                if (_index.Update(view, Now) && !Timers.IsTimerActive(Wake.Instance))
                    Timers.StartSingleTimer(Wake.Instance, Wake.Instance, WakeDelay);
                break;
            case Wake:
                Context.System.EventStream.Publish(CapacityChanged.Instance);
                break;
            case DropSilent:
                // Three announcements missed. The host may well live: its next word brings it back.
                var dropped = _index.DropSilent(Now - 3 * _options.HostAnnounce);
                if (dropped > 0)
                    _log.Warning("Placement forgot {Hosts} hosts that said nothing for {Silence}", dropped, 3 * _options.HostAnnounce);
                break;
            case SubscribeAck:
                _ready.TrySetResult();
                break;
            default:
                Unhandled(message);
                break;
        }
    }
}
