using System.Buffers.Binary;
using System.Text;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>What a disk is made of.</summary>
/// <param name="Id">Its name at the API, and the serial number that the guest reads.</param>
/// <param name="Path">The file on the host.</param>
/// <param name="ReadOnly">The guest can't write, whatever it tries.</param>
/// <param name="Flushes">The guest may ask for what it wrote to be on the host's disk; without it that is left to the host.</param>
/// <param name="Asynchronous">Reads, writes and flushes are the kernel's (io_uring) and the event loop goes on meanwhile.</param>
/// <param name="Limits">What it may carry.</param>
internal sealed record DiskSettings(string Id, string Path, bool ReadOnly, bool Flushes, bool Asynchronous, LimiterSettings Limits);

/// <summary>
/// A disk (virtio 1.2, §5.2) backed by a file: one queue of 256, reads, writes, flushes, and the serial number. What the
/// guest asks for beyond the disk or against a rule is an I/O error to it.
/// </summary>
internal sealed class BlockDevice : VirtioDevice, IDisposable
{
    private const int SectorSize = 512;
    private const int HeaderSize = 16;
    private const int SerialSize = 20;
    private const int ConfigurationSize = 60;
    private const int SegmentsOffset = 12;

    private const uint TypeIn = 0;
    private const uint TypeOut = 1;
    private const uint TypeFlush = 4;
    private const uint TypeGetId = 8;

    private const byte StatusOk = 0;
    private const byte StatusIoError = 1;
    private const byte StatusUnsupported = 2;

    // Not one of the guest's: the request was begun.
    private const byte StatusUnderWay = 255;

    private const ulong FeatureSegments = 1 << 2;
    private const ulong FeatureReadOnly = 1 << 5;
    private const ulong FeatureFlush = 1 << 9;

    private const int ReadBytes = 0;
    private const int WriteBytes = 1;
    private const int Reads = 2;
    private const int Writes = 3;
    private const int Flushes = 4;
    private const int Updates = 5;
    private const int Failures = 6;
    private const int Invalid = 7;
    private const int Throttled = 8;
    private const int EngineFull = 9;

    private static readonly ushort[] Sizes = [256];

    private static readonly string[] MetricNames =
    [
        "read_bytes", "write_bytes", "read_count", "write_count", "flush_count", "update_count", "execute_fails",
        "invalid_reqs_count", "rate_limiter_throttled_events", "io_engine_throttled_events",
    ];

    private readonly GuestMemory _memory;
    private readonly DiskSettings _settings;
    private DiskFile _file;
    private readonly byte[] _configuration = new byte[ConfigurationSize];
    private readonly byte[] _serial = new byte[SerialSize];
    private readonly RateLimiter _limiter;
    private readonly DiskQueue? _underWay;
    private IDeviceHost? _host;
    private bool _listens;
    private bool _hasHeader;
    private uint _type;
    private ulong _sector;

    /// <summary>Throws <see cref="SystemCallException"/> or <see cref="NotARegularFileException"/>.</summary>
    public BlockDevice(GuestMemory memory, DiskSettings settings, TimeProvider clock)
    {
        _limiter = new RateLimiter(settings.Limits, clock);
        Metrics = new DeviceMetrics("block", settings.Id, MetricNames);
        _memory = memory;
        _settings = settings;
        _file = new DiskFile(settings.Path, settings.ReadOnly);
        try
        {
            _underWay = settings.Asynchronous ? new DiskQueue() : null;
        }
        catch
        {
            _file.Dispose();
            throw;
        }

        TellSize();

        // Header and status take one descriptor each. A driver that is not told sends one piece per request.
        BinaryPrimitives.WriteUInt32LittleEndian(_configuration.AsSpan(SegmentsOffset), (uint)Sizes[0] - 2);
        Encoding.ASCII.GetBytes(settings.Id.AsSpan(0, Math.Min(settings.Id.Length, SerialSize)), _serial);
    }

    /// <summary>Whole sectors of the file; what is behind the last one the guest does not see.</summary>
    public ulong Sectors { get; private set; }

    public override string Path => PathOf(_settings.Id);

    public override DeviceMetrics Metrics { get; }

    public override IReadOnlyList<QueueLimiter> Limiters => [new(null, _limiter)];

    public override uint Id => 2;

    public override ulong Features =>
        Version1 | EventIndex | IndirectDescriptors | FeatureSegments | (_settings.ReadOnly ? FeatureReadOnly : 0) | (_settings.Flushes ? FeatureFlush : 0);

    public override IReadOnlyList<ushort> QueueSizes => Sizes;

    public override ReadOnlySpan<byte> Configuration => _configuration;

    /// <summary>Place in the API of the disk with an id.</summary>
    public static string PathOf(string id) => "drives/" + id;

    public override RateLimiter LimiterOf(int queue) => _limiter;

    /// <summary>Puts another file behind the disk. Throws as the constructor does, and then the old one stays.</summary>
    public void Replace(string path)
    {
        var file = new DiskFile(path, _settings.ReadOnly);
        Finish();
        _file.Dispose();
        _file = file;
        TellSize();
        Metrics.Add(Updates);
    }

    public override void Attend(IDeviceHost host)
    {
        if (_underWay is not null)
        {
            _host = host;
            _listens = true;
            host.Loop.Add(_underWay.Descriptor, OnDone);
        }
    }

    // The vCPUs stand still: a paused guest's memory does not change any more behind this.
    public override void Leave()
    {
        if (_host is not null)
        {
            Finish();
            _host.Loop.Remove(_underWay!.Descriptor);
            _host = null;
        }
    }

    public override void Reset()
    {
        while (_underWay is { IsEmpty: false })
        {
            _underWay.Wait();
            while (_underWay.TryReap(out _, out _))
            {
                // Its driver is gone; all that matters is that the kernel writes nowhere any more.
            }
        }
    }

    public override TimeSpan? Process(int queue)
    {
        if (_underWay is null)
        {
            return base.Process(queue);
        }

        Listen(true);
        CompleteWhatIsDone();
        var again = base.Process(queue);
        try
        {
            _underWay.Submit();
        }
        catch (SystemCallException failure)
        {
            throw new DeviceBrokenException($"The host's kernel takes no requests for the disk {_settings.Id}: {failure.Message}.", failure);
        }

        return again;
    }

    public void Dispose()
    {
        Leave();
        _underWay?.Dispose();
        _file.Dispose();
    }

    // Waits for what is under way, and tells the guest.
    private void Finish()
    {
        if (_underWay is null or { IsEmpty: true })
        {
            return;
        }

        while (!_underWay.IsEmpty)
        {
            _underWay.Wait();
            CompleteWhatIsDone();
        }

        if (Queues[0].TakeInterruptNeed())
        {
            Interrupt();
        }
    }

    private void CompleteWhatIsDone()
    {
        while (_underWay!.TryReap(out var request, out var succeeded))
        {
            var written = request.Kind == TypeIn && succeeded ? request.Length : 0;
            if (!succeeded)
            {
                Metrics.Add(Failures);
            }
            else if (request.Length > 0)
            {
                Metrics.Add(request.Kind == TypeIn ? ReadBytes : WriteBytes, request.Length);
            }

            _memory.Slice(request.Status, 1)[0] = succeeded ? StatusOk : StatusIoError;
            Queues[0].AddUsed(request.Head, written + 1);
        }
    }

    private void OnDone()
    {
        // A device that needs a reset: until it got one, what is done is nobody's.
        if (!_host!.Process(0))
        {
            Listen(false);
        }
    }

    private void Listen(bool on)
    {
        if (on != _listens && _host is not null)
        {
            _host.Loop.Change(_underWay!.Descriptor, on ? LoopEvents.Readable : LoopEvents.None);
            _listens = on;
        }
    }

    public override void Save(StateWriter writer) => writer.U64(Sectors);

    /// <summary>A clone may have another file behind it, and its guest is told the size.</summary>
    public override bool Restore(ref StateReader reader) => reader.U64() != Sectors;

    private void TellSize()
    {
        Sectors = _file.Size / SectorSize;
        BinaryPrimitives.WriteUInt64LittleEndian(_configuration, Sectors);
    }

    protected override bool HasRoom
    {
        get
        {
            if (_underWay is { HasRoom: false })
            {
                Metrics.Add(EngineFull);
                return false;
            }

            return true;
        }
    }

    protected override void OnThrottled() => Metrics.Add(Throttled);

    // Reads and writes count their data; what has none is an operation only. The header is read here and nowhere else: a
    // guest that changed it afterwards would get what it did not pay for.
    protected override ulong Weigh(VirtQueue request)
    {
        Span<byte> header = stackalloc byte[HeaderSize];
        _hasHeader = TryReadHeader(request.Readable, header);
        _type = BinaryPrimitives.ReadUInt32LittleEndian(header);
        _sector = BinaryPrimitives.ReadUInt64LittleEndian(header[8..]);
        return _type switch
        {
            TypeIn => (ulong)Math.Max(0, VirtQueue.LengthOf(request.Writable) - 1),
            TypeOut => (ulong)Math.Max(0, VirtQueue.LengthOf(request.Readable) - HeaderSize),
            _ => 0,
        };
    }

    protected override uint? Serve(int queue, VirtQueue request, ushort head)
    {
        if (request.Writable is not [.., { Length: > 0 } last])
        {
            throw new VirtQueueException("a disk request without a place for its status");
        }

        // The last byte that the device may write, wherever the buffers end.
        var place = last.Address + (ulong)last.Length - 1;
        var written = 0u;
        var status = _hasHeader ? Carry(request, new DiskRequest(head, _type, place, 0), out written) : StatusIoError;
        if (status == StatusUnderWay)
        {
            return null;
        }

        if (status != StatusOk)
        {
            Metrics.Add(status == StatusIoError ? Failures : Invalid);
        }

        _memory.Slice(place, 1)[0] = status;
        return written + 1;
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

    private byte Carry(VirtQueue request, DiskRequest asked, out uint written)
    {
        written = 0;
        switch (_type)
        {
            case TypeIn:
                Metrics.Add(Reads);
                var read = Transfer(request.Writable, 0, VirtQueue.LengthOf(request.Writable) - 1, asked, out written);
                Metrics.Add(ReadBytes, written);
                return read;
            case TypeOut when !_settings.ReadOnly:
                Metrics.Add(Writes);
                var wrote = Transfer(request.Readable, HeaderSize, VirtQueue.LengthOf(request.Readable) - HeaderSize, asked, out var put);
                Metrics.Add(WriteBytes, put);
                return wrote;
            case TypeOut:
                return StatusIoError;
            case TypeFlush when _settings.Flushes:
                Metrics.Add(Flushes);
                if (_underWay is not null)
                {
                    _underWay.Flush(asked, _file);
                    return StatusUnderWay;
                }

                return _file.TryFlush() ? StatusOk : StatusIoError;
            case TypeGetId:
                return GiveSerial(request.Writable, out written);
            default:
                return StatusUnsupported;
        }
    }

    // Moves so many bytes behind the first `skip` ones of the buffers, or has it begun.
    private unsafe byte Transfer(ReadOnlySpan<GuestBuffer> buffers, long skip, long length, DiskRequest asked, out uint moved)
    {
        moved = 0;
        if (length is < 0 or > int.MaxValue || length % SectorSize != 0 || _sector > Sectors || (ulong)length / SectorSize > Sectors - _sector)
        {
            return StatusIoError;
        }

        var offset = _sector * SectorSize;
        if (_underWay is not null && length > 0)
        {
            _underWay.Move(asked with { Length = (uint)length }, _file, _type == TypeIn, offset, _memory, buffers, skip);
            return StatusUnderWay;
        }

        var pieces = stackalloc IoPiece[GuestPieces.Most];
        var count = GuestPieces.Locate(_memory, buffers, skip, length, _type == TypeIn, pieces);

        // SAFETY: the pieces lie in guest memory, which outlives the device.
        if (_type == TypeIn ? !_file.TryFill(offset, pieces, count) : !_file.TryWrite(offset, pieces, count))
        {
            return StatusIoError;
        }

        moved = (uint)length;
        return StatusOk;
    }

    private byte GiveSerial(ReadOnlySpan<GuestBuffer> buffers, out uint written)
    {
        written = 0;
        if (VirtQueue.LengthOf(buffers) - 1 < SerialSize)
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
}
