using System.Buffers.Binary;
using System.Text;

namespace Fleet.Vmm.Boot;

/// <summary>
/// Writes the little AML that a DSDT of ours needs (ACPI 6.5, chapter 20): scopes, devices, names, packages and
/// resource templates. Overflow of the buffer throws; what is written is a constant of the program.
/// </summary>
internal ref struct AmlWriter(Span<byte> buffer)
{
    private const byte NameOp = 0x08;
    private const byte ByteConst = 0x0a;
    private const byte DwordConst = 0x0c;
    private const byte StringConst = 0x0d;
    private const byte ScopeOp = 0x10;
    private const byte BufferOp = 0x11;
    private const byte PackageOp = 0x12;
    private const byte MethodOp = 0x14;
    private const byte ExtendedOp = 0x5b;
    private const byte DeviceOp = 0x82;
    private const byte NotifyOp = 0x86;

    /// <summary>Length of the package-length field as it is always written here; good for 4095 bytes.</summary>
    private const int PackageLengthSize = 2;

    private readonly Span<byte> _buffer = buffer;

    /// <summary>Bytes so far.</summary>
    public int Length { get; private set; }

    /// <summary>Begins <c>Scope (path)</c>; hand the result to <see cref="End"/>.</summary>
    public int BeginScope(string path)
    {
        Byte(ScopeOp);
        var start = BeginPackage();
        Text(path);
        return start;
    }

    /// <summary>Begins <c>Device (name)</c>; hand the result to <see cref="End"/>.</summary>
    public int BeginDevice(string name)
    {
        Byte(ExtendedOp);
        Byte(DeviceOp);
        var start = BeginPackage();
        Text(name);
        return start;
    }

    /// <summary>Ends what began at <paramref name="start"/>.</summary>
    public readonly void End(int start)
    {
        // The length counts itself. Bits 7-6 of the first byte: one more byte follows, which holds bits 11-4.
        var length = Length - start;
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, 4095);
        _buffer[start] = (byte)(0x40 | (length & 0xf));
        _buffer[start + 1] = (byte)(length >> 4);
    }

    /// <summary><c>Name (_HID, EisaId (id))</c>.</summary>
    public void EisaName(string name, string id)
    {
        Name(name);
        Byte(DwordConst);

        // Three letters of five bits, then four hexadecimal digits, big-endian.
        var letters = ((id[0] - '@') << 10) | ((id[1] - '@') << 5) | (id[2] - '@');
        Byte((byte)(letters >> 8));
        Byte((byte)letters);
        Byte(Convert.ToByte(id.Substring(3, 2), 16));
        Byte(Convert.ToByte(id.Substring(5, 2), 16));
    }

    /// <summary><c>Name (name, "text")</c>.</summary>
    public void StringName(string name, string text)
    {
        Name(name);
        Byte(StringConst);
        Text(text);
        Byte(0);
    }

    /// <summary><c>Name (name, value)</c>.</summary>
    public void ByteName(string name, byte value)
    {
        Name(name);
        Byte(ByteConst);
        Byte(value);
    }

    /// <summary><c>Name (name, Package () { … })</c> of bytes.</summary>
    public void BytePackageName(string name, ReadOnlySpan<byte> values)
    {
        Name(name);
        Byte(PackageOp);
        var start = BeginPackage();
        Byte((byte)values.Length);
        foreach (var value in values)
        {
            Byte(ByteConst);
            Byte(value);
        }

        End(start);
    }

    /// <summary><c>Name (name, Package () { … })</c> of 32-bit numbers.</summary>
    public void DwordPackageName(string name, ReadOnlySpan<uint> values)
    {
        Name(name);
        Byte(PackageOp);
        var start = BeginPackage();
        Byte((byte)values.Length);
        foreach (var value in values)
        {
            Byte(DwordConst);
            Dword(value);
        }

        End(start);
    }

    /// <summary>Begins <c>Method (name, arguments)</c>; hand the result to <see cref="End"/>.</summary>
    public int BeginMethod(string name, byte arguments)
    {
        Byte(MethodOp);
        var start = BeginPackage();
        Text(name);
        Byte(arguments);
        return start;
    }

    /// <summary><c>Notify (device, value)</c>.</summary>
    public void Notify(string device, byte value)
    {
        Byte(NotifyOp);
        Text(device);
        Byte(ByteConst);
        Byte(value);
    }

    /// <summary>Begins <c>Name (_CRS, ResourceTemplate () { … })</c>; hand the result to <see cref="EndResources"/>.</summary>
    public int BeginResources()
    {
        Name("_CRS");
        Byte(BufferOp);
        var start = BeginPackage();
        Byte(ByteConst);
        Byte(0);
        return start;
    }

    /// <summary><c>IO (Decode16, port, port, 1, length)</c>.</summary>
    public void IoResource(ushort port, byte length)
    {
        Byte(0x47);
        Byte(1);
        Word(port);
        Word(port);
        Byte(1);
        Byte(length);
    }

    /// <summary><c>IRQNoFlags () {irq}</c>: edge, high, exclusive, as on the ISA bus.</summary>
    public void IrqResource(uint irq)
    {
        Byte(0x22);
        Word((ushort)(1 << (int)irq));
    }

    /// <summary><c>Memory32Fixed (ReadWrite, address, length)</c>.</summary>
    public void MemoryResource(uint address, uint length)
    {
        Byte(0x86);
        Word(9);
        Byte(1);
        Dword(address);
        Dword(length);
    }

    /// <summary><c>Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) {gsi}</c>: numbers above the ISA bus's.</summary>
    public void InterruptResource(uint gsi)
    {
        Byte(0x89);
        Word(6);
        Byte(0x03);
        Byte(1);
        Dword(gsi);
    }

    public void EndResources(int start)
    {
        Byte(0x79);
        Byte(0);
        var contentStart = start + PackageLengthSize + 2;
        _buffer[contentStart - 1] = (byte)(Length - contentStart);
        End(start);
    }

    private int BeginPackage()
    {
        var start = Length;
        Byte(0);
        Byte(0);
        return start;
    }

    private void Name(string name)
    {
        Byte(NameOp);
        Text(name);
    }

    private void Text(string text)
    {
        Encoding.ASCII.GetBytes(text, _buffer[Length..]);
        Length += text.Length;
    }

    private void Word(ushort value)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(_buffer[Length..], value);
        Length += sizeof(ushort);
    }

    private void Dword(uint value)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(_buffer[Length..], value);
        Length += sizeof(uint);
    }

    private void Byte(byte value) => _buffer[Length++] = value;
}
