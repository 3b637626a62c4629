using Akka.Actor;
using Akka.Event;
using Fleet.Scheduler.Cell;

namespace Fleet.Scheduler.Hosts;

/// <summary>Who may speak for the host: the holder of a certificate of its newest enrolment, and nobody once it is removed.</summary>
internal sealed partial class HostActor
{
    private void OnEnrol(EnrolHost enrol)
    {
        var caller = Sender;
        if (Exists && _record!.EnrolledKey.Equals(enrol.KeyHash))
        {
            // The answer to the first try was lost on the way.
            Reply(caller, null);
            return;
        }
        if (Exists && !enrol.Named)
        {
            Reply(caller, new CellProblem("host_exists",
                $"There is a host '{_id}' already. Choose another id; if it is this machine that joins anew, make a token for it: fleet token create --role host --host {_id}"));
            return;
        }
        Store([new HostEnrolled { At = At, Id = _id, KeyHash = enrol.KeyHash }], () =>
        {
            if (_session is { } session)
                session.Tell(Ended("certificate_revoked", "This host has joined anew with another key."), Self);
            StartTimers();
            Reply(caller, null);
        });
    }

    /// <summary>A stream whose certificate is of an earlier enrolment, or of a host that was removed.</summary>
    private void OnForeignSession(SessionOpened opened)
    {
        _log.Warning("Host {HostId}: an agent was refused, its certificate is of enrolment {Shown} and {Current} is current", _id, opened.Enrolment, _record?.Enrolment ?? 0);
        Sender.Tell(Ended("certificate_revoked",
            $"Host '{_id}' was removed or has joined anew since this certificate was made. To let it join again: fleet token create --role host --host {_id}"));
        if (!Exists)
            LeaveSoon();
    }
}
