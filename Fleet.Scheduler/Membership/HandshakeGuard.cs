using Akka;
using Akka.Actor;
using Akka.Cluster;
using Fleet.Scheduler.Cell;
using Serilog;

namespace Fleet.Scheduler.Membership;

/// <summary>
/// Keeps a node in its cell when its TLS handshake with another one fails. Akka.Remote has the whole node leave then (akka.net, pull request 7839: one whose own
/// certificate is wrong shall not be half heard), and a peer that is killed or cut off in the middle of a handshake is enough: one node's death would take others along.
/// Who can't be reached the failure detector tells. A shutdown in order runs once, so it is held before its first step, and goes on when the node is to end after all:
/// when it is stopped or leaves, or some day by itself, each node on another one, since no phase of a shutdown can be held for ever.
/// </summary>
internal sealed class HandshakeGuard
{
    /// <summary>Akka.Remote's own, which it does not show.</summary>
    private const string FailedHandshake = "TlsHandshakeFailureReason";

    private readonly TaskCompletionSource _ends = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Below the phase's time-out (hocon/scheduler.conf).</summary>
    private const int FirstDay = 10, LastDay = 19;

    private HandshakeGuard()
    {
    }

    /// <summary>Guards a system from now on.</summary>
    public static HandshakeGuard Over(ActorSystem actors, ILogger log)
    {
        var guard = new HandshakeGuard();
        var shutdown = CoordinatedShutdown.Get(actors);
        shutdown.AddTask(CoordinatedShutdown.PhaseBeforeServiceUnbind, "held-after-a-failed-handshake", async () =>
        {
            if (shutdown.ShutdownReason?.GetType().Name == FailedHandshake)
            {
                var days = Random.Shared.Next(FirstDay, LastDay) + Random.Shared.NextDouble();
                log.Warning("A TLS handshake with another node failed, and Akka would have this node leave the cell. It stays, and leaves in order in {Days:0} days; start it again before, when that suits", days);
                await guard._ends.Task.WaitAsync(TimeSpan.FromDays(days)).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }
            return Done.Instance;
        });
        // Downed, or it leaves: its own shutdown for that finds one under way.
        var cluster = Akka.Cluster.Cluster.Get(actors);
        cluster.RegisterOnMemberRemoved(guard.End);
        actors.ActorOf(ActorProps.Of(() => new OwnLeave(cluster, guard)), "own-leave");
        return guard;
    }

    /// <summary>The node is to end. To be called before it is told so.</summary>
    public void End() => _ends.TrySetResult();

    /// <summary>Ends the hold when the node itself was told to leave: what makes it go lies behind the held phase.</summary>
    private sealed class OwnLeave(Akka.Cluster.Cluster cluster, HandshakeGuard guard) : UntypedActor
    {
        protected override void PreStart() => cluster.Subscribe(Self, ClusterEvent.InitialStateAsEvents, typeof(ClusterEvent.MemberLeft), typeof(ClusterEvent.MemberExited), typeof(ClusterEvent.MemberDowned));

        protected override void OnReceive(object message)
        {
            if (message is ClusterEvent.IMemberEvent { Member: var member } && member.UniqueAddress.Equals(cluster.SelfUniqueAddress))
                guard.End();
        }
    }
}
