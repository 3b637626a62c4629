using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>
/// One virtio device of a machine: its registers, and its eventfds to and from the kernel. Notifications of the driver
/// come to the event loop; a vCPU does not wait for them to be served.
/// </summary>
internal sealed class VirtioSlot : IDisposable
{
    private readonly EventCounter _interrupt = new();
    private readonly EventCounter _complained = new();
    private readonly EventCounter[] _notifications;
    private readonly Action<string> _onComplaint;
    private string? _complaint;
    private EventLoop? _loop;

    /// <param name="device">What is behind the registers.</param>
    /// <param name="memory">The guest's.</param>
    /// <param name="onComplaint">Told, on the event loop, why the device needs a reset; of several complaints in a row the last.</param>
    /// <exception cref="SystemCallException">No descriptor is left.</exception>
    public VirtioSlot(VirtioDevice device, GuestMemory memory, Action<string> onComplaint)
    {
        Device = device;
        _onComplaint = onComplaint;
        _notifications = new EventCounter[device.QueueSizes.Count];
        for (var i = 0; i < _notifications.Length; i++)
        {
            _notifications[i] = new EventCounter();
        }

        Transport = new MmioTransport(device, memory, _interrupt.Signal, queue => _notifications[queue].Signal(), Complain);
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

    /// <summary>Begins to serve. What was asked for meanwhile comes at once.</summary>
    public void Attend(EventLoop loop)
    {
        _loop = loop;
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
                Transport.Process(queue);
            });
        }
    }

    /// <summary>Serves nothing until <see cref="Attend"/>: a paused guest's devices stand still.</summary>
    public void Leave()
    {
        _loop?.Remove(_complained.Descriptor);
        foreach (var notification in _notifications)
        {
            _loop?.Remove(notification.Descriptor);
        }

        _loop = null;
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

    private void Complain(string why)
    {
        Volatile.Write(ref _complaint, why);
        _complained.Signal();
    }
}

/// <summary>Where a device is: the boot tables and the command line tell the guest.</summary>
internal readonly record struct VirtioPlace(ulong Address, uint Gsi);
