using Akka.Actor;
using Fleet.Scheduler.Cell;

namespace Fleet.Scheduler.Vms;

/// <summary>A member of a gang before its first place: its gang looks for that, it only says that it waits.</summary>
internal sealed partial class VmActor
{
    private string GangId => _life.Record!.Spec.Gang.Id is { Length: > 0 } first ? first : _id;

    private void JoinGang()
    {
        _gangs.Tell(new JoinGang { GangId = GangId, VmId = _id, Spec = _life.Record!.Spec });
        PursueLater();
    }

    /// <summary>Room that a host holds for it is the gang's: that knows whether it is meant.</summary>
    private void AskGang(object message)
    {
        var asked = message switch
        {
            CheckPlacement check => new GangRoomAsked { HostId = check.HostId, Epoch = check.Epoch, Round = check.Round },
            PlacementLost lost => new GangRoomAsked { HostId = lost.HostId, Epoch = lost.Epoch, Round = lost.Round, Lost = true },
            MoveVm move => new GangRoomAsked { HostId = move.HostId, Epoch = move.Epoch, Round = move.Round, Lost = true },
            _ => throw new ArgumentException($"{message.GetType().Name} is not about room.", nameof(message)),
        };
        (asked.GangId, asked.VmId) = (GangId, _id);
        _gangs.Tell(asked);
    }

    private void OnTakePlace(TakePlace take) => Store(_life.Placed(take.HostId, take.Epoch, Now, out var wanted, byGang: true), () =>
    {
        if (!wanted)
            _hosts.Tell(new PlacementVerdict { HostId = take.HostId, VmId = _id, Epoch = take.Epoch, Round = take.Round, Keep = false });
    });
}
