using Akka;
using Akka.Actor;

namespace Fleet.Scheduler.Membership;

/// <summary>
/// Keeps a node in its cell when its TLS handshake with another one fails. Akka.Remote has the whole node leave then (akka.net, pull request 7839: one whose own
/// certificate is wrong shall not be half heard), and a peer that is killed or cut off in the middle of a handshake is enough: one node's death would take others along.
/// Who can't be reached the failure detector tells. A shutdown in order runs once, so it is held before its first step, and goes on when the node is to end after all.
/// </summary>
internal sealed class HandshakeGuard
{
    /// <summary>Akka.Remote's own, which it does not show.</summary>
    private const string FailedHandshake = "TlsHandshakeFailureReason";

    private readonly TaskCompletionSource _ends = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private HandshakeGuard()
    {
    }

    /// <summary>Guards a system from now on.</summary>
    public static HandshakeGuard Over(ActorSystem actors)
    {
        var guard = new HandshakeGuard();
        var shutdown = CoordinatedShutdown.Get(actors);
        shutdown.AddTask(CoordinatedShutdown.PhaseBeforeServiceUnbind, "held-after-a-failed-handshake", async () =>
        {
            if (shutdown.ShutdownReason?.GetType().Name == FailedHandshake)
                await guard._ends.Task.ConfigureAwait(false);
            return Done.Instance;
        });
        // Downed, or it left: its own shutdown for that finds one under way.
        Akka.Cluster.Cluster.Get(actors).RegisterOnMemberRemoved(guard.End);
        return guard;
    }

    /// <summary>The node is to end. To be called before it is told so.</summary>
    public void End() => _ends.TrySetResult();
}
