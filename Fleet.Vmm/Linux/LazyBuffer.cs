using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>Bytes outside of the collector's heap, which would clear them: what is never used never takes memory.</summary>
internal sealed unsafe class LazyBuffer(int size) : IDisposable
{
    private byte* _start = (byte*)NativeMemory.Alloc((nuint)size);

    /// <summary>Undefined until written.</summary>
    public Span<byte> Bytes
    {
        get
        {
            ObjectDisposedException.ThrowIf(_start == null, this);

            // SAFETY: so much was allocated, and Dispose clears the pointer.
            return new Span<byte>(_start, size);
        }
    }

    public void Dispose()
    {
        NativeMemory.Free(_start);
        _start = null;
    }
}
