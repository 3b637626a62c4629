using Fleet.Host.Drivers;

namespace Fleet.Host.Images.Oci;

/// <summary>Why layers were refused whose bytes were what they are called: they will be so again. Keeps the latest ones.</summary>
internal sealed class RefusedRoots(int capacity)
{
    private readonly Lock _gate = new();
    private readonly Dictionary<string, LaunchFailedException> _known = new(StringComparer.Ordinal);
    private readonly Queue<string> _order = new();

    /// <param name="order">Which layers, and what they are to be unpacked.</param>
    /// <param name="refused">What was said of them.</param>
    public void Add(string order, LaunchFailedException refused)
    {
        lock (_gate)
        {
            if (_known.TryAdd(order, refused)) _order.Enqueue(order);
            if (_order.Count > capacity) _known.Remove(_order.Dequeue());
        }
    }

    /// <exception cref="LaunchFailedException">They were refused: with the same code and message.</exception>
    public void ThrowIfKnown(string order)
    {
        lock (_gate)
        {
            if (_known.TryGetValue(order, out var refused)) throw new LaunchFailedException(refused.Code, refused.Message, refused);
        }
    }
}
