using Fleet.Shared.Contracts;

namespace Fleet.Host.Agent;

/// <summary>
/// What this agent said of launches that it refused, the latest of each microVM: one that is ordered once more gets the same answer. Keeps the latest ones; of one that is
/// forgotten the control plane has long heard. Not safe for several threads.
/// </summary>
internal sealed class RefusedLaunches(int capacity)
{
    private readonly Dictionary<string, VmReport> _known = new(StringComparer.Ordinal);
    private readonly Queue<string> _order = new();

    /// <summary>Notes the refusal.</summary>
    /// <param name="report">That says so.</param>
    public void Add(VmReport report)
    {
        if (!_known.ContainsKey(report.VmId))
        {
            if (_order.Count >= capacity)
                _known.Remove(_order.Dequeue());
            _order.Enqueue(report.VmId);
        }

        _known[report.VmId] = report;
    }

    /// <summary>What was said of that launch; null: it was not refused.</summary>
    public VmReport? Find(string vmId, ulong epoch) => _known.TryGetValue(vmId, out var known) && known.Epoch == epoch ? known : null;
}
