using Akka.Actor;
using Akka.Cluster;
using Fleet.Scheduler.Cell;

namespace Fleet.Scheduler.Membership;

/// <summary>
/// Tells other nodes whether this one reaches the database, and asks them: a node that alone is cut off from it holds up the microVMs and hosts that it has in
/// charge, and the others could have them.
/// </summary>
internal sealed class DatabaseWitness : UntypedActor
{
    /// <summary>Of the actor below <c>/user</c>.</summary>
    public const string Name = "database-witness";

    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);

    private readonly CellRegister _register;

    public DatabaseWitness(CellRegister register) => _register = register;

    /// <summary>A node of the cell that reached the database within a few beats of the register; null: none says so.</summary>
    public static async Task<string?> WhoReachesAsync(ActorSystem system, CancellationToken cancellation)
    {
        var cluster = Cluster.Get(system);
        var state = cluster.State;
        var others = state.Members
            .Where(member => member.Status == MemberStatus.Up && member.UniqueAddress != cluster.SelfUniqueAddress && !state.Unreachable.Contains(member))
            .Select(member => member.Address);
        var answers = await Task.WhenAll(others.Select(async address =>
        {
            try
            {
                var seen = await system.ActorSelection(new RootActorPath(address) / "user" / Name).Ask<DatabaseSeen>(new AskDatabase(), Patience, cancellation).ConfigureAwait(false);
                return seen.Reached ? address.ToString() : null;
            }
            catch (Exception) when (!cancellation.IsCancellationRequested)
            {
                // Nobody there in time, or this node ends.
                return null;
            }
        })).ConfigureAwait(false);
        return answers.FirstOrDefault(answer => answer is not null);
    }

    protected override void OnReceive(object message)
    {
        if (message is AskDatabase)
            Sender.Tell(new DatabaseSeen { Reached = _register.ReachesDatabase });
        else
            Unhandled(message);
    }
}
