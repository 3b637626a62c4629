namespace Fleet.Host.Agent;

/// <summary>
/// Epochs of which this agent has said that nothing is left: a launch that comes late must not make that untrue. Keeps the
/// latest ones; what is forgotten is found out by the control plane from the next report. Not safe for several threads.
/// </summary>
internal sealed class RemovedEpochs(int capacity)
{
    private readonly Dictionary<string, (ulong Epoch, ulong Sequence)> _known = new(StringComparer.Ordinal);
    private readonly Queue<string> _order = new();

    /// <summary>Notes that this epoch and all before are gone.</summary>
    /// <param name="sequence">Of the report that says so.</param>
    public void Add(string vmId, ulong epoch, ulong sequence)
    {
        if (_known.TryGetValue(vmId, out var known))
        {
            _known[vmId] = (Math.Max(known.Epoch, epoch), Math.Max(known.Sequence, sequence));
            return;
        }

        if (_order.Count >= capacity)
            _known.Remove(_order.Dequeue());
        _known[vmId] = (epoch, sequence);
        _order.Enqueue(vmId);
    }

    public bool Contains(string vmId, ulong epoch) => _known.TryGetValue(vmId, out var known) && epoch <= known.Epoch;

    /// <summary>The highest sequence of a report about a removed epoch of this microVM; 0: none is known.</summary>
    public ulong LastSequence(string vmId) => _known.TryGetValue(vmId, out var known) ? known.Sequence : 0;
}
