using System.Collections.Frozen;
using System.Runtime.Serialization;
using Akka.Actor;
using Akka.Serialization;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Volumes;
using Google.Protobuf;

namespace Fleet.Scheduler.Journal;

/// <summary>
/// Every message and every stored event of a cell as protobuf, under a manifest that we choose. A manifest is part of the stored
/// data: it never changes its meaning and is never used again for something else. Types are looked up in one table,
/// so bytes from outside can't name a type to be made.
/// </summary>
public sealed class CellSerializer(ExtendedActorSystem system) : SerializerWithStringManifest(system)
{
    private static readonly (string Manifest, MessageParser Parser)[] Table =
    [
        // Stored events.
        ("vm-created", VmCreated.Parser),
        ("vm-placed", VmPlaced.Parser),
        ("vm-unplaced", VmUnplaced.Parser),
        ("vm-running", VmRunning.Parser),
        ("vm-delayed", VmDelayed.Parser),
        ("vm-stop-requested", VmStopRequested.Parser),
        ("vm-ended", VmEnded.Parser),
        ("vm-failed", VmFailed.Parser),
        ("vm-start-requested", VmStartRequested.Parser),
        ("vm-delete-requested", VmDeleteRequested.Parser),
        ("vm-deleted", VmDeleted.Parser),
        ("vm-limits-changed", VmLimitsChanged.Parser),
        ("vm-limits-in-force", VmLimitsInForce.Parser),
        ("host-connected", HostConnected.Parser),
        ("host-disconnected", HostDisconnected.Parser),
        ("host-reserved", HostReserved.Parser),
        ("host-vacated", HostVacated.Parser),
        ("host-released", HostReleased.Parser),
        ("host-removed", HostRemoved.Parser),
        ("host-snapshot", HostSnapshot.Parser),
        ("vm-lost", VmLost.Parser),
        ("vm-restarted", VmRestarted.Parser),
        ("host-lost", HostLost.Parser),
        ("host-silence-handed", HostSilenceHanded.Parser),
        ("host-cordoned", HostCordoned.Parser),
        ("host-uncordoned", HostUncordoned.Parser),
        ("vm-launch-failed", VmLaunchFailed.Parser),
        ("vm-move-began", VmMoveBegan.Parser),
        ("vm-moved", VmMoved.Parser),
        ("host-drain-began", HostDrainBegan.Parser),
        ("host-drain-done", HostDrainDone.Parser),
        ("host-preempted", HostPreempted.Parser),
        ("host-quarantined", HostQuarantined.Parser),
        ("host-quarantine-lifted", HostQuarantineLifted.Parser),
        ("host-pressure-changed", HostPressureChanged.Parser),
        ("host-enrolled", HostEnrolled.Parser),
        ("vm-suspend-requested", VmSuspendRequested.Parser),
        ("vm-suspended", VmSuspended.Parser),
        ("vm-suspend-failed", VmSuspendFailed.Parser),
        ("vm-resume-requested", VmResumeRequested.Parser),
        ("vm-resume-failed", VmResumeFailed.Parser),
        ("token-created", TokenCreated.Parser),
        ("token-revoked", TokenRevoked.Parser),
        ("tokens-kept", TokensKept.Parser),
        ("gang-placed", GangPlaced.Parser),
        ("volumes-put", VolumesPut.Parser),
        ("volume-gone", VolumeGone.Parser),
        ("volumes-kept", VolumesKept.Parser),
        ("left-volume-gone", LeftVolumeGone.Parser),

        // Messages.
        ("m-create-vm", CreateVm.Parser),
        ("m-read-vm", ReadVm.Parser),
        ("m-request-stop", RequestStop.Parser),
        ("m-request-start", RequestStart.Parser),
        ("m-request-delete", RequestDelete.Parser),
        ("m-request-suspend", RequestSuspend.Parser),
        ("m-request-resume", RequestResume.Parser),
        ("m-await-vm", AwaitVm.Parser),
        ("m-limit-vm", LimitVm.Parser),
        ("m-vm-reply", VmReply.Parser),
        ("m-room-answer", RoomAnswer.Parser),
        ("m-host-command-answer", HostCommandAnswer.Parser),
        ("m-host-report", HostReport.Parser),
        ("m-check-placement", CheckPlacement.Parser),
        ("m-placement-lost", PlacementLost.Parser),
        ("m-reserve-room", ReserveRoom.Parser),
        ("m-command-host", CommandHost.Parser),
        ("m-host-report-answer", HostReportAnswer.Parser),
        ("m-placement-verdict", PlacementVerdict.Parser),
        ("m-move-vm", MoveVm.Parser),
        ("m-move-answer", MoveAnswer.Parser),
        ("m-drain-host", DrainHost.Parser),
        ("m-launch-verdict", LaunchVerdict.Parser),
        ("m-join-gang", JoinGang.Parser),
        ("m-gang-room-asked", GangRoomAsked.Parser),
        ("m-take-place", TakePlace.Parser),
        ("m-gang-waits", GangWaits.Parser),
        ("m-read-host", ReadHost.Parser),
        ("m-read-ledger", ReadLedger.Parser),
        ("m-ledger-read", LedgerRead.Parser),
        ("m-remove-host", RemoveHost.Parser),
        ("m-cordon-host", CordonHost.Parser),
        ("m-enrol-host", EnrolHost.Parser),
        ("m-ask-database", AskDatabase.Parser),
        ("m-database-seen", DatabaseSeen.Parser),
        ("m-create-token", CreateToken.Parser),
        ("m-revoke-token", RevokeToken.Parser),
        ("m-token-reply", TokenReply.Parser),
        ("m-host-reply", HostReply.Parser),
        ("m-session-opened", SessionOpened.Parser),
        ("m-session-accepted", SessionAccepted.Parser),
        ("m-session-alive", SessionAlive.Parser),
        ("m-session-confirmed", SessionConfirmed.Parser),
        ("m-session-ended", SessionEnded.Parser),
        ("m-session-closed", SessionClosed.Parser),
        ("m-session-report", SessionReport.Parser),
        ("m-session-usage", SessionUsage.Parser),
        ("m-session-pressure", SessionPressure.Parser),
        ("m-session-images", SessionImages.Parser),
        ("m-session-volumes", SessionVolumes.Parser),
        ("m-session-send", SessionSend.Parser),
        ("m-read-limiters", ReadLimiters.Parser),
        ("m-limiters-read", LimitersRead.Parser),
        ("m-console-request", ConsoleRequest.Parser),
        ("m-console-refused", ConsoleRefused.Parser),
        ("m-console-data", ConsoleData.Parser),
        ("m-console-grant", ConsoleGrant.Parser),
        ("m-console-done", ConsoleDone.Parser),
        ("m-console-write", ConsoleWrite.Parser),
        ("m-console-written", ConsoleWritten.Parser),
        ("m-guest-open", GuestOpen.Parser),
        ("m-guest-refused", GuestRefused.Parser),
        ("m-guest-from-host", GuestFromHost.Parser),
        ("m-guest-to-host", GuestToHost.Parser),
        ("m-host-view", HostView.Parser),
        ("m-find-volumes", FindVolumes.Parser),
        ("m-list-volumes", ListVolumes.Parser),
        ("m-volumes-found", VolumesFound.Parser),
        ("m-give-volumes", GiveVolumes.Parser),
        ("m-volumes-given", VolumesGiven.Parser),
        ("m-volumes-used", VolumesUsed.Parser),
        ("m-create-volume", CreateVolume.Parser),
        ("m-copy-volume", CopyVolume.Parser),
        ("m-remove-volume", RemoveVolume.Parser),
        ("m-volume-reply", VolumeReply.Parser),
        ("m-order-volume", OrderVolume.Parser),
        ("m-volume-order-answer", VolumeOrderAnswer.Parser),
        ("m-session-volume-done", SessionVolumeDone.Parser),
        ("m-host-came", HostCame.Parser),
    ];

    private static readonly FrozenDictionary<string, MessageParser> Parsers =
        Table.ToFrozenDictionary(row => row.Manifest, row => row.Parser, StringComparer.Ordinal);

    private static readonly FrozenDictionary<Type, string> Manifests =
        Table.ToFrozenDictionary(row => row.Parser.GetType().GenericTypeArguments[0], row => row.Manifest);

    /// <summary>The manifest of every type that may be sent or stored.</summary>
    public static IReadOnlyDictionary<Type, string> Known => Manifests;

    /// <summary>Stored beside every event: never to be changed. Akka keeps 0 to 100 for itself.</summary>
    public override int Identifier => 1701;

    /// <inheritdoc/>
    public override string Manifest(object o) => Manifests.TryGetValue(o.GetType(), out var manifest)
        ? manifest
        : throw new SerializationException($"{o.GetType()} has no manifest in {nameof(CellSerializer)}.");

    /// <inheritdoc/>
    public override byte[] ToBinary(object obj) => ((IMessage)obj).ToByteArray();

    /// <inheritdoc/>
    public override object FromBinary(byte[] bytes, string manifest) => Parsers.TryGetValue(manifest, out var parser)
        ? parser.ParseFrom(bytes)
        : throw new SerializationException($"No message or event has the manifest '{manifest}'. Was it written by a newer version?");
}

/// <summary>
/// Stands where Akka's JSON serializer would: that one makes whatever type the bytes name. Everything we send has a protobuf
/// manifest, and what Akka sends itself has serializers of its own, so nothing may come here.
/// </summary>
public sealed class DenyingSerializer : Serializer
{
    /// <summary>Called by Akka when the serializer has no settings.</summary>
    public DenyingSerializer(ExtendedActorSystem system) : base(system)
    {
    }

    /// <summary>Called by Akka when the serializer has settings, which are not looked at.</summary>
    public DenyingSerializer(ExtendedActorSystem system, Akka.Configuration.Config config) : base(system) => _ = config;

    /// <summary>The identifier of the JSON serializer, so that its bytes end here too.</summary>
    public override int Identifier => 1;

    /// <inheritdoc/>
    public override bool IncludeManifest => false;

    /// <inheritdoc/>
    public override byte[] ToBinary(object obj) =>
        throw new SerializationException($"{obj?.GetType()} has no serializer: messages and events are protobuf, see {nameof(CellSerializer)}.");

    /// <inheritdoc/>
    public override object FromBinary(byte[] bytes, Type type) =>
        throw new SerializationException("JSON from another node was refused: messages and events are protobuf.");
}
