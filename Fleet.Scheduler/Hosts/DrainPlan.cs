using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Hosts;

/// <summary>
/// Which microVMs of a host that is being drained are asked next to move, and which stay for now and why. Not stored: what is
/// under way is asked for again by an actor that was recovered. Not safe for several threads.
/// </summary>
internal sealed class DrainPlan
{
    /// <summary>Moves at once: a host that stops all its guests together is slow for each of them, and so are those that they go to.</summary>
    public const int MostAtOnce = 8;

    /// <summary>After the deadline there is nothing to be gentle with.</summary>
    public const int MostForcedAtOnce = 64;

    /// <summary>A microVM that found no room elsewhere is asked again after this.</summary>
    public static readonly TimeSpan AskAgain = TimeSpan.FromSeconds(5);

    /// <summary>One that gave no answer, or does not come to an end, is asked again after this; it may have been asked by an actor that is gone.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(15);

    /// <summary>
    /// With less time left until the deadline it is not saved and fetched: half a minute, and as its memory takes through half of a link of 1 Gbit/s.
    /// What takes longer all the same is given up at the deadline.
    /// </summary>
    public static TimeSpan TimeToTransfer(ulong memoryMib) => TimeSpan.FromSeconds(30 + (memoryMib / 60.0));

    private readonly Dictionary<(string VmId, ulong Epoch), Asked> _asked = [];
    private readonly Dictionary<(string VmId, ulong Epoch), Reason> _staying = [];

    /// <param name="At">When it was asked, or answered.</param>
    /// <param name="Forced">It was not asked, but told.</param>
    /// <param name="Open">It moves, or has not answered.</param>
    private sealed record Asked(TimeSpan At, bool Forced, bool Open);

    /// <summary>Who stays for now.</summary>
    public IEnumerable<(string VmId, Reason Reason)> Staying =>
        _staying.Select(pair => (pair.Key.VmId, pair.Value)).OrderBy(pair => pair.VmId, StringComparer.Ordinal);

    /// <summary>The microVMs to ask now.</summary>
    /// <param name="held">Those that are here.</param>
    /// <param name="now">On a clock that nobody sets.</param>
    /// <param name="forced">The deadline is over.</param>
    public IReadOnlyList<Reservation> Next(IReadOnlyCollection<Reservation> held, TimeSpan now, bool forced)
    {
        var here = held.Select(one => (one.VmId, one.Epoch)).ToHashSet();
        foreach (var gone in _asked.Keys.Where(key => !here.Contains(key)).ToList())
        {
            _asked.Remove(gone);
            _staying.Remove(gone);
        }

        Asked? Of(Reservation one) => _asked.GetValueOrDefault((one.VmId, one.Epoch));
        bool IsOpen(Reservation one) => Of(one) is { Open: true } asked && (asked.Forced || !forced);

        // One that takes its time keeps its turn, and hears again that it shall go.
        var again = held.Where(one => IsOpen(one) && now - Of(one)!.At >= Patience);
        var free = (forced ? MostForcedAtOnce : MostAtOnce) - held.Count(IsOpen);
        var next = held
            .Where(one => !IsOpen(one) && (Of(one) is not { } asked || asked.Forced != forced || now - asked.At >= AskAgain))
            // Those that were asked longest ago first, or a few that find no room would keep all others waiting.
            .OrderBy(one => Of(one)?.At ?? TimeSpan.MinValue)
            .Take(Math.Max(0, free))
            .Concat(again)
            .ToList();
        foreach (var one in next)
            _asked[(one.VmId, one.Epoch)] = new Asked(now, forced, Open: true);
        return next;
    }

    /// <summary>It moves (null), or stays for that reason.</summary>
    public void Answered(string vmId, ulong epoch, Reason? stays, TimeSpan now)
    {
        if (!_asked.TryGetValue((vmId, epoch), out var asked))
            return;
        _asked[(vmId, epoch)] = asked with { At = now, Open = stays is null };
        if (stays is null)
            _staying.Remove((vmId, epoch));
        else
            _staying[(vmId, epoch)] = stays;
    }
}
