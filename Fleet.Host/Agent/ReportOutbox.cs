using Fleet.Shared.Contracts;

namespace Fleet.Host.Agent;

/// <summary>
/// The newest report of each (microVM, epoch) until it is acknowledged, in fair order: a report that is never acknowledged
/// takes its turn behind all others. Not safe for several threads.
/// </summary>
/// <param name="resend">A report without an acknowledgement is due again after this.</param>
/// <param name="capacity">Reports kept at once.</param>
internal sealed class ReportOutbox(TimeSpan resend, int capacity)
{
    private readonly Dictionary<(string VmId, ulong Epoch), Item> _items = [];
    private readonly Queue<Item> _due = new();
    private readonly Queue<(Item Item, VmReport Report, TimeSpan At)> _sent = new();

    public int Count => _items.Count;

    /// <summary>Replaces what is kept of the same microVM and epoch. False when it is full of others.</summary>
    public bool Put(VmReport report)
    {
        var key = (report.VmId, report.Epoch);
        if (!_items.TryGetValue(key, out var item))
        {
            if (_items.Count >= capacity)
                return false;
            _items[key] = item = new Item(report);
        }

        item.Report = report;
        MakeDue(item);
        return true;
    }

    /// <summary>The control plane has stored that report, or a later one.</summary>
    public void Acknowledge(string vmId, ulong epoch, ulong sequence)
    {
        if (_items.TryGetValue((vmId, epoch), out var item) && item.Report.Sequence <= sequence)
        {
            _items.Remove((vmId, epoch));
            item.Over = true;
        }
    }

    /// <summary>The next report to send, which stays the next until <see cref="Sent"/>; null: none is due.</summary>
    public VmReport? Next(TimeSpan now)
    {
        while (_sent.TryPeek(out var sent) && now - sent.At >= resend)
        {
            _sent.Dequeue();
            // A newer report of it has its own turn.
            if (!sent.Item.Over && ReferenceEquals(sent.Item.Report, sent.Report))
                MakeDue(sent.Item);
        }

        while (_due.TryPeek(out var item))
        {
            if (!item.Over)
                return item.Report;
            _due.Dequeue();
        }

        return null;
    }

    /// <summary>What <see cref="Next"/> gave is on its way.</summary>
    public void Sent(TimeSpan now)
    {
        var item = _due.Dequeue();
        item.Due = false;
        _sent.Enqueue((item, item.Report, now));
    }

    /// <summary>The link broke: nobody knows what arrived.</summary>
    public void LinkLost()
    {
        _sent.Clear();
        foreach (var item in _items.Values)
            MakeDue(item);
    }

    private void MakeDue(Item item)
    {
        if (item.Due)
            return;
        item.Due = true;
        _due.Enqueue(item);
    }

    private sealed class Item(VmReport report)
    {
        public VmReport Report { get; set; } = report;

        public bool Due { get; set; }

        public bool Over { get; set; }
    }
}
