namespace Fleet.Host.Images.Oci;

/// <summary>
/// Whose work is next where a host does only so much at once: tenants take turns, and each has one piece of work at a time, so that nobody holds up
/// others however much it asks for. What several tenants want is done in the turn of whichever comes first.
/// </summary>
/// <param name="atOnce">Pieces of work, of different tenants.</param>
internal sealed class TenantTurns(int atOnce)
{
    private readonly Lock _gate = new();
    // Who wants anything: whose turn is next comes first.
    private readonly List<string> _tenants = [];
    private readonly Dictionary<(string Work, string Tenant), int> _wants = [];
    private readonly List<Turn> _waiting = [];
    private readonly List<string> _working = [];

    /// <summary>Says for whom the work is, until it is disposed of. Before and while that work waits.</summary>
    public IDisposable Want(string work, string tenant)
    {
        lock (_gate)
        {
            _wants[(work, tenant)] = _wants.GetValueOrDefault((work, tenant)) + 1;
            if (!_tenants.Contains(tenant)) _tenants.Add(tenant);
            Begin();
        }
        return new Wish(this, work, tenant);
    }

    /// <summary>Waits for the turn of somebody who wants the work. It lasts until it is disposed of.</summary>
    public async Task<IDisposable> TakeAsync(string work, CancellationToken cancellation)
    {
        var turn = new Turn(this, work);
        lock (_gate)
        {
            _waiting.Add(turn);
            Begin();
        }
        try
        {
            await turn.Begun.Task.WaitAsync(cancellation).ConfigureAwait(false);
            return turn;
        }
        catch
        {
            // It may have begun just now.
            turn.Dispose();
            throw;
        }
    }

    private void Begin()
    {
        while (_working.Count < atOnce && Next() is { } turn)
        {
            _waiting.Remove(turn);
            _working.Add(turn.Tenant!);
            turn.Begun.SetResult();
        }
    }

    private Turn? Next()
    {
        foreach (var tenant in _tenants)
        {
            if (_working.Contains(tenant) || _waiting.Find(turn => _wants.ContainsKey((turn.Work, tenant))) is not { } next) continue;
            next.Tenant = tenant;
            return next;
        }
        return null;
    }

    private void End(Turn turn)
    {
        lock (_gate)
        {
            if (_waiting.Remove(turn) || turn.Tenant is null) return;
            _working.Remove(turn.Tenant);
            // Behind all who wait by now, if it wants anything more.
            if (_tenants.Remove(turn.Tenant)) _tenants.Add(turn.Tenant);
            turn.Tenant = null;
            Begin();
        }
    }

    private void Unwant(string work, string tenant)
    {
        lock (_gate)
        {
            if (--_wants[(work, tenant)] > 0) return;
            _wants.Remove((work, tenant));
            if (!_wants.Keys.Any(want => want.Tenant == tenant)) _tenants.Remove(tenant);
        }
    }

    private sealed class Wish(TenantTurns turns, string work, string tenant) : IDisposable
    {
        public void Dispose() => turns.Unwant(work, tenant);
    }

    private sealed class Turn(TenantTurns turns, string work) : IDisposable
    {
        public string Work => work;

        public TaskCompletionSource Begun { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

        /// <summary>In whose turn it is done; null: it is not.</summary>
        public string? Tenant { get; set; }

        public void Dispose() => turns.End(this);
    }
}
