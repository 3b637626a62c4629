using System.Runtime.CompilerServices;
using Akka.Actor;
using Akka.Remote;
using Akka.Util.Internal;

namespace Fleet.Scheduler.Cell;

/// <summary>
/// Whoever asks an actor is known to it by a number (<c>/temp/…</c>), which Akka counts from 0 in every actor system and sends without anything that tells one start of a node from the next.
/// A late answer to what a killed node had asked would so be taken, by the one that was started at its address, for that to another question. Hence each start counts from a place of its own.
/// </summary>
internal static class AskNames
{
    /// <summary>Before the first question leaves the node.</summary>
    /// <exception cref="MissingFieldException">A version of Akka that counts in another way.</exception>
    public static void CountFromAnywhere(ActorSystem actors) =>
        Number(Local((RemoteActorRefProvider)((ExtendedActorSystem)actors).Provider)).AddAndGet(Random.Shared.NextInt64(long.MaxValue / 2));

    [UnsafeAccessor(UnsafeAccessorKind.Field, Name = "_local")]
    private static extern ref LocalActorRefProvider Local(RemoteActorRefProvider provider);

    [UnsafeAccessor(UnsafeAccessorKind.Field, Name = "_tempNumber")]
    private static extern ref AtomicCounterLong Number(LocalActorRefProvider provider);
}
