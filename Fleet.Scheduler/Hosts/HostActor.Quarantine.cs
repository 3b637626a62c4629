using Akka.Actor;
using Akka.Event;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Vms;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Scheduler.Hosts;

/// <summary>
/// A host on which launches fail is empty, and so the first choice of every placement. After a few different microVMs in a row it
/// gets none, until one that it is given as a trial runs.
/// </summary>
internal sealed partial class HostActor
{
    private readonly LaunchHealth _launches;

    private sealed class TrialDue : INoSerializationVerificationNeeded
    {
        public static readonly TrialDue Instance = new();
    }

    /// <summary>No microVM may be placed here now because launches failed.</summary>
    private bool IsQuarantined => _record is { Quarantine: { } quarantine }
        && (_launches.Trial is not null || UntilTrial(quarantine) > TimeSpan.Zero);

    private void OnLaunchReport(VmReport report)
    {
        if (report.State == HostVmState.Running)
        {
            if (_launches.Worked(report.VmId, report.Epoch) && _record!.Quarantine is not null)
                Store([new HostQuarantineLifted { At = At }], PublishView);
            return;
        }
        if (!LaunchFaults.IsHosts(report))
        {
            OnLaunchOver(report.VmId, report.Epoch);
            return;
        }
        var trialFailed = _launches.Failed(report.VmId, report.Epoch, Monotonic);
        if (trialFailed ? _record!.Quarantine is not null : _launches.IsBad && _record!.Quarantine is null)
            Quarantine(report.Reason);
    }

    private void OnLaunchOver(string vmId, ulong epoch)
    {
        if (_launches.Over(vmId, epoch))
            PublishView();
    }

    private void Quarantine(Reason last)
    {
        // Where nobody else could take them it would only be in the way.
        if (!IsFenced)
            return;
        var pause = _options.Quarantine.Pause(_record!.Quarantine is { } before ? before.FailedTrials + 1 : 0);
        var count = _launches.Failures;
        var quarantined = new HostQuarantined
        {
            At = At,
            Reason = new Reason
            {
                Code = "launches_failed",
                Message = ReasonText.Shorten($"Launches of {count} different microVMs failed here in a row; the last by {last.Code}: {last.Message}"),
            },
            RetryAt = Timestamp.FromDateTimeOffset(_options.Clock.GetUtcNow() + pause),
        };
        Store([quarantined], () =>
        {
            _log.Warning("Host {HostId} is quarantined for {Pause}: {Reason}", _id, pause, quarantined.Reason.Message);
            PublishView();
            AwaitTrial();
        });
    }

    private void AwaitTrial()
    {
        if (_record is not { Quarantine: { } quarantine })
            return;
        Timers.StartSingleTimer(TrialDue.Instance, TrialDue.Instance, UntilTrial(quarantine));
    }

    /// <summary>A time further ahead than any pause was noted by a clock that was wrong, and does not count.</summary>
    private TimeSpan UntilTrial(Quarantine quarantine) =>
        quarantine.RetryAt.ToDateTimeOffset() - _options.Clock.GetUtcNow() is var left && left > TimeSpan.Zero && left <= _options.Quarantine.LongestPause
            ? left
            : TimeSpan.Zero;

    private void OnTrialDue()
    {
        if (IsQuarantined && _launches.Trial is null)
            AwaitTrial();
        else
            PublishView();
    }

    private void OnLaunchVerdict(LaunchVerdict verdict)
    {
        if (verdict.HostsFault)
        {
            _launches.Blame(verdict.VmId, Monotonic);
            return;
        }
        // They failed elsewhere as well: it was not this host.
        if (_launches.Excuse(verdict.VmId) && !_launches.IsBad && _record is { Quarantine.FailedTrials: 0 })
            Store([new HostQuarantineLifted { At = At }], PublishView);
    }

    /// <summary>What an operator's uncordon has to store: everything that keeps microVMs away ends.</summary>
    private List<IMessage> Uncordoned()
    {
        var events = new List<IMessage>();
        if (_record!.Cordoned)
            events.Add(new HostUncordoned { At = At });
        if (_record.Quarantine is not null)
            events.Add(new HostQuarantineLifted { At = At });
        return events;
    }
}
