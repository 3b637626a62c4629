using Akka.Actor;
using Fleet.Scheduler.Api;
using Fleet.Shared.Admin;

namespace Fleet.Scheduler.Admin.Palettes;

/// <summary>The actors of this node.</summary>
internal sealed class ActorPalette : Palette
{
    private const int MostDepth = 20;

    public ActorPalette() : base("actor", "The actors of this node")
    {
        Add("hierarchy", "Print the tree of actors, each with its class and the messages that wait for it", HierarchyAsync,
            new ArgumentDefinition("start", "Path of the actor to begin with", ["-s", "--start"]) { Bare = true, Default = "/" },
            new ArgumentDefinition("depth", "Levels below it", ["-d", "--depth"]) { Minimum = 0, Maximum = MostDepth, Default = "3" },
            Most("actors", 10_000, 500));
    }

    private static async Task HierarchyAsync(CommandCall call)
    {
        var left = call.Number("most");
        await PrintAsync(call, Find(call), "", call.Number("depth"));
        if (left < 0)
            await call.Output.SayAsync($"… {call.Get("most")} actors are shown; begin further down, or ask for more with -n.");

        async Task PrintAsync(CommandCall call, IActorRef actor, string indent, int depth)
        {
            if (--left < 0)
                return;
            var (kind, waiting) = Look(actor);
            var path = actor.Path.ToStringWithoutAddress();
            await call.Output.EntryAsync(
                $"{indent}{(indent.Length == 0 ? path : actor.Path.Name)}{(kind is null ? "" : $"  {kind}")}{(waiting > 0 ? $"  {waiting} waiting" : "")}",
                ("path", path), ("class", kind), ("waiting", waiting));
            if (depth == 0)
                return;
            foreach (var child in Children(actor).OrderBy(child => child.Path.Name, StringComparer.Ordinal).Take(left + 1))
            {
                if (left < 0)
                    return;
                await PrintAsync(call, child, indent + "  ", depth - 1);
            }
        }
    }

    private static IActorRef Find(CommandCall call)
    {
        IActorRef at = ((ExtendedActorSystem)call.Node.Actors).Provider.RootGuardian;
        foreach (var name in call.Get("start").Split('/', StringSplitOptions.RemoveEmptyEntries))
        {
            at = Children(at).FirstOrDefault(child => child.Path.Name == name)
                ?? throw new CommandException(ErrorCodes.NotFound, $"There is no actor {name} below {at.Path.ToStringWithoutAddress()} on this node.");
        }
        return at;
    }

    private static IEnumerable<IActorRef> Children(IActorRef actor) => actor is ActorRefWithCell { Children: var children } ? children : [];

    private static (string? Class, int Waiting) Look(IActorRef actor) => actor is ActorRefWithCell { Underlying: { } cell }
        ? (cell is ActorCell { Props.Type: { } type } ? type.Name : null, cell.NumberOfMessages)
        : (null, 0);
}
