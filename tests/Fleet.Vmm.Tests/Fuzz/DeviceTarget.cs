using System.Buffers.Binary;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Tests.Fuzz;

/// <summary>
/// A virtio device under a hostile driver: registers in any order, rings and descriptors made by rule and then broken, in
/// memory that another thread changes all the while, as a second vCPU would.
/// </summary>
internal abstract class DeviceTarget : FuzzTarget
{
    protected const ulong MemorySize = 1 << 20;
    protected const ulong Data = 0x40000;
    private const ulong Rings = 0x1000;
    private const ulong RingsOfAQueue = 0x4000;
    private const ulong Tables = 0x30000;
    private const int Chains = 6;
    private const int HeaderRoom = 128;

    private static readonly uint[] Registers =
        [0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xfc, 0x100, 0x104, 0x108];

    private readonly GuestMemory _memory = new(MemorySize);
    private readonly Thread _other;
    private readonly List<int> _again = [];
    private MmioTransport _transport = null!;
    private VirtioDevice _device = null!;
    private bool _ends;
    private int _breaks;
    private bool _indirect;

    protected DeviceTarget()
    {
        _other = new Thread(ChangeUnderfoot) { IsBackground = true };
    }

    protected GuestMemory Memory => _memory;

    protected VirtioDevice Device => _device;

    /// <summary>Features that a driver asks for as a rule.</summary>
    protected virtual ulong UsualFeatures => _device.Features;

    public override void Run(FuzzRandom random)
    {
        // Every other driver keeps to the rules, but for what changes underfoot; the others break one in so many.
        _breaks = random.Pick<int>([0, 0, 0, 100, 30, 5]);
        if (_breaks > 0 && random.OneIn(8))
        {
            for (var i = random.Below(30); i > 0; i--)
            {
                WriteAny(random);
            }
        }
        else
        {
            Begin(random);
        }

        BeforeRequests(random);
        for (var queue = 0; queue < _device.QueueSizes.Count; queue++)
        {
            Offer(random, queue);
        }

        Span<byte> read = stackalloc byte[8];
        for (var i = random.Below(4); i >= 0; i--)
        {
            _ = _transport.Process(random.Below(_device.QueueSizes.Count + 1));
            if (_breaks > 0 && random.OneIn(4))
            {
                WriteAny(random);
            }

            if (random.OneIn(4))
            {
                _transport.Read(random.OneIn(2) ? random.Pick<uint>(Registers) : random.Next() % MmioTransport.Size, read[..(1 << random.Below(4))]);
            }
        }

        _again.Clear();
        Write(0x70, 0);
    }

    // A fuzzer whose cases are all refused at the door tests the door.
    public override string? Check()
    {
        var counted = _device.Metrics!;
        for (var i = 0; i < counted.Names.Length; i++)
        {
            if (counted.Since(i) > 0)
            {
                return null;
            }
        }

        return "not one request was served";
    }

    public override void Dispose()
    {
        Volatile.Write(ref _ends, true);
        if (_other.IsAlive)
        {
            _other.Join();
        }

        (_device as IDisposable)?.Dispose();
        _memory.Dispose();
        base.Dispose();
    }

    protected void Use(VirtioDevice device)
    {
        _device = device;
        _transport = new MmioTransport(device, _memory, static () => { }, (queue, _) => _again.Add(queue), static _ => { });
        _other.Start();
    }

    /// <summary>What the device needs besides, such as frames of the host.</summary>
    protected virtual void BeforeRequests(FuzzRandom random)
    {
    }

    /// <summary>Content of a request's first buffer, where the device looks for something there.</summary>
    protected virtual void FillHeader(FuzzRandom random, Span<byte> header)
    {
    }

    /// <summary>How many of a chain's buffers the device reads; the others it writes.</summary>
    protected abstract int Readable(FuzzRandom random, int queue, int buffers);

    private void Begin(FuzzRandom random)
    {
        Write(0x70, 0);
        Write(0x70, 1);
        Write(0x70, 3);
        var features = (random.OneIn(3) ? UsualFeatures & random.Next() : UsualFeatures) | VirtioDevice.Version1;
        _indirect = (features & VirtioDevice.IndirectDescriptors) != 0;
        for (var page = 0; page < 2; page++)
        {
            Write(0x24, (uint)page);
            Write(0x20, (uint)(features >> (32 * page)));
        }

        Write(0x70, 11);
        for (var queue = 0; queue < _device.QueueSizes.Count; queue++)
        {
            var rings = RingsOf(queue);
            _memory.Slice(rings, 0x3000).Clear();
            Write(0x30, (uint)queue);
            Write(0x38, Breaks(random) ? (uint)random.Wild() : 16);
            Write(0x80, (uint)(Breaks(random) ? random.Wild() : rings));
            Write(0x90, (uint)(Breaks(random) ? random.Wild() : rings + 0x1000));
            Write(0xa0, (uint)(Breaks(random) ? random.Wild() : rings + 0x2000));
            Write(0x44, 1);
        }

        Write(0x70, 15);
    }

    private void Offer(FuzzRandom random, int queue)
    {
        var rings = RingsOf(queue);
        var chains = random.Below(Chains);
        for (var chain = 0; chain < chains; chain++)
        {
            var head = Breaks(random) ? (ushort)random.Next() : (ushort)random.Below(16);
            BinaryPrimitives.WriteUInt16LittleEndian(_memory.Slice(rings + 0x1004 + (2ul * (ulong)chain), 2), head);
            Describe(random, queue, rings, head & 15);
        }

        var index = Breaks(random) ? (ushort)random.Wild() : (ushort)chains;
        BinaryPrimitives.WriteUInt16LittleEndian(_memory.Slice(rings + 0x1002, 2), index);
        if (random.OneIn(4))
        {
            BinaryPrimitives.WriteUInt16LittleEndian(_memory.Slice(rings + 0x1004 + 32, 2), (ushort)random.Next());
        }
    }

    private void Describe(FuzzRandom random, int queue, ulong rings, int head)
    {
        var buffers = 1 + random.Below(5);
        var readable = Readable(random, queue, buffers);
        var table = rings;
        var index = head;
        if (random.OneIn(4) && (_indirect || Breaks(random)))
        {
            table = Tables + (0x400ul * (ulong)random.Below(16));
            WriteDescriptor(rings, head, table, Breaks(random) ? (uint)random.Wild() : 16u * (uint)buffers, (ushort)(Breaks(random) ? random.Next() : 4), 0);
            index = 0;
        }

        for (var i = 0; i < buffers; i++)
        {
            var address = AddressOf(random);
            var last = i == buffers - 1;
            var next = table == rings ? (index + 1) & 15 : index + 1;
            var flags = (last ? 0 : 1) | (i >= readable ? 2 : 0);
            WriteDescriptor(
                table, index, address, LengthOf(random, i, last), Breaks(random) ? (ushort)random.Next() : (ushort)flags,
                Breaks(random) ? (ushort)random.Next() : (ushort)next);
            if (i == 0 && _memory.Contains(address, HeaderRoom))
            {
                FillHeader(random, _memory.Slice(address, HeaderRoom));
            }

            index = next;
        }
    }

    /// <summary>Whether a rule is to be broken here.</summary>
    protected bool Breaks(FuzzRandom random) => _breaks > 0 && random.OneIn(_breaks);

    private ulong AddressOf(FuzzRandom random) => Breaks(random)
        ? random.OneIn(2) ? random.Wild() : MemorySize - (ulong)random.Below(5000)
        : Data + (ulong)random.Below(0x80000);

    private uint LengthOf(FuzzRandom random, int index, bool last) => Breaks(random)
        ? (uint)random.Wild()
        : random.Below(10) switch
        {
            0 => 0,
            1 => (uint)random.Below(70_000),
            < 7 when index == 0 => (uint)random.Pick<int>([8, 12, 16, 16, 44]),
            < 7 when last => (uint)random.Pick<int>([1, 1, 4, 20, 513]),
            _ => 512u * (uint)random.Below(9),
        };

    private void WriteDescriptor(ulong table, int index, ulong address, uint length, ushort flags, ushort next)
    {
        var at = _memory.Slice(table + (16ul * (ulong)index), 16);
        BinaryPrimitives.WriteUInt64LittleEndian(at, address);
        BinaryPrimitives.WriteUInt32LittleEndian(at[8..], length);
        BinaryPrimitives.WriteUInt16LittleEndian(at[12..], flags);
        BinaryPrimitives.WriteUInt16LittleEndian(at[14..], next);
    }

    private void WriteAny(FuzzRandom random)
    {
        if (random.OneIn(5))
        {
            Span<byte> any = stackalloc byte[1 << random.Below(4)];
            any.Fill((byte)random.Next());
            _transport.Write(random.Next() % MmioTransport.Size, any);
        }
        else
        {
            Write(random.Pick<uint>(Registers), random.OneIn(2) ? (uint)random.Wild() : random.Pick<uint>([0, 1, 3, 11, 15, 16, 0x1000, 0x5000]));
        }
    }

    private void Write(uint register, uint value)
    {
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        _transport.Write(register, data);
    }

    private static ulong RingsOf(int queue) => Rings + (RingsOfAQueue * (ulong)queue);

    // Rings, tables and headers, over and over; not so fast that nothing is ever served.
    private void ChangeUnderfoot()
    {
        var random = new FuzzRandom(0x5eed);
        while (!Volatile.Read(ref _ends))
        {
            var address = random.OneIn(3) ? Data + (ulong)random.Below(0x80000) : Rings + (random.Next() % (Data - Rings));
            Volatile.Write(ref _memory.Slice(address, 1)[0], (byte)random.Next());
            Thread.SpinWait(50);
        }
    }
}
