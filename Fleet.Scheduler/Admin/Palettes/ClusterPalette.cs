using Akka.Actor;
using Akka.Cluster;
using Fleet.Scheduler.Api;
using Fleet.Shared.Admin;
using AkkaCluster = Akka.Cluster.Cluster;

namespace Fleet.Scheduler.Admin.Palettes;

/// <summary>The cell's members: the control-plane nodes, as this node sees them.</summary>
internal sealed class ClusterPalette : Palette
{
    private const string Address = "address";

    public ClusterPalette() : base("cluster", "The control-plane nodes of this cell")
    {
        Add("show", "List the members, as this node sees them", ShowAsync);
        Add("status", "Say how this node stands in its cell", StatusAsync);
        Add(new CommandDefinition("leave", "Have a member leave the cell in order; its process then ends", [Member(mandatory: false, "Address of the member; this node if absent")])
        {
            Confirm = "The member hands its shards over, leaves, and its process ends.",
        }, LeaveAsync);
        Add(new CommandDefinition("down", "Declare a member dead that can't be reached and will not come back", [Member(mandatory: true, "Address of the member")])
        {
            Confirm = "The other members take over what lives there. If its process still runs, both may act for the same microVMs until it ends itself.",
        }, DownAsync);
    }

    private static ArgumentDefinition Member(bool mandatory, string description) =>
        new(Address, description, ["-a", "--address"]) { Bare = true, Mandatory = mandatory };

    private static async Task ShowAsync(CommandCall call)
    {
        var cluster = AkkaCluster.Get(call.Node.Actors);
        var state = cluster.State;
        var oldest = Oldest(state);
        var rows = state.Members.Order(Akka.Cluster.Member.AgeOrdering).Select(member => new object?[]
        {
            member.Address, Name(member.Status), !state.Unreachable.Contains(member), string.Join(',', member.Roles.Order(StringComparer.Ordinal)),
            Marks(member, cluster, state, oldest), member.AppVersion,
        }).ToList();
        await call.Output.TableAsync(["address", "status", "reachable", "roles", "is", "version"], rows, "This node knows of no member, not even of itself.");
    }

    private static string Marks(Member member, AkkaCluster cluster, ClusterEvent.CurrentClusterState state, Member? oldest)
    {
        var marks = new List<string>();
        if (member.UniqueAddress.Equals(cluster.SelfUniqueAddress))
            marks.Add("self");
        if (member.Address.Equals(state.Leader))
            marks.Add("leader");
        if (member.Equals(oldest))
            marks.Add("oldest");
        return string.Join(',', marks);
    }

    private static async Task StatusAsync(CommandCall call)
    {
        var cluster = AkkaCluster.Get(call.Node.Actors);
        var state = cluster.State;
        await call.Output.SheetAsync(
            ("address", cluster.SelfAddress),
            ("status", cluster.IsTerminated ? "gone from its cell" : Name(cluster.SelfMember.Status)),
            ("leader", state.Leader),
            ("oldest", Oldest(state)?.Address),
            ("members", state.Members.Count),
            ("unreachable", state.Unreachable.Count),
            ("seen_by", state.SeenBy.Count));
    }

    private static async Task LeaveAsync(CommandCall call)
    {
        var cluster = AkkaCluster.Get(call.Node.Actors);
        var member = call.Find(Address) is { } wanted ? Find(cluster.State, wanted) : null;
        cluster.Leave(member?.Address ?? cluster.SelfAddress);
        await call.Output.SayAsync(member is null || member.Address.Equals(cluster.SelfAddress)
            ? $"{cluster.SelfAddress} (this node) leaves the cell: it hands its shards over, and its process ends."
            : $"{member.Address} was told to leave the cell: it hands its shards over, and its process ends.");
    }

    private static async Task DownAsync(CommandCall call)
    {
        var cluster = AkkaCluster.Get(call.Node.Actors);
        var member = Find(cluster.State, call.Get(Address));
        if (member.Address.Equals(cluster.SelfAddress))
            throw new CommandException(ErrorCodes.WrongState, $"{member.Address} is this node. Use 'cluster leave', or ask another member.");
        var was = $"{Name(member.Status)}, {(cluster.State.Unreachable.Contains(member) ? "unreachable" : "reachable")}";
        cluster.Down(member.Address);
        await call.Output.SayAsync($"{member.Address} ({was}) is declared down: the cell removes it, and what lived there starts on the others.");
    }

    /// <summary>A member by its address, or by its host and port alone.</summary>
    private static Member Find(ClusterEvent.CurrentClusterState state, string wanted) =>
        state.Members.FirstOrDefault(member => member.Address.ToString() == wanted || $"{member.Address.Host}:{member.Address.Port}" == wanted)
        ?? throw new CommandException(ErrorCodes.NotFound, $"There is no member {wanted}. Members: {string.Join(", ", state.Members.Select(member => member.Address))}.");

    /// <summary>Shard coordinators and other singletons live there.</summary>
    public static Member? Oldest(ClusterEvent.CurrentClusterState state) =>
        state.Members.Where(member => member.Status is MemberStatus.Up or MemberStatus.Leaving).Order(Akka.Cluster.Member.AgeOrdering).FirstOrDefault();

    public static string Name(MemberStatus status) => status.ToString().ToLowerInvariant();
}
