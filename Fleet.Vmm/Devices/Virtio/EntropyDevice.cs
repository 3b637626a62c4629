using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>Randomness from the host's kernel (virtio 1.2, §5.4).</summary>
internal sealed class EntropyDevice(GuestMemory memory, LimiterSettings limits, TimeProvider clock) : VirtioDevice
{
    /// <summary>Its place in the API; there is one only.</summary>
    public const string ApiPath = "entropy";

    /// <summary>Bytes that one request is given at most; the rest of its buffers stays as it is.</summary>
    private const int MostPerRequest = 64 * 1024;

    private const int Events = 0;
    private const int Bytes = 1;
    private const int Throttled = 2;

    private static readonly ushort[] Sizes = [256];

    private static readonly string[] MetricNames = ["entropy_event_count", "entropy_bytes", "entropy_rate_limiter_throttled"];

    private readonly RateLimiter _limiter = new(limits, clock);

    public override string Path => ApiPath;

    public override uint Id => 4;

    public override ulong Features => Version1 | EventIndex | IndirectDescriptors;

    public override IReadOnlyList<ushort> QueueSizes => Sizes;

    public override DeviceMetrics Metrics { get; } = new("entropy", null, MetricNames);

    public override IReadOnlyList<QueueLimiter> Limiters => [new(null, _limiter)];

    public override RateLimiter LimiterOf(int queue) => _limiter;

    protected override void OnThrottled() => Metrics.Add(Throttled);

    protected override ulong Weigh(VirtQueue request) => (ulong)Math.Min(MostPerRequest, VirtQueue.LengthOf(request.Writable));

    protected override uint? Serve(int queue, VirtQueue request, ushort head)
    {
        var left = MostPerRequest;
        foreach (var buffer in request.Writable)
        {
            var part = Math.Min(left, buffer.Length);
            RandomBytes.Fill(memory.Slice(buffer.Address, part));
            left -= part;
        }

        Metrics.Add(Events);
        Metrics.Add(Bytes, (ulong)(MostPerRequest - left));
        return (uint)(MostPerRequest - left);
    }
}
