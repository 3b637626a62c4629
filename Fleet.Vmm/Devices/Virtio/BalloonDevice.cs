using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>What a balloon is made of.</summary>
/// <param name="AmountMib">Memory that the guest shall do without.</param>
/// <param name="DeflatesOnOom">The guest may take it back before it kills a process for want of memory.</param>
/// <param name="StatisticsSeconds">How often the guest tells about its memory; 0: never.</param>
/// <param name="ReportsFreePages">The guest tells, by itself, of pages that it does not use.</param>
internal sealed record BalloonSettings(uint AmountMib, bool DeflatesOnOom, ushort StatisticsSeconds, bool ReportsFreePages);

/// <summary>
/// A memory balloon (virtio 1.2, §5.5): pages that the guest hands over, or reports as free, go back to the host at once.
/// What the guest says of its memory is told as it says it.
/// </summary>
internal sealed class BalloonDevice : VirtioDevice, IDisposable
{
    public const string ApiPath = "balloon";

    /// <summary>Pages of 4 KiB in a MiB.</summary>
    public const uint PagesPerMib = 256;

    /// <summary>Names of the statistics, by the guest's number for them (virtio 1.2, §5.5.6.4, and Linux's later ones).</summary>
    public static readonly string[] StatisticNames =
    [
        "swap_in", "swap_out", "major_faults", "minor_faults", "free_memory", "total_memory", "available_memory", "disk_caches",
        "hugetlb_allocations", "hugetlb_failures", "oom_kill", "alloc_stall", "async_scan", "direct_scan", "async_reclaim", "direct_reclaim",
    ];

    private const int InflateQueue = 0;
    private const int DeflateQueue = 1;
    private const int ConfigurationSize = 16;
    private const int ActualOffset = 4;
    private const int PageShift = 12;
    private const int StatisticSize = 10;

    /// <summary>Bytes of one request that are looked at; Linux sends 1 KiB at most.</summary>
    private const int LongestRequest = 64 * 1024;

    private const ulong HasStatistics = 1 << 1;
    private const ulong DeflatesOnOom = 1 << 2;
    private const ulong Reports = 1 << 5;

    private const int Inflations = 0;
    private const int Deflations = 1;
    private const int StatisticUpdates = 2;
    private const int GivenBack = 3;
    private const int Reported = 4;
    private const int Failures = 5;

    private static readonly string[] MetricNames =
        ["inflate_count", "deflate_count", "stats_updates_count", "fleet_given_back_bytes", "free_page_report_count", "event_fails"];

    private readonly GuestMemory _memory;
    private readonly BalloonSettings _settings;
    private readonly byte[] _configuration = new byte[ConfigurationSize];
    private readonly ulong?[] _statistics = new ulong?[StatisticNames.Length];
    private readonly ushort[] _sizes;
    private readonly int _statisticsQueue;
    private readonly int _reportingQueue;
    private IDeviceHost? _host;
    private LoopTimer? _polls;
    private ushort _pollSeconds;
    private ushort _heldStatistics;
    private bool _holdsStatistics;
    private bool _wantsStatistics;

    public BalloonDevice(GuestMemory memory, BalloonSettings settings)
    {
        _memory = memory;
        _settings = settings;
        _pollSeconds = settings.StatisticsSeconds;

        // Queues that are not offered are not counted either.
        var queues = 2;
        _statisticsQueue = settings.StatisticsSeconds > 0 ? queues++ : -1;
        _reportingQueue = settings.ReportsFreePages ? queues++ : -1;
        _sizes = [.. Enumerable.Repeat((ushort)256, queues)];
        TargetPages = settings.AmountMib * PagesPerMib;
    }

    /// <summary>What the guest shall hand over. Set it by the transport's change of the configuration.</summary>
    public uint TargetPages
    {
        get => BinaryPrimitives.ReadUInt32LittleEndian(_configuration);
        set => BinaryPrimitives.WriteUInt32LittleEndian(_configuration, value);
    }

    /// <summary>What the guest says that it has handed over.</summary>
    public uint ActualPages => BinaryPrimitives.ReadUInt32LittleEndian(_configuration.AsSpan(ActualOffset));

    /// <summary>The guest's last word, by the index of <see cref="StatisticNames"/>; null for what it never told.</summary>
    public ReadOnlySpan<ulong?> Statistics => _statistics;

    public override string Path => ApiPath;

    public override uint Id => 5;

    public override ulong Features =>
        Version1 | EventIndex | IndirectDescriptors
        | (_statisticsQueue > 0 ? HasStatistics : 0) | (_settings.DeflatesOnOom ? DeflatesOnOom : 0) | (_reportingQueue > 0 ? Reports : 0);

    public override IReadOnlyList<ushort> QueueSizes => _sizes;

    public override ReadOnlySpan<byte> Configuration => _configuration;

    public override DeviceMetrics Metrics { get; } = new("balloon", null, MetricNames);

    /// <summary>The guest's driver writes how many pages it has handed over, and nothing else.</summary>
    public override void WriteConfiguration(int offset, ReadOnlySpan<byte> values)
    {
        if (offset >= ActualOffset && offset + values.Length <= ActualOffset + sizeof(uint))
        {
            values.CopyTo(_configuration.AsSpan(offset));
        }
    }

    /// <summary>How often the guest is asked from now on, in seconds; event loop only.</summary>
    public void PollEvery(ushort seconds)
    {
        _pollSeconds = seconds;
        StartPolling();
    }

    public override void Attend(IDeviceHost host)
    {
        _host = host;
        if (_statisticsQueue > 0)
        {
            _polls = new LoopTimer(host.Loop, Poll);
            StartPolling();
        }
    }

    public override void Leave()
    {
        _polls?.Dispose();
        _polls = null;
        _host = null;
    }

    public void Dispose() => Leave();

    public override void Reset()
    {
        BinaryPrimitives.WriteUInt32LittleEndian(_configuration.AsSpan(ActualOffset), 0);
        _holdsStatistics = _wantsStatistics = false;
    }

    public override void Save(StateWriter writer)
    {
        writer.U32(ActualPages);
        writer.Flag(_holdsStatistics);
        writer.U16(_heldStatistics);
    }

    public override bool Restore(ref StateReader reader)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(_configuration.AsSpan(ActualOffset), reader.U32());
        _holdsStatistics = reader.Flag();
        _heldStatistics = reader.U16();
        return false;
    }

    public override TimeSpan? Process(int queue)
    {
        if (queue != _statisticsQueue)
        {
            return base.Process(queue);
        }

        if (_wantsStatistics && _holdsStatistics)
        {
            // Its own buffer, given back, is what the guest takes as the question.
            Queues[queue].AddUsed(_heldStatistics, 0);
            _holdsStatistics = false;
        }

        _wantsStatistics = false;
        return base.Process(queue);
    }

    protected override uint? Serve(int queue, VirtQueue request, ushort head)
    {
        if (queue == InflateQueue)
        {
            Metrics.Add(Inflations);
            Inflate(request.Readable);
        }
        else if (queue == DeflateQueue)
        {
            // The pages come back by being used.
            Metrics.Add(Deflations);
        }
        else if (queue == _statisticsQueue)
        {
            return TakeStatistics(request.Readable, head);
        }
        else
        {
            Metrics.Add(Reported);
            foreach (var buffer in request.Writable)
            {
                GiveBack(buffer.Address, (ulong)buffer.Length);
            }
        }

        return 0;
    }

    // A page's number takes four bytes, and giving it back as long as moving it.
    protected override long WorkOf(int queue, VirtQueue request) =>
        queue == InflateQueue ? Math.Min(LongestRequest, VirtQueue.LengthOf(request.Readable)) << (PageShift - 2) : base.WorkOf(queue, request);

    private void Inflate(ReadOnlySpan<GuestBuffer> buffers)
    {
        // Runs of pages, which a guest hands over up or down, go back in one call.
        ulong first = 0, count = 0;
        var left = LongestRequest;
        foreach (var buffer in buffers)
        {
            var bytes = _memory.View(buffer.Address, Math.Min(buffer.Length, left) & ~3);
            left -= bytes.Length;
            for (; bytes.Length >= sizeof(uint); bytes = bytes[sizeof(uint)..])
            {
                ulong page = Volatile.Read(in MemoryMarshal.AsRef<uint>(bytes));
                if (count > 0 && page == first + count)
                {
                    count++;
                }
                else if (count > 0 && page + 1 == first)
                {
                    first--;
                    count++;
                }
                else
                {
                    GiveBack(first << PageShift, count << PageShift);
                    (first, count) = (page, 1);
                }
            }
        }

        GiveBack(first << PageShift, count << PageShift);
    }

    private void GiveBack(ulong address, ulong length)
    {
        if (length == 0)
        {
            return;
        }

        if (_memory.TryGiveBack(address, length))
        {
            Metrics.Add(GivenBack, length);
        }
        else
        {
            Metrics.Add(Failures);
        }
    }

    private uint? TakeStatistics(ReadOnlySpan<GuestBuffer> buffers, ushort head)
    {
        Span<byte> entry = stackalloc byte[StatisticSize];
        var left = LongestRequest;
        foreach (var buffer in buffers)
        {
            var bytes = _memory.View(buffer.Address, Math.Min(buffer.Length, left));
            left -= bytes.Length;
            for (; bytes.Length >= StatisticSize; bytes = bytes[StatisticSize..])
            {
                bytes[..StatisticSize].CopyTo(entry);
                var tag = BinaryPrimitives.ReadUInt16LittleEndian(entry);
                if (tag < _statistics.Length)
                {
                    _statistics[tag] = BinaryPrimitives.ReadUInt64LittleEndian(entry[2..]);
                }
            }
        }

        Metrics.Add(StatisticUpdates);
        var before = _heldStatistics;
        var held = _holdsStatistics;
        (_heldStatistics, _holdsStatistics) = (head, true);
        if (held)
        {
            // One is enough to ask with; a driver that sends more gets the older ones back.
            Queues[_statisticsQueue].AddUsed(before, 0);
        }

        return null;
    }

    private void Poll()
    {
        _wantsStatistics = true;
        _ = _host!.Process(_statisticsQueue);
    }

    private void StartPolling()
    {
        if (_pollSeconds > 0)
        {
            _polls?.Start(TimeSpan.FromSeconds(_pollSeconds), TimeSpan.FromSeconds(_pollSeconds));
        }
    }
}
