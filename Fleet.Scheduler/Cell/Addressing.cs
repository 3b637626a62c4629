namespace Fleet.Scheduler.Cell;

/// <summary>A message to the one actor of a microVM, wherever it lives.</summary>
public interface IToVm
{
    string VmId { get; }
}

/// <summary>A message to the one actor of a host, wherever it lives.</summary>
public interface IToHost
{
    string HostId { get; }
}

/// <summary>A message to the one actor of a gang, wherever it lives.</summary>
public interface IToGang
{
    string GangId { get; }
}

public sealed partial class CreateVm : IToVm;
public sealed partial class ReadVm : IToVm;
public sealed partial class RequestStop : IToVm;
public sealed partial class RequestStart : IToVm;
public sealed partial class RequestSuspend : IToVm;
public sealed partial class RequestResume : IToVm;
public sealed partial class RequestDelete : IToVm;
public sealed partial class AwaitVm : IToVm;
public sealed partial class LimitVm : IToVm;
public sealed partial class RoomAnswer : IToVm;
public sealed partial class HostCommandAnswer : IToVm;
public sealed partial class HostReport : IToVm;
public sealed partial class CheckPlacement : IToVm;
public sealed partial class PlacementLost : IToVm;
public sealed partial class MoveVm : IToVm;
public sealed partial class TakePlace : IToVm;
public sealed partial class GangWaits : IToVm;

public sealed partial class JoinGang : IToGang;
public sealed partial class GangRoomAsked : IToGang;

public sealed partial class ReserveRoom : IToHost;
public sealed partial class CommandHost : IToHost;
public sealed partial class HostReportAnswer : IToHost;
public sealed partial class PlacementVerdict : IToHost;
public sealed partial class ReadHost : IToHost;
public sealed partial class ReadLedger : IToHost;
public sealed partial class RemoveHost : IToHost;
public sealed partial class CordonHost : IToHost;
public sealed partial class LaunchVerdict : IToHost;
public sealed partial class EnrolHost : IToHost;
public sealed partial class MoveAnswer : IToHost;
public sealed partial class DrainHost : IToHost;
public sealed partial class SessionOpened : IToHost;
public sealed partial class SessionAlive : IToHost;
public sealed partial class SessionClosed : IToHost;
public sealed partial class SessionReport : IToHost;
public sealed partial class SessionUsage : IToHost;
public sealed partial class SessionPressure : IToHost;
public sealed partial class SessionImages : IToHost;
public sealed partial class SessionVolumes : IToHost;
public sealed partial class ReadLimiters : IToHost;
public sealed partial class ConsoleRequest : IToHost;
public sealed partial class ConsoleWrite : IToHost;
public sealed partial class GuestOpen : IToHost;
