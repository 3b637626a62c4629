using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Fleet.Vmm.Snapshots;

/// <summary>A snapshot that can't be used; the message says why.</summary>
internal sealed class SnapshotException(string message, Exception? inner = null) : Exception(message, inner);

/// <summary>
/// Reads what <see cref="StateWriter"/> wrote. The bytes come from a file that anybody may have made: no length is believed
/// before it was held against what is there, and nothing is allocated by a length that was not.
/// </summary>
internal ref struct StateReader(ReadOnlySpan<byte> bytes)
{
    private ReadOnlySpan<byte> _rest = bytes;

    public readonly bool IsAtEnd => _rest.IsEmpty;

    public byte U8() => Bytes(1)[0];

    public bool Flag() => U8() switch
    {
        0 => false,
        1 => true,
        var other => throw new SnapshotException($"a flag is {other}"),
    };

    public ushort U16() => BinaryPrimitives.ReadUInt16LittleEndian(Bytes(sizeof(ushort)));

    public uint U32() => BinaryPrimitives.ReadUInt32LittleEndian(Bytes(sizeof(uint)));

    public ulong U64() => BinaryPrimitives.ReadUInt64LittleEndian(Bytes(sizeof(ulong)));

    /// <summary>A number that has to be one of a few.</summary>
    public int Number(int most, string what)
    {
        var value = U32();
        return value <= (uint)most ? (int)value : throw new SnapshotException($"{what} is {value}, at most {most} can be");
    }

    public unsafe T Struct<T>()
        where T : unmanaged => MemoryMarshal.Read<T>(Bytes(sizeof(T)));

    public unsafe T[] Structs<T>(int most, string what)
        where T : unmanaged
    {
        var count = Number(most, "the number of " + what);
        return MemoryMarshal.Cast<byte, T>(Bytes(checked(count * sizeof(T)))).ToArray();
    }

    /// <summary>The bytes of a block, in place.</summary>
    public ReadOnlySpan<byte> Block() => Bytes(Number(int.MaxValue, "a length"));

    public ReadOnlySpan<byte> Bytes(int count)
    {
        if ((uint)count > (uint)_rest.Length)
        {
            throw new SnapshotException($"{count} bytes are wanted where only {_rest.Length} are left");
        }

        var bytes = _rest[..count];
        _rest = _rest[count..];
        return bytes;
    }

    /// <summary>Nothing may be left: a reader that did not read all has read something else than was written.</summary>
    public readonly void End(string what)
    {
        if (!IsAtEnd)
        {
            throw new SnapshotException($"{_rest.Length} bytes too many in {what}");
        }
    }
}
