using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>What a device that has descriptors of its own needs while its machine runs. Event loop only.</summary>
internal interface IDeviceHost
{
    EventLoop Loop { get; }

    /// <summary>
    /// Has <see cref="VirtioDevice.Process"/> called under the transport's lock. False when there is no driver (any more) or
    /// the queue is not enabled; a driver that gets ready has every queue processed by itself.
    /// </summary>
    bool Process(int queue);

    /// <summary>Tells the operator what the device goes on without.</summary>
    void Warn(string what);
}
