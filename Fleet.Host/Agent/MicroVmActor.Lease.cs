using Akka.Actor;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Fencing;
using Fleet.Shared.Vms;

namespace Fleet.Host.Agent;

/// <summary>The host's lease, passed on to the VMM. Where the VMM can't hold it, this actor ends the VMM when it lapses.</summary>
internal sealed partial class MicroVmActor
{
    /// <summary>A VMM that does not answer keeps the lease that it has; the next one comes in a moment.</summary>
    private static readonly TimeSpan LeasePatience = TimeSpan.FromSeconds(5);

    private VmmLease? _lease;
    private bool _passing;
    private bool _awaitsLease;
    private bool _watchesLease;
    private ITimer? _leaseTimer;

    /// <summary>The host's lease was made longer. Not sent to a microVM that may not stay.</summary>
    public sealed record Renew(VmmLease Lease) : INoSerializationVerificationNeeded;

    /// <param name="Lease">What was passed on.</param>
    /// <param name="Held">False: the VMM can't stop by itself. Null: it did not answer.</param>
    private sealed record LeasePassed(VmmLease Lease, bool? Held) : INoSerializationVerificationNeeded;

    private sealed record LeaseLapsed : INoSerializationVerificationNeeded;

    // One that may run twice has no lease, and so runs on whatever becomes of the host's.
    private bool IsFenced => _record.Launch.Spec.Fencing != FencingPolicy.Relaxed;

    private void OnRenew(VmmLease lease)
    {
        if (!IsFenced)
            return;
        _lease = lease;
        SettleAwaited();
        PassLease();
    }

    /// <summary>A found microVM without a VMM waited for the first lease; it has come, or none is needed any more.</summary>
    private void SettleAwaited()
    {
        if (!_awaitsLease)
            return;
        _awaitsLease = false;
        Carry(_life.NothingToAdopt());
    }

    private void PassLease()
    {
        if (_lease is { } lease && _vmm is { } vmm && _life.HasVmm && !_passing)
        {
            _passing = true;
            _context.Work.Track(PassAsync(vmm, lease)).PipeTo(Self);
        }
    }

    private void OnPassed(LeasePassed passed)
    {
        _passing = false;
        _watchesLease |= passed.Held == false;
        if (_watchesLease)
            WatchLease();
        if (_lease != passed.Lease)
            PassLease();
    }

    private void WatchLease()
    {
        var self = Self;
        var left = _lease!.LapsesAt - Posix.BootTime;
        _leaseTimer?.Dispose();
        _leaseTimer = _context.Clock.CreateTimer(
            _ => self.Tell(new LeaseLapsed()), null, left > TimeSpan.Zero ? left : TimeSpan.Zero, Timeout.InfiniteTimeSpan);
    }

    private void OnLapsed()
    {
        if (Posix.BootTime < _lease!.LapsesAt)
            WatchLease();
        else
            Carry(_life.LeaseLapsed());
    }

    private async Task<LeasePassed> PassAsync(IVmm vmm, VmmLease lease)
    {
        try
        {
            using var patience = new CancellationTokenSource(LeasePatience, _context.Clock);
            return new LeasePassed(lease, await vmm.HoldLeaseAsync(lease, patience.Token).ConfigureAwait(false));
        }
        catch (Exception failed) when (failed is not OutOfMemoryException)
        {
            if (!vmm.Completion.IsCompleted)
                _log.Warning("The VMM does not take the lease and stops the guest when the one it has lapses: {Why}", failed.Message);
            return new LeasePassed(lease, null);
        }
    }
}
