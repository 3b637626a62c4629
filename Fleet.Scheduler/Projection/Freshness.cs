namespace Fleet.Scheduler.Projection;

/// <summary>
/// Read-your-writes: remembers which answers of the cell the view does not show yet, and lets a list wait for those
/// given before it. Writers never wait. Thread-safe.
/// </summary>
internal sealed class Freshness(Func<string, ulong> shown, TimeProvider clock)
{
    /// <summary>Longest that a list waits for the view. A view that is further behind is shown as it is, with its index.</summary>
    public static readonly TimeSpan Bound = TimeSpan.FromSeconds(1);

    // An answer may arrive after the projection has passed it; this many are remembered to notice that.
    private const int Remembered = 4096;

    private readonly Lock _lock = new();
    private readonly Dictionary<string, Expected> _expected = [];
    private readonly SortedSet<long> _open = [];
    private readonly Dictionary<string, ulong> _passed = [];
    private readonly Queue<string> _passedOrder = [];
    private readonly List<(long Ticket, TaskCompletionSource Done)> _waiting = [];
    private long _tickets;

    /// <summary>The cell told a client of this version of a microVM or a host, by its persistence id.</summary>
    public void Told(string id, ulong version)
    {
        lock (_lock)
        {
            if (Knows(id, version))
                return;
        }

        // Not seen to pass lately, most likely since it has not changed: the view itself knows.
        if (shown(id) >= version)
            return;
        lock (_lock)
        {
            if (Knows(id, version))
                return;
            if (_expected.TryGetValue(id, out var earlier))
                _open.Remove(earlier.Ticket);
            _expected[id] = new(version, ++_tickets);
            _open.Add(_tickets);
        }
    }

    // The view shows it, or is expected to.
    private bool Knows(string id, ulong version) =>
        (_passed.TryGetValue(id, out var passed) && passed >= version)
        || (_expected.TryGetValue(id, out var expected) && expected.Version >= version);

    /// <summary>The view now shows these versions.</summary>
    public void Shown(IReadOnlyDictionary<string, ulong> versions)
    {
        lock (_lock)
        {
            foreach (var (id, version) in versions)
            {
                if (_passed.TryAdd(id, version))
                    _passedOrder.Enqueue(id);
                else
                    _passed[id] = version;
                if (_expected.TryGetValue(id, out var expected) && expected.Version <= version)
                {
                    _expected.Remove(id);
                    _open.Remove(expected.Ticket);
                }
            }
            while (_passedOrder.Count > Remembered)
                _passed.Remove(_passedOrder.Dequeue());
            Release();
        }
    }

    /// <summary>Completes when the view shows all that was told before the call, or after <see cref="Bound"/>.</summary>
    public async Task WaitAsync(CancellationToken cancellation)
    {
        Task shown;
        long ticket;
        lock (_lock)
        {
            if (_open.Count == 0)
                return;
            ticket = _tickets;
            var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            _waiting.Add((ticket, done));
            shown = done.Task;
        }
        try
        {
            await shown.WaitAsync(Bound, clock, cancellation);
        }
        catch (TimeoutException)
        {
            // What is this late would hold up every list after this one too.
            GiveUp(ticket);
        }
    }

    private void GiveUp(long ticket)
    {
        lock (_lock)
        {
            foreach (var (id, _) in _expected.Where(e => e.Value.Ticket <= ticket).ToList())
                _expected.Remove(id);
            _open.RemoveWhere(t => t <= ticket);
            Release();
        }
    }

    private void Release()
    {
        var least = _open.Count == 0 ? long.MaxValue : _open.Min;
        for (var i = _waiting.Count - 1; i >= 0; i--)
        {
            if (_waiting[i].Ticket >= least)
                continue;
            _waiting[i].Done.TrySetResult();
            _waiting.RemoveAt(i);
        }
    }

    private readonly record struct Expected(ulong Version, long Ticket);
}
