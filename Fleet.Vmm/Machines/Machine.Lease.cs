using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Machines;

/// <content>
/// The lease's end: each vCPU is stopped by a timer of its own, which needs neither the event loop nor the agent, and devices
/// look at the lease before they do something for the guest. The loop follows: it puts the machine in order, and ends it.
/// </content>
internal sealed partial class Machine
{
    private readonly List<ThreadTimer> _fences = [];
    private LoopTimer? _leaseTimer;

    // The guest stands still for want of a lease. Whether it is paused as well is another matter.
    private bool _fenced;

    public bool HasLeaseLapsed => _parts.Lease.HasLapsed;

    public void ObserveLease()
    {
        if (!_started || _finished)
        {
            return;
        }

        // Before the timer is set: one that stood is watched for the next lapse again, not for the end.
        var stood = _fenced;
        _fenced &= _parts.Lease.HasLapsed;
        ArmLease();
        if (_paused || _parts.Lease.HasLapsed)
        {
            return;
        }

        if (stood)
        {
            GoOn();
            _onWarning("The lease was made longer: the guest goes on.");
            return;
        }

        // It may have lapsed for a moment that this thread did not see.
        Command(VcpuOrder.Run);
        foreach (var slot in _parts.Virtio)
        {
            slot.Wake();
        }
    }

    public void LookAtLease()
    {
        if (_parts.Lease.IsLongOver)
        {
            _onStuck("The lease is over and the VMM's event loop hangs");
        }
    }

    private void ArmLease()
    {
        var lease = _parts.Lease;
        if (!lease.IsGiven)
        {
            return;
        }

        while (_fences.Count < _threads.Length)
        {
            _fences.Add(new ThreadTimer(_threads[_fences.Count], ThreadKick.Signal));
        }

        // Again and again: a vCPU that waits looks whether the event loop has done its part.
        foreach (var fence in _fences)
        {
            fence.Start(lease.LapsesAt, period: 1_000_000_000);
        }

        _leaseTimer ??= new LoopTimer(_loop, OnLease, KernelClock.Boot);
        AwaitLease();
    }

    private void AwaitLease() => _leaseTimer!.Start(
        TimeSpan.FromTicks(Math.Max(1, ((_fenced ? _parts.Lease.EndsAt : _parts.Lease.LapsesAt) - KernelClock.BootNow) / TimeSpan.NanosecondsPerTick)), TimeSpan.Zero);

    private void OnLease()
    {
        if (_finished)
        {
            return;
        }

        if (_parts.Lease.IsOver)
        {
            ReportEnd(new MachineEnd(MachineEndKind.LeaseOver, "The lease was not made longer in time: another copy of the microVM may run elsewhere."));
            return;
        }

        if (_parts.Lease.HasLapsed && !_fenced)
        {
            if (!_paused)
            {
                StandStill();
                _onWarning("The lease has lapsed: the guest stands still until it is made longer.");
            }

            _fenced = true;
        }

        AwaitLease();
    }

    private void DisarmLease()
    {
        foreach (var fence in _fences)
        {
            fence.Dispose();
        }

        _fences.Clear();
        _leaseTimer?.Dispose();
        _leaseTimer = null;
    }
}
