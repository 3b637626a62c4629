using Akka.Actor;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Vms;

/// <summary>
/// Leaving a host that is drained or short of something: room elsewhere first, then the stop, then the launch there. A microVM that finds no room says why and runs
/// on; the host asks again, and at its deadline does not ask any more. One that gives way to a higher class is not asked either.
/// </summary>
internal sealed partial class VmActor
{
    /// <summary>The move that the present search is for; null: it is for a first place, or there is none.</summary>
    private MoveVm? _move;

    private static readonly Reason Starts = new() { Code = "starting", Message = "It is just starting." };

    private void OnMove(MoveVm move)
    {
        if (move.Forced)
        {
            EndSearchForMove();
            Store(_life.Move(move.HostId, move.Epoch, "", 0, move.GraceMs, Now, out _, move.Preempted, move.Pressed, hindrance: move.Hindrance), () => AnswerMove(move, null));
            return;
        }
        var record = _life.Record is { } one && one.Host == move.HostId && one.Epoch == move.Epoch ? one : null;
        if (record is not { State: VmState.Running })
        {
            // It has moved, moves already, or is about to end. One that starts there frees nothing now, and another that would must not wait for it.
            AnswerMove(move, move.Pressed && record is { State: VmState.Starting } ? Starts : null);
            return;
        }
        if (HasVolumes)
        {
            AnswerMove(move, Stays(record));
            return;
        }
        if (_search is not null)
            return;
        _move = move;
        Search(record.Epoch + 1);
    }

    private void AnswerMove(MoveVm move, Reason? stays) =>
        _hosts.Tell(new MoveAnswer { HostId = move.HostId, VmId = _id, Epoch = move.Epoch, Stays = stays });

    private void EndSearchForMove()
    {
        if (_move is not null)
            EndSearch();
    }

    /// <summary>After an event: what it was saved in and goes on from no more is given back, unless it is where its present epoch is.</summary>
    private void EndSaved(VmLife before)
    {
        if (before.Record?.Saved is { } saved && _life.Record is { Saved: null } now && (now.Host != saved.Host || now.Epoch != saved.Epoch))
            TellVerdict(saved.Host, saved.Epoch, keep: false);
    }

    /// <summary>After an event: what a move left behind is given back. If a word is lost, the host asks by itself (CheckPlacement).</summary>
    private void EndMove(VmLife before)
    {
        if (!before.IsMoving || _life.IsMoving)
            return;
        var (old, now) = (before.Record!, _life.Record!);
        if (old.Move.Host.Length > 0 && (now.Host != old.Move.Host || now.Epoch != old.Move.Epoch))
            TellVerdict(old.Move.Host, old.Move.Epoch, keep: false);
        // What it is saved in stays until it has been fetched.
        if ((now.Host != old.Host || now.Epoch != old.Epoch) && !(now.Saved is { } saved && saved.Host == old.Host && saved.Epoch == old.Epoch))
            TellVerdict(old.Host, old.Epoch, keep: false);
    }
}
