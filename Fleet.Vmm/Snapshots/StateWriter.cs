using System.Buffers.Binary;
using System.Text;

namespace Fleet.Vmm.Snapshots;

/// <summary>Puts down state, value by value, in the order in which <see cref="StateReader"/> takes it up again.</summary>
internal sealed class StateWriter
{
    private byte[] _bytes = new byte[16 * 1024];
    private int _length;

    public ReadOnlySpan<byte> Written => _bytes.AsSpan(0, _length);

    public void Byte(byte value) => Reserve(1)[0] = value;

    public void Flag(bool value) => Byte(value ? (byte)1 : (byte)0);

    public void UInt16(ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(Reserve(sizeof(ushort)), value);

    public void UInt32(uint value) => BinaryPrimitives.WriteUInt32LittleEndian(Reserve(sizeof(uint)), value);

    public void UInt64(ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(Reserve(sizeof(ulong)), value);

    /// <summary>With their count in front.</summary>
    public void Bytes(ReadOnlySpan<byte> value)
    {
        UInt32((uint)value.Length);
        value.CopyTo(Reserve(value.Length));
    }

    public void Text(string value) => Bytes(Encoding.UTF8.GetBytes(value));

    private Span<byte> Reserve(int size)
    {
        if (_bytes.Length - _length < size)
        {
            Array.Resize(ref _bytes, Math.Max(_bytes.Length * 2, _length + size));
        }

        _length += size;
        return _bytes.AsSpan(_length - size, size);
    }
}

/// <summary>
/// Takes up what <see cref="StateWriter"/> put down. The checksum says that nobody changed it by accident; whoever changed it
/// on purpose gets a <see cref="SnapshotException"/> and no more.
/// </summary>
internal ref struct StateReader(ReadOnlySpan<byte> state)
{
    private ReadOnlySpan<byte> _rest = state;

    public byte Byte() => Take(1)[0];

    public bool Flag() => Byte() switch
    {
        0 => false,
        1 => true,
        var other => throw new SnapshotException($"it has a yes-or-no of {other}"),
    };

    public ushort UInt16() => BinaryPrimitives.ReadUInt16LittleEndian(Take(sizeof(ushort)));

    public uint UInt32() => BinaryPrimitives.ReadUInt32LittleEndian(Take(sizeof(uint)));

    public ulong UInt64() => BinaryPrimitives.ReadUInt64LittleEndian(Take(sizeof(ulong)));

    public ReadOnlySpan<byte> Bytes()
    {
        var length = UInt32();
        return length <= (uint)_rest.Length ? Take((int)length) : throw TooShort();
    }

    /// <summary>Bytes whose count is known.</summary>
    public ReadOnlySpan<byte> Bytes(int length)
    {
        var bytes = Bytes();
        return bytes.Length == length ? bytes : throw new SnapshotException($"it has {bytes.Length} bytes where {length} belong");
    }

    public string Text() => Encoding.UTF8.GetString(Bytes());

    public readonly void End()
    {
        if (!_rest.IsEmpty)
        {
            throw new SnapshotException($"it has {_rest.Length} bytes too many");
        }
    }

    private ReadOnlySpan<byte> Take(int size)
    {
        if (_rest.Length < size)
        {
            throw TooShort();
        }

        var taken = _rest[..size];
        _rest = _rest[size..];
        return taken;
    }

    private static SnapshotException TooShort() => new("it ends too early");
}
