using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>What of a device is its own; registers, status and queues are the transport's.</summary>
/// <remarks>Every call comes with the transport's lock held, from a vCPU's thread or the event loop.</remarks>
internal abstract class VirtioDevice
{
    /// <summary>VIRTIO_F_VERSION_1: every device of ours is a modern one.</summary>
    public const ulong Version1 = 1ul << 32;

    /// <summary>VIRTIO_F_EVENT_IDX.</summary>
    public const ulong EventIndex = 1ul << 29;

    /// <summary>VIRTIO_F_INDIRECT_DESC.</summary>
    public const ulong IndirectDescriptors = 1ul << 28;

    /// <summary>Bytes after which a turn ends: a few milliseconds, in which the event loop does nothing else.</summary>
    private const long MostWork = 8 << 20;

    /// <summary>Its place in the API, such as <c>drives/root</c>.</summary>
    public abstract string Path { get; }

    /// <summary>What it counts, if it does.</summary>
    public virtual DeviceMetrics? Metrics => null;

    /// <summary>What its queues have to pass.</summary>
    public virtual IReadOnlyList<QueueLimiter> Limiters => [];

    /// <summary>The device's number (virtio 1.2, §5).</summary>
    public abstract uint Id { get; }

    /// <summary>Feature bits that are offered.</summary>
    public abstract ulong Features { get; }

    /// <summary>Largest size of each queue.</summary>
    public abstract IReadOnlyList<ushort> QueueSizes { get; }

    /// <summary>The device's configuration space; reads beyond it give zeros.</summary>
    public virtual ReadOnlySpan<byte> Configuration => default;

    /// <summary>Set by the transport: the queues, in order.</summary>
    public IReadOnlyList<VirtQueue> Queues { get; set; } = [];

    /// <summary>Set by the transport: raises the queues' interrupt.</summary>
    public Action Interrupt { get; set; } = static () => { };

    /// <summary>The driver wrote into the configuration space; by default nothing there can be written.</summary>
    public virtual void WriteConfiguration(int offset, ReadOnlySpan<byte> values)
    {
    }

    /// <summary>The driver is ready. Queues that it did not enable stay unused.</summary>
    public virtual void Activate(ulong features)
    {
    }

    /// <summary>
    /// The machine runs: what comes from the host may be listened to. Called on the event loop without the transport's lock,
    /// as <see cref="Leave"/> is.
    /// </summary>
    public virtual void Attend(IDeviceHost host)
    {
    }

    /// <summary>The machine stands still: nothing of it may change.</summary>
    public virtual void Leave()
    {
    }

    /// <summary>The driver let go: nothing of a request may be touched any more.</summary>
    public virtual void Reset()
    {
    }

    /// <summary>
    /// Writes for a snapshot what <see cref="Restore"/> needs beyond the configuration it is built from; by default nothing.
    /// The guest is paused; a device that works on requests elsewhere finishes them first.
    /// </summary>
    public virtual void Save(StateWriter writer)
    {
    }

    /// <summary>
    /// Takes up what <see cref="Save"/> wrote, once, after <see cref="Activate"/> where the driver was ready. The bytes come
    /// from a file: what can't be true is a <see cref="SnapshotException"/>.
    /// </summary>
    /// <returns>True when the configuration space is another one than the guest knows.</returns>
    public virtual bool Restore(ref StateReader reader) => false;

    /// <summary>
    /// The driver may have put requests into an enabled queue of an active device. Serves as many as the queue holds at
    /// most, and no more once they made <see cref="MostWork"/>: a guest that puts in new ones all the while, or large ones,
    /// must not keep the thread for itself.
    /// </summary>
    /// <returns>When it has to be called again, after others had their turn; null when a notification will do.</returns>
    /// <exception cref="VirtQueueException">The driver broke the rules.</exception>
    public virtual TimeSpan? Process(int queue)
    {
        var requests = Queues[queue];
        var limiter = LimiterOf(queue);
        TimeSpan? again = TimeSpan.Zero;
        var work = 0L;
        for (var budget = (int)requests.Size; budget > 0 && work < MostWork;)
        {
            if (!HasRoom)
            {
                again = null;
                break;
            }

            if (requests.TryTake(out var head))
            {
                budget--;
                if (limiter is not null && !limiter.TryTake(Weigh(requests), out var wait))
                {
                    OnThrottled();
                    requests.PutBack();
                    again = wait;
                    break;
                }

                work += WorkOf(queue, requests);
                if (Serve(queue, requests, head) is { } written)
                {
                    requests.AddUsed(head, written);
                }
            }
            else if (!requests.AskForNotification())
            {
                again = null;
                break;
            }
        }

        if (requests.TakeInterruptNeed())
        {
            Interrupt();
        }

        return again;
    }

    /// <summary>What a queue's requests have to pass, if anything.</summary>
    public virtual RateLimiter? LimiterOf(int queue) => null;

    /// <summary>What serving the request that was just taken costs at most, in bytes that are moved.</summary>
    protected virtual long WorkOf(int queue, VirtQueue request) => VirtQueue.LengthOf(request.Readable) + VirtQueue.LengthOf(request.Writable);

    /// <summary>Of two times to be called again, null for none.</summary>
    protected static TimeSpan? Sooner(TimeSpan? one, TimeSpan? other) => one is null || other < one ? other : one;

    /// <summary>False while no further request can be begun; the device has itself processed again when that changes.</summary>
    protected virtual bool HasRoom => true;

    /// <summary>A request has to wait at its limiter.</summary>
    protected virtual void OnThrottled()
    {
    }

    /// <summary>Bytes that the request that was just taken counts for its limiter; asked before each <see cref="Serve"/> where there is one.</summary>
    protected virtual ulong Weigh(VirtQueue request) => 0;

    /// <summary>
    /// Serves the request that was just taken from a queue; the bytes that were written into it, or null when it was only
    /// begun: the device puts its <paramref name="head"/> into the used ring itself, later.
    /// </summary>
    protected abstract uint? Serve(int queue, VirtQueue request, ushort head);
}

/// <summary>One limiter of a device.</summary>
/// <param name="Queue">Which of its directions, as the API names it; null when there is one only.</param>
/// <param name="Limiter">The limiter; of the event loop, under the transport's lock.</param>
internal readonly record struct QueueLimiter(string? Queue, RateLimiter Limiter);
