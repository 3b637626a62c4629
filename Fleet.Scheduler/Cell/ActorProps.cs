using Akka.Actor;

namespace Fleet.Scheduler.Cell;

/// <summary>
/// How an actor is made, again after each restart. Props that are made from an expression have its parts compiled each time, unless they are plain
/// variables: five compilations for each new microVM.
/// </summary>
internal sealed class ActorProps<T>(Func<T> make) : IIndirectActorProducer
    where T : ActorBase
{
    public Type ActorType => typeof(T);

    public ActorBase Produce() => make();

    public void Release(ActorBase actor)
    {
    }
}

/// <inheritdoc cref="ActorProps{T}"/>
internal static class ActorProps
{
    /// <param name="make">Called for each life of the actor; what it carries is shared by all of them.</param>
    public static Props Of<T>(Func<T> make)
        where T : ActorBase => Props.CreateBy(new ActorProps<T>(make));
}
