using Akka.Actor;

namespace Fleet.Scheduler.Cell;

/// <summary>
/// Tells a sharded actor that its shard moves. It is dealt with in turn, behind a write under way and whatever was asked before: a PoisonPill
/// would overtake both and leave callers without an answer until their patience ends.
/// </summary>
internal sealed class HandOff : INoSerializationVerificationNeeded
{
    public static readonly HandOff Instance = new();

    private HandOff()
    {
    }
}
