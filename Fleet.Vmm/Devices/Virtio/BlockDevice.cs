using System.Buffers.Binary;
using System.Text;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>What a disk is made of.</summary>
/// <param name="Id">Its name at the API, and the serial number that the guest reads.</param>
/// <param name="Path">The file on the host.</param>
/// <param name="ReadOnly">The guest can't write, whatever it tries.</param>
/// <param name="Flushes">The guest may ask for what it wrote to be on the host's disk; without it that is left to the host.</param>
internal sealed record DiskSettings(string Id, string Path, bool ReadOnly, bool Flushes);

/// <summary>
/// A disk (virtio 1.2, §5.2) backed by a file, served synchronously on the event loop: one queue of 256, reads, writes,
/// flushes, and the serial number. What the guest asks for beyond the disk or against a rule is an I/O error to it.
/// </summary>
internal sealed class BlockDevice : VirtioDevice, IDisposable
{
    private const int SectorSize = 512;
    private const int HeaderSize = 16;
    private const int SerialSize = 20;
    private const int ConfigurationSize = 60;

    private const uint TypeIn = 0;
    private const uint TypeOut = 1;
    private const uint TypeFlush = 4;
    private const uint TypeGetId = 8;

    private const byte StatusOk = 0;
    private const byte StatusIoError = 1;
    private const byte StatusUnsupported = 2;

    private const ulong FeatureReadOnly = 1 << 5;
    private const ulong FeatureFlush = 1 << 9;

    private static readonly ushort[] Sizes = [256];

    private readonly GuestMemory _memory;
    private readonly DiskSettings _settings;
    private DiskFile _file;
    private readonly byte[] _configuration = new byte[ConfigurationSize];
    private readonly byte[] _serial = new byte[SerialSize];

    /// <summary>Throws <see cref="SystemCallException"/> or <see cref="NotARegularFileException"/>.</summary>
    public BlockDevice(GuestMemory memory, DiskSettings settings)
    {
        _memory = memory;
        _settings = settings;
        _file = new DiskFile(settings.Path, settings.ReadOnly);
        TellSize();
        Encoding.ASCII.GetBytes(settings.Id.AsSpan(0, Math.Min(settings.Id.Length, SerialSize)), _serial);
    }

    /// <summary>Whole sectors of the file; what is behind the last one the guest does not see.</summary>
    public ulong Sectors { get; private set; }

    /// <summary>Its id at the API.</summary>
    public string Name => _settings.Id;

    public override uint Id => 2;

    public override ulong Features =>
        Version1 | EventIndex | (_settings.ReadOnly ? FeatureReadOnly : 0) | (_settings.Flushes ? FeatureFlush : 0);

    public override IReadOnlyList<ushort> QueueSizes => Sizes;

    public override ReadOnlySpan<byte> Configuration => _configuration;

    /// <summary>Puts another file behind the disk. Throws as the constructor does, and then the old one stays.</summary>
    public void Replace(string path)
    {
        var old = _file;
        _file = new DiskFile(path, _settings.ReadOnly);
        old.Dispose();
        TellSize();
    }

    public override void Save(StateWriter writer) => writer.U64(Sectors);

    /// <summary>A clone may have another file behind it, and its guest is told the size.</summary>
    public override bool Restore(ref StateReader reader) => reader.U64() != Sectors;

    public void Dispose() => _file.Dispose();

    private void TellSize()
    {
        Sectors = _file.Size / SectorSize;
        BinaryPrimitives.WriteUInt64LittleEndian(_configuration, Sectors);
    }

    protected override uint Serve(int queue, VirtQueue request)
    {
        if (request.Writable is not [.., { Length: > 0 } last])
        {
            throw new VirtQueueException("a disk request without a place for its status");
        }

        Span<byte> header = stackalloc byte[HeaderSize];
        var status = TryReadHeader(request.Readable, header)
            ? Carry(BinaryPrimitives.ReadUInt32LittleEndian(header), BinaryPrimitives.ReadUInt64LittleEndian(header[8..]), request, out var written)
            : Refuse(out written);

        // The last byte that the device may write, wherever the buffers end.
        _memory.Slice(last.Address + (ulong)last.Length - 1, 1)[0] = status;
        return written + 1;
    }

    private static byte Refuse(out uint written)
    {
        written = 0;
        return StatusIoError;
    }

    // The header may be cut into buffers as the driver likes (virtio 1.2, §2.7.4.1).
    private bool TryReadHeader(ReadOnlySpan<GuestBuffer> buffers, Span<byte> header)
    {
        foreach (var buffer in buffers)
        {
            var part = Math.Min(buffer.Length, header.Length);
            _memory.View(buffer.Address, part).CopyTo(header);
            header = header[part..];
        }

        return header.IsEmpty;
    }

    private byte Carry(uint type, ulong sector, VirtQueue request, out uint written)
    {
        written = 0;
        switch (type)
        {
            case TypeIn:
                return Transfer(request.Writable, 0, Total(request.Writable) - 1, sector, toGuest: true, out written);
            case TypeOut when !_settings.ReadOnly:
                return Transfer(request.Readable, HeaderSize, Total(request.Readable) - HeaderSize, sector, toGuest: false, out _);
            case TypeOut:
                return StatusIoError;
            case TypeFlush when _settings.Flushes:
                return _file.TryFlush() ? StatusOk : StatusIoError;
            case TypeGetId:
                return GiveSerial(request.Writable, out written);
            default:
                return StatusUnsupported;
        }
    }

    // Moves so many bytes behind the first `skip` ones of the buffers.
    private byte Transfer(ReadOnlySpan<GuestBuffer> buffers, long skip, long length, ulong sector, bool toGuest, out uint moved)
    {
        moved = 0;
        if (length % SectorSize != 0 || sector > Sectors || (ulong)length / SectorSize > Sectors - sector)
        {
            return StatusIoError;
        }

        var offset = sector * SectorSize;
        foreach (var buffer in buffers)
        {
            var start = Math.Min(skip, buffer.Length);
            skip -= start;
            var part = (int)Math.Min(length, buffer.Length - start);
            if (part == 0)
            {
                continue;
            }

            var place = buffer.Address + (ulong)start;
            if (toGuest ? !_file.TryFill(offset, _memory.Slice(place, part)) : !_file.TryWrite(offset, _memory.View(place, part)))
            {
                return StatusIoError;
            }

            offset += (ulong)part;
            length -= part;
            moved += (uint)part;
        }

        return StatusOk;
    }

    private byte GiveSerial(ReadOnlySpan<GuestBuffer> buffers, out uint written)
    {
        written = 0;
        if (Total(buffers) - 1 < SerialSize)
        {
            return StatusIoError;
        }

        ReadOnlySpan<byte> serial = _serial;
        foreach (var buffer in buffers)
        {
            var part = Math.Min(buffer.Length, serial.Length);
            serial[..part].CopyTo(_memory.Slice(buffer.Address, part));
            serial = serial[part..];
        }

        written = SerialSize;
        return StatusOk;
    }

    private static long Total(ReadOnlySpan<GuestBuffer> buffers)
    {
        var total = 0L;
        foreach (var buffer in buffers)
        {
            total += buffer.Length;
        }

        return total;
    }
}
