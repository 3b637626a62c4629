using Fleet.Vmm.Fencing;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>
/// One virtio device of a machine: its registers, and its eventfds to and from the kernel. Notifications of the driver
/// come to the event loop; a vCPU does not wait for them to be served.
/// </summary>
internal sealed class VirtioSlot : IDeviceHost, IDisposable
{
    private readonly EventCounter _interrupt = new();
    private readonly EventCounter _complained = new();
    private readonly EventCounter[] _notifications;
    private readonly LoopTimer?[] _retries;
    private readonly Action<string> _onComplaint;
    private readonly Lease? _lease;
    private string? _complaint;
    private EventLoop? _loop;

    /// <param name="device">What is behind the registers.</param>
    /// <param name="memory">The guest's.</param>
    /// <param name="onComplaint">Told, on the event loop, why the device needs a reset; of several complaints in a row the last.</param>
    /// <param name="lease">While it has lapsed nothing is done for the guest; null: that never is.</param>
    /// <exception cref="SystemCallException">No descriptor is left.</exception>
    public VirtioSlot(VirtioDevice device, GuestMemory memory, Action<string> onComplaint, Lease? lease = null)
    {
        _lease = lease;
        Device = device;
        _onComplaint = onComplaint;
        _notifications = new EventCounter[device.QueueSizes.Count];
        for (var i = 0; i < _notifications.Length; i++)
        {
            _notifications[i] = new EventCounter();
        }

        _retries = new LoopTimer?[_notifications.Length];
        Transport = new MmioTransport(device, memory, _interrupt.Signal, Again, Complain);
    }

    public VirtioDevice Device { get; }

    /// <summary>For the memory bus.</summary>
    public MmioTransport Transport { get; }

    /// <summary>Connects registers at an address and the interrupt with the kernel. Before the first vCPU runs.</summary>
    public void Wire(KvmVm vm, ulong address, uint gsi)
    {
        vm.BindInterrupt(gsi, _interrupt.Descriptor);
        for (var i = 0; i < _notifications.Length; i++)
        {
            vm.BindNotification(address + MmioTransport.NotifyRegister, (uint)i, _notifications[i].Descriptor);
        }
    }

    public EventLoop Loop => _loop ?? throw new InvalidOperationException("the device's machine stands still");

    // What a guest asked for before its lease lapsed is not done afterwards; Wake is called when there is a new one.
    public bool Process(int queue) => _lease is not { HasLapsed: true } && Transport.Process(queue);

    public void Warn(string what) => _onComplaint(what);

    /// <summary>Begins to serve. What was asked for meanwhile comes at once.</summary>
    public void Attend(EventLoop loop)
    {
        _loop = loop;
        Device.Attend(this);
        loop.Add(_complained.Descriptor, () =>
        {
            _complained.Clear();
            if (Interlocked.Exchange(ref _complaint, null) is { } complaint)
            {
                _onComplaint(complaint);
            }
        });
        for (var i = 0; i < _notifications.Length; i++)
        {
            var queue = i;
            loop.Add(_notifications[i].Descriptor, () =>
            {
                _notifications[queue].Clear();
                _ = Process(queue);
            });

            // Frames and the like may have come from the host meanwhile.
            _notifications[i].Signal();
        }
    }

    /// <summary>Serves nothing until <see cref="Attend"/>: a paused guest's devices stand still.</summary>
    public void Leave()
    {
        if (_loop is not null)
        {
            Device.Leave();
        }

        _loop?.Remove(_complained.Descriptor);
        for (var i = 0; i < _notifications.Length; i++)
        {
            _loop?.Remove(_notifications[i].Descriptor);
            if (_retries[i] is { } retry)
            {
                // Whoever waited for it looks again when there is a loop again.
                retry.Dispose();
                _retries[i] = null;
                _notifications[i].Signal();
            }
        }

        _loop = null;
    }

    /// <summary>Has every queue looked at again: what they waited for may have changed.</summary>
    public void Wake()
    {
        foreach (var notification in _notifications)
        {
            notification.Signal();
        }
    }

    public void Dispose()
    {
        Leave();
        (Device as IDisposable)?.Dispose();
        _interrupt.Dispose();
        _complained.Dispose();
        foreach (var notification in _notifications)
        {
            notification.Dispose();
        }
    }

    // A vCPU's thread comes here too, but never with a wait: timers are the loop's.
    private void Again(int queue, TimeSpan wait)
    {
        if (wait == TimeSpan.Zero || _loop is not { } loop)
        {
            _notifications[queue].Signal();
            return;
        }

        var retry = _retries[queue] ??= new LoopTimer(loop, _notifications[queue].Signal);
        retry.Start(wait, TimeSpan.Zero);
    }

    private void Complain(string why)
    {
        Volatile.Write(ref _complaint, why);
        _complained.Signal();
    }
}

/// <summary>Where a device is: the boot tables and the command line tell the guest.</summary>
internal readonly record struct VirtioPlace(ulong Address, uint Gsi);
