using System.Buffers;
using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Fleet.Vmm.Snapshots;

/// <summary>Collects a machine's state as bytes, little-endian, for <see cref="StateReader"/> to read in the same order.</summary>
internal sealed class StateWriter
{
    private readonly ArrayBufferWriter<byte> _buffer = new(16 * 1024);

    public ReadOnlySpan<byte> Written => _buffer.WrittenSpan;

    public void U8(byte value) => Bytes([value]);

    public void Flag(bool value) => U8(value ? (byte)1 : (byte)0);

    public void U16(ushort value)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(_buffer.GetSpan(sizeof(ushort)), value);
        _buffer.Advance(sizeof(ushort));
    }

    public void U32(uint value)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(_buffer.GetSpan(sizeof(uint)), value);
        _buffer.Advance(sizeof(uint));
    }

    public void U64(ulong value)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(_buffer.GetSpan(sizeof(ulong)), value);
        _buffer.Advance(sizeof(ulong));
    }

    /// <summary>A struct of the kernel's, as it is.</summary>
    public void Struct<T>(in T value)
        where T : unmanaged => Bytes(MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in value)));

    /// <summary>A count, then so many structs.</summary>
    public void Structs<T>(ReadOnlySpan<T> values)
        where T : unmanaged
    {
        U32((uint)values.Length);
        Bytes(MemoryMarshal.AsBytes(values));
    }

    /// <summary>A length, then the bytes: whoever reads can't run over their end.</summary>
    public void Block(ReadOnlySpan<byte> bytes)
    {
        U32((uint)bytes.Length);
        Bytes(bytes);
    }

    /// <summary>As <see cref="Block(ReadOnlySpan{byte})"/>, of what is written by somebody else.</summary>
    public void Block(Action<StateWriter> write)
    {
        var inner = new StateWriter();
        write(inner);
        Block(inner.Written);
    }

    /// <summary>Bytes whose number the reader knows.</summary>
    public void Bytes(ReadOnlySpan<byte> bytes) => _buffer.Write(bytes);
}
