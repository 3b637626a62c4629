using Fleet.Shared.Contracts;

namespace Fleet.Host.Fencing;

/// <summary>Until when this host's guests may run, and when a VMM that waits for more ends; since the machine was switched on (CLOCK_BOOTTIME).</summary>
/// <param name="LapsesAt">From then on no guest runs.</param>
/// <param name="EndsAt">Not before.</param>
public sealed record VmmLease(TimeSpan LapsesAt, TimeSpan EndsAt)
{
    // What the control plane says is bounded as everything that comes from outside; its own default is 20 s.
    private static readonly TimeSpan Longest = TimeSpan.FromHours(1);
    private static readonly TimeSpan LongestWait = TimeSpan.FromDays(1);

    /// <summary>What a grant means here.</summary>
    /// <param name="grant">The control plane's word.</param>
    /// <param name="asked">When this host sent what it answers: the control plane counts from a later moment, so that it never ends first there.</param>
    public static VmmLease Of(Lease grant, TimeSpan asked)
    {
        var lapses = asked + Least(TimeSpan.FromMilliseconds(grant.LifetimeMs), Longest);
        return new VmmLease(lapses, lapses + Least(TimeSpan.FromMilliseconds(grant.EndsAfterMs), LongestWait));
    }

    private static TimeSpan Least(TimeSpan one, TimeSpan other) => one < other ? one : other;
}

/// <summary>The lease that this host has now. Set by the agent's actor, read by launches on other threads.</summary>
internal sealed class CurrentLease
{
    private volatile VmmLease? _lease;

    /// <summary>Null: the host has none, or needs none.</summary>
    public VmmLease? Now => _lease;

    /// <summary>Takes one that lasts longer; false when it does not.</summary>
    public bool Take(VmmLease lease)
    {
        if (_lease is { } held && lease.LapsesAt <= held.LapsesAt)
            return false;
        _lease = lease;
        return true;
    }
}
