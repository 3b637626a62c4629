using Akka.Actor;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Vms;

/// <summary>Callers that wait for a state, bounded in number and in time.</summary>
internal sealed class VmWaiters(int most)
{
    private readonly List<Waiter> _waiters = [];

    private sealed record Waiter(IActorRef Caller, HashSet<VmState> States, DateTimeOffset Until);

    public bool IsEmpty => _waiters.Count == 0;

    /// <summary>False when there are too many already.</summary>
    public bool TryAdd(IActorRef caller, IEnumerable<VmState> states, DateTimeOffset until)
    {
        if (_waiters.Count >= most)
            return false;
        _waiters.Add(new Waiter(caller, [.. states], until));
        return true;
    }

    /// <summary>Answers those whose state has come, and those whose time is over.</summary>
    public void Settle(VmRecord record, DateTimeOffset now)
    {
        _waiters.RemoveAll(waiter =>
        {
            if (waiter.States.Contains(record.State))
                waiter.Caller.Tell(new VmReply { Vm = record });
            else if (record.State == VmState.Deleted)
                waiter.Caller.Tell(new VmReply { Vm = record, Problem = new Problem { Code = "not_found", Message = $"The microVM '{record.Id}' was deleted." } });
            else if (now >= waiter.Until)
                waiter.Caller.Tell(new VmReply { Vm = record, Problem = Timeout(record) });
            else
                return false;
            return true;
        });
    }

    /// <summary>The microVM's actor leaves: callers are told that nothing came yet, and ask the next one.</summary>
    public void GiveUp(VmRecord record)
    {
        foreach (var waiter in _waiters)
            waiter.Caller.Tell(new VmReply { Vm = record, Problem = Timeout(record) });
        _waiters.Clear();
    }

    public static Problem Timeout(VmRecord record) => new()
    {
        Code = "timeout",
        Message = $"The microVM '{record.Id}' is {VmLife.Name(record.State)} and did not reach a wanted state in time.",
    };
}
