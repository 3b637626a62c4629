using System.Collections.Concurrent;

namespace Fleet.Scheduler.Access;

/// <summary>
/// Counts what was refused, by address and minute. Bounds what an attacker can fill a log with, and how often somebody may try to join
/// with what is no token. Thread-safe; of fixed size.
/// </summary>
internal sealed class RefusalLimit(int most, TimeProvider clock)
{
    private const int MostAddresses = 4096;
    private static readonly TimeSpan Window = TimeSpan.FromMinutes(1);

    private readonly ConcurrentDictionary<string, Count> _counts = new(StringComparer.Ordinal);

    /// <summary>Whether the address was refused so often within the minute that no more is heard from it.</summary>
    public bool IsReached(string address) =>
        _counts.TryGetValue(address, out var count) && count.Since + Window > clock.GetUtcNow() && count.Number >= most;

    /// <summary>Notes a refusal; true while the limit is not reached, the refusal that reaches it included.</summary>
    public bool Note(string address)
    {
        var now = clock.GetUtcNow();
        if (_counts.Count >= MostAddresses && !_counts.ContainsKey(address))
            Forget(now);
        return _counts.AddOrUpdate(address, _ => new Count(now, 1),
            (_, count) => count.Since + Window > now ? count with { Number = count.Number + 1 } : new Count(now, 1)).Number <= most;
    }

    // Thousands of addresses within a minute are one attacker: then all begin anew.
    private void Forget(DateTimeOffset now)
    {
        foreach (var (address, count) in _counts)
        {
            if (count.Since + Window <= now)
                _counts.TryRemove(address, out _);
        }
        if (_counts.Count >= MostAddresses)
            _counts.Clear();
    }

    private readonly record struct Count(DateTimeOffset Since, int Number);
}
