using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Runtime.Serialization;
using Akka.Actor;
using Akka.Serialization;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>
/// Stands where the refusing serializer stands, while tests force every message through serialization: what Akka says to itself inside
/// one process goes through as it is, anything of ours that lacks protobuf fails the test.
/// </summary>
public sealed class AkkaOnlySerializer : Serializer
{
    private static readonly ConcurrentDictionary<long, object> Passing = new();
    private static readonly ConcurrentQueue<string> RefusedTypes = new();
    private static long _last;

    public AkkaOnlySerializer(ExtendedActorSystem system) : base(system)
    {
    }

    public AkkaOnlySerializer(ExtendedActorSystem system, Akka.Configuration.Config config) : base(system) => _ = config;

    public static IReadOnlyCollection<string> Refused => RefusedTypes;

    public override int Identifier => 1;

    public override bool IncludeManifest => false;

    public override byte[] ToBinary(object obj)
    {
        var type = obj.GetType();
        // What the SQL journal tells itself of its writes when they are truly asynchronous, as PostgreSQL's are: an array, so not of Akka's namespace.
        var isAkkas = obj is Exception[] || (type.Namespace is { } space && (space == "Akka" || space.StartsWith("Akka.", StringComparison.Ordinal)));
        if (!isAkkas)
        {
            RefusedTypes.Enqueue(type.FullName ?? type.Name);
            throw new SerializationException($"{type} crosses between actors without protobuf.");
        }
        var id = Interlocked.Increment(ref _last);
        Passing[id] = obj;
        var bytes = new byte[sizeof(long)];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, id);
        return bytes;
    }

    public override object FromBinary(byte[] bytes, Type type) =>
        Passing.TryRemove(BinaryPrimitives.ReadInt64LittleEndian(bytes), out var obj)
            ? obj
            : throw new SerializationException("These bytes were read before or come from another process.");
}
