using System.Runtime.Serialization;
using Akka.Actor;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Journal;
using Google.Protobuf;
using Google.Protobuf.Reflection;
using Xunit;

namespace Fleet.Scheduler.Tests.Journal;

public sealed class CellSerializerTests : IDisposable
{
    private readonly ActorSystem _system = ActorSystem.Create("serializer");

    private CellSerializer Serializer => new((ExtendedActorSystem)_system);

    public void Dispose() => _system.Terminate().Wait(TimeSpan.FromSeconds(10));

    public static TheoryData<string> Manifests => [.. CellSerializer.Known.Values.Order()];

    [Theory]
    [MemberData(nameof(Manifests))]
    public void Should_give_back_what_it_took(string manifest)
    {
        var type = CellSerializer.Known.Single(row => row.Value == manifest).Key;
        var message = (IMessage)Activator.CreateInstance(type)!;
        Fill(message, depth: 0);
        Assert.Equal(manifest, Serializer.Manifest(message));
        Assert.Equal(message, Serializer.FromBinary(Serializer.ToBinary(message), manifest));
    }

    [Fact]
    public void Should_know_every_message_of_the_cell()
    {
        // Parts of other messages, never sent or stored by themselves.
        Type[] parts = [typeof(VmRecord), typeof(HostRecord), typeof(Problem), typeof(Rejection), typeof(LedgerEntry), typeof(Quarantine), typeof(Move), typeof(Arrival), typeof(SavedVm), typeof(Drain), typeof(DrainStay), typeof(HostUsage), typeof(Forecast), typeof(PeakRoom), typeof(GroupCount), typeof(ClassRoom), typeof(GangPlace), typeof(HostImages), typeof(OtherResources)];
        var unknown = typeof(CellSerializer).Assembly.GetTypes()
            .Where(type => type.Namespace == typeof(VmCreated).Namespace && typeof(IMessage).IsAssignableFrom(type))
            .Except(CellSerializer.Known.Keys)
            .Except(parts);
        Assert.Empty(unknown);
    }

    [Fact]
    public void Should_refuse_manifests_and_types_that_it_does_not_know()
    {
        Assert.Throws<SerializationException>(() => Serializer.FromBinary([], "System.Diagnostics.Process"));
        Assert.Throws<SerializationException>(() => Serializer.Manifest("text"));
    }

    [Fact]
    public void Should_refuse_everything_where_json_would_be()
    {
        var denying = new DenyingSerializer((ExtendedActorSystem)_system);
        Assert.Equal(1, denying.Identifier);
        Assert.Throws<SerializationException>(() => denying.ToBinary("text"));
        Assert.Throws<SerializationException>(() => denying.FromBinary("{}"u8.ToArray(), typeof(string)));
    }

    // Something in every field, so that a field that is lost is seen.
    private static void Fill(IMessage message, int depth)
    {
        foreach (var field in message.Descriptor.Fields.InFieldNumberOrder())
        {
            if (field.ContainingOneof is { } oneof && oneof.Accessor.GetCaseFieldDescriptor(message) is not null)
                continue;
            if (field.IsMap)
                ((System.Collections.IDictionary)field.Accessor.GetValue(message))["key"] = Value(field.MessageType.FindFieldByNumber(2), depth);
            else if (field.IsRepeated)
                ((System.Collections.IList)field.Accessor.GetValue(message)).Add(Value(field, depth));
            else
                field.Accessor.SetValue(message, Value(field, depth));
        }
    }

    private static object Value(FieldDescriptor field, int depth)
    {
        switch (field.FieldType)
        {
            case FieldType.Message:
                var part = field.MessageType.Parser.ParseFrom([]);
                if (depth < 5)
                    Fill(part, depth + 1);
                return part;
            case FieldType.String:
                return $"{field.Name} ✓";
            case FieldType.Bytes:
                return ByteString.CopyFrom(0, 1, 255);
            case FieldType.Bool:
                return true;
            case FieldType.Double:
                return 1.5;
            case FieldType.UInt32:
                return 4_000_000_000U;
            case FieldType.UInt64:
                return 1UL << 60;
            case FieldType.Int32:
                return 123;
            case FieldType.Int64:
                return 123L;
            case FieldType.Enum:
                return Enum.ToObject(field.EnumType.ClrType, 1);
            default:
                throw new NotSupportedException(field.FieldType.ToString());
        }
    }
}
