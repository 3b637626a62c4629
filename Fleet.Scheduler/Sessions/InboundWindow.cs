using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Sessions;

/// <summary>How many messages of one agent may be under way inside; when it is full the stream is not read, and HTTP/2 holds the agent back.</summary>
internal sealed class InboundWindow : IDisposable
{
    /// <summary>Enough to fill a batch of the journal from one host; small enough that a thousand agents can't fill the memory.</summary>
    public const int Size = 256;

    private readonly SemaphoreSlim _places = new(Size, Size);

    public Task EnterAsync(CancellationToken cancellation) => _places.WaitAsync(cancellation);

    public void Leave() => _places.Release();

    public void Dispose() => _places.Dispose();
}

/// <summary>Reports that a microVM has not stored yet, each with its place in the window. An agent repeats what is never answered.</summary>
internal sealed class ReportsUnderWay
{
    private readonly Dictionary<(string VmId, ulong Epoch, ulong Sequence), (FromAgent Inbound, TimeSpan At)> _underWay = [];

    public void Enter(VmReport report, FromAgent inbound, TimeSpan now)
    {
        // The same report again: the older one gives up its place.
        Leave(report.VmId, report.Epoch, report.Sequence);
        _underWay[(report.VmId, report.Epoch, report.Sequence)] = (inbound, now);
    }

    public void Leave(string vmId, ulong epoch, ulong sequence)
    {
        if (_underWay.Remove((vmId, epoch, sequence), out var report))
            report.Inbound.Done();
    }

    public void LeaveOlderThan(TimeSpan before)
    {
        foreach (var (key, _) in _underWay.Where(report => report.Value.At < before).ToList())
            Leave(key.VmId, key.Epoch, key.Sequence);
    }

    public void LeaveAll() => LeaveOlderThan(TimeSpan.MaxValue);
}
