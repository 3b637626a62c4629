using Akka.Actor;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Host.Agent;

/// <summary>What the control plane wants of a microVM that is here: each is passed on to its actor, and one that is not here is told to be gone.</summary>
internal sealed partial class HostAgentActor
{
    private void StopVm(StopVm stop)
    {
        if (!Names(stop.VmId, stop.Epoch))
            return;
        if (_vms.TryGetValue(stop.VmId, out var entry) && entry.Epoch == stop.Epoch)
        {
            var grace = TimeSpan.FromMilliseconds(Math.Min(stop.GraceMs, VmLimits.MaxGraceSeconds * 1000));
            entry.Actor.Tell(new MicroVmActor.Stop(grace));
            return;
        }

        if (entry?.Next is { } next && next.Epoch == stop.Epoch)
            entry.Next = null;
        TellGone(stop.VmId, stop.Epoch);
    }

    private void SuspendVm(SuspendVm suspend)
    {
        if (!Names(suspend.VmId, suspend.Epoch))
            return;
        if (_vms.TryGetValue(suspend.VmId, out var entry) && entry.Epoch == suspend.Epoch)
            entry.Actor.Tell(new MicroVmActor.Suspend(suspend.Attempt, suspend.ForHost, suspend.ForEnrolment));
        else
            TellGone(suspend.VmId, suspend.Epoch);
    }

    /// <summary>A microVM that was saved goes on under a newer epoch: its folder is the new one's, whose record takes the place of the old in one step.</summary>
    private void Succeed(Entry entry, LaunchVm launch)
    {
        if (entry.Actor.IsNobody())
        {
            Begin(_context.NewRecord(launch), found: false);
            return;
        }

        entry.Next = launch;
        entry.Succeeded = true;
        Context.Stop(entry.Actor);
    }

    private void Retune(SetLimits set)
    {
        if (!Names(set.VmId, set.Epoch))
            return;
        if (RateLimitRules.FirstProblem("rate_limits", set.RateLimits) is { } problem)
            _log.Warning("Refused rate limits for {VmId} under epoch {Epoch}: {Reason}", set.VmId, set.Epoch, problem.Message);
        else if (_vms.TryGetValue(set.VmId, out var entry) && entry.Epoch == set.Epoch)
            entry.Actor.Tell(new MicroVmActor.Retune(set.Revision, set.RateLimits));
        else
            TellGone(set.VmId, set.Epoch);
    }
}
