using Akka.Actor;
using Akka.Event;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Vms;

/// <summary>The search for a host: the node's placement is asked for candidates, they one after the other, and if none has room those where others could give way.</summary>
internal sealed partial class VmActor
{
    /// <summary>Hosts that nobody gave way on in the searches before. So each is asked some time, however many look alike.</summary>
    private IReadOnlyCollection<string> _unyielding = [];

    /// <summary>Searches for the present goal after which it was certain that there is no room.</summary>
    private int _fruitless;

    private void Search(ulong epoch)
    {
        if (_search is not null)
            return;
        _search = VmLife.SearchFor(_life.Record!, epoch);
        _capacityChangedMeanwhile = false;
        if (HasVolumes)
            AskVolumes();
        else
            AskNeighbours();
    }

    private void AskIndex()
    {
        _placement.Tell(new FindHosts(_search!.Demand, _search.Asked.ToHashSet(), ++_searches) { VmId = _id, Leaving = _move?.HostId ?? "", Preempt = _search.Preempting, IsDecisive = IsNotToWait });
        Timers.StartSingleTimer(SearchTimer, new SearchOverdue(_searches), SearchPatience);
    }

    private void AskNextHost()
    {
        if (_search!.Next() is { } host)
        {
            Tried(host, 0);
            _hosts.Tell(new ReserveRoom
            {
                HostId = host,
                VmId = _id,
                Epoch = _search.Epoch,
                Spec = _search.WithSizes(_life.Wanted),
                Preempt = _search.Preempting,
                Settled = PreemptionRules.IsSettled(_life.Record!, Now, givesWay: _move is { Pressed: true }),
            });
            Timers.StartSingleTimer(SearchTimer, new SearchOverdue(_searches), _search.Patience);
            return;
        }
        if (_search.MaySearchOn)
        {
            AskIndex();
            return;
        }
        // One that is drained away has a place, and nobody gives way to it.
        if (_search.MayPreempt && _move is null)
        {
            _search.Preempt(_unyielding);
            AskIndex();
            return;
        }
        var reason = _search.Explain();
        if (_search.Preempting)
            _unyielding = _search.Unyielding;
        GiveUp(_search.Volume is { } volume ? ForVolume(volume, reason, _search.VolumeInUse) : _search.VolumeLeft ?? reason, _search.IsLasting, _search.IsUndecided);
    }

    /// <summary>The search has found nothing; the next one comes with time, or when capacity changes.</summary>
    private void GiveUp(Reason reason, bool isLasting, bool isUndecided = false)
    {
        if (_move is { } move)
        {
            EndSearch();
            AnswerMove(move, reason);
            return;
        }
        // One that is not to wait hears soon whether somebody gives way.
        var asksNextAtOnce = _search!.Unyielding.Count > 0 && IsNotToWait;
        if (!isUndecided)
            _fruitless++;
        var pause = asksNextAtOnce ? PlacementSearch.WakePause(0, Random.Shared.NextDouble())
            : _capacityChangedMeanwhile ? PlacementSearch.WakePause(_fruitless, Random.Shared.NextDouble())
            : _options.PlacementRetry * (0.75 + 0.5 * Random.Shared.NextDouble());
        EndSearch();
        Store(_life.Unplaced(reason, isLasting, Now, isUndecided), static () => { });
        if (_goal is Goal.FindPlace)
            Timers.StartSingleTimer(GoalTimer, PursueAgain.Instance, pause);
    }

    /// <summary>Once it had a place it waits as any other.</summary>
    private bool IsNotToWait => _life.Record is { Epoch: 0, Spec.RefuseWaiting: true };

    private void OnSearchOverdue()
    {
        if (_search!.Asking.Length == 0)
        {
            _log.Warning("Placement gave no answer for {VmId} within {Patience}", _id, SearchPatience);
            EndSearch();
            if (_goal is Goal.FindPlace)
                Timers.StartSingleTimer(GoalTimer, PursueAgain.Instance, _options.CommandRetryFirst);
            return;
        }
        // If it said yes after all, the late answer is answered with "give it back".
        _search.Silent();
        AskNextHost();
    }

    /// <summary>Placement hears where a member of groups goes: it counts there before the host's own word of it comes.</summary>
    private void Tried(string host, ulong version)
    {
        if (_search is { Demand.Groups.IsEmpty: false } search)
            _placement.Tell(new PlaceTried(_id, host, version, search.Demand.Groups));
    }

    private void EndSearch(bool reserved = false)
    {
        if (!reserved)
            Tried("", 0);
        _search = null;
        _move = null;
        _searches++;
        Timers.Cancel(SearchTimer);
    }
}
