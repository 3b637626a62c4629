using System.Buffers.Binary;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>
/// The registers of virtio over memory-mapped I/O, version 2 (virtio 1.2, §4.2). The driver must go through the device's
/// status in order; what comes out of order is ignored.
/// </summary>
/// <remarks>
/// Registers are read and written by vCPU threads, queues are worked on by the event loop: one lock for both. Interrupt
/// status stands outside of it, so that an interrupt handler never waits for a disk.
/// </remarks>
internal sealed class MmioTransport : IMemoryDevice
{
    /// <summary>Bytes of registers and configuration space.</summary>
    public const ulong Size = 0x1000;

    /// <summary>Where the driver writes the number of a queue with new requests; the kernel may take it by an ioeventfd.</summary>
    public const ulong NotifyRegister = 0x50;

    private const uint Magic = 0x74726976;
    private const uint Version = 2;
    private const int ConfigurationSpace = 0x100;

    private const uint Acknowledged = 1;
    private const uint DriverKnown = 2;
    private const uint DriverReady = 4;
    private const uint FeaturesAgreed = 8;
    private const uint NeedsReset = 64;
    private const uint Failed = 128;

    private const uint QueueInterrupt = 1;
    private const uint ConfigurationInterrupt = 2;

    private readonly Lock _gate = new();
    private readonly VirtioDevice _device;
    private readonly VirtQueue[] _queues;
    private readonly Action _raise;
    private readonly Action<int, TimeSpan> _again;
    private readonly Action<string> _complain;
    private uint _status;
    private uint _deviceFeaturesPage;
    private uint _driverFeaturesPage;
    private ulong _driverFeatures;
    private uint _selectedQueue;
    private uint _configurationGeneration;
    private uint _interruptStatus;
    private bool _processes;
    private bool _owesInterrupt;

    /// <param name="device">What is behind it.</param>
    /// <param name="memory">The guest's.</param>
    /// <param name="raise">Raises the device's interrupt; any thread.</param>
    /// <param name="again">Has <see cref="Process"/> called once more for a queue, after so long.</param>
    /// <param name="complain">Told why a device needs a reset; any thread.</param>
    public MmioTransport(VirtioDevice device, GuestMemory memory, Action raise, Action<int, TimeSpan> again, Action<string> complain)
    {
        _device = device;
        _raise = raise;
        _again = again;
        _complain = complain;
        _queues = new VirtQueue[device.QueueSizes.Count];
        for (var i = 0; i < _queues.Length; i++)
        {
            _queues[i] = new VirtQueue(memory, device.QueueSizes[i]);
        }

        device.Queues = _queues;
        device.Interrupt = Interrupt;
    }

    // The driver is ready, and nothing broke since.
    private bool Active => (_status & (DriverReady | NeedsReset | Failed)) == DriverReady;

    /// <summary>Works on a queue, after a notification; false while the driver is not ready, or has not enabled it.</summary>
    public bool Process(int queue)
    {
        lock (_gate)
        {
            if (!Active || (uint)queue >= (uint)_queues.Length || !_queues[queue].IsEnabled)
            {
                return false;
            }

            _processes = true;
            try
            {
                if (_device.Process(queue) is { } wait)
                {
                    _again(queue, wait);
                }

                return true;
            }
            catch (DeviceBrokenException broken)
            {
                Break(broken.Message);
                return false;
            }
            finally
            {
                _processes = false;
                if (_owesInterrupt)
                {
                    _owesInterrupt = false;
                    Raise(QueueInterrupt);
                }
            }
        }
    }

    /// <summary>Tells the driver that the configuration space changed, by <paramref name="change"/>.</summary>
    public void ChangeConfiguration(Action change)
    {
        lock (_gate)
        {
            change();
            _configurationGeneration++;
            if (Active)
            {
                Raise(ConfigurationInterrupt);
            }
        }
    }

    /// <summary>Changes what the event loop works with, such as a limiter, while no queue is worked on.</summary>
    public void Change(Action change)
    {
        lock (_gate)
        {
            change();
        }
    }

    public void Read(ulong offset, Span<byte> data)
    {
        data.Clear();
        if (offset >= ConfigurationSpace)
        {
            lock (_gate)
            {
                var space = _device.Configuration;
                var at = (int)(offset - ConfigurationSpace);
                if (at < space.Length)
                {
                    space[at..Math.Min(space.Length, at + data.Length)].CopyTo(data);
                }
            }

            return;
        }

        // Registers are four bytes wide; anything else reads as zeros.
        if (data.Length == sizeof(uint) && offset % sizeof(uint) == 0)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(data, ReadRegister(offset));
        }
    }

    public void Write(ulong offset, ReadOnlySpan<byte> data)
    {
        if (offset >= ConfigurationSpace)
        {
            lock (_gate)
            {
                if ((_status & (DriverKnown | Failed | NeedsReset)) == DriverKnown)
                {
                    _device.WriteConfiguration((int)(offset - ConfigurationSpace), data);
                }
            }

            return;
        }

        if (data.Length == sizeof(uint) && offset % sizeof(uint) == 0)
        {
            WriteRegister(offset, BinaryPrimitives.ReadUInt32LittleEndian(data));
        }
    }

    /// <summary>Registers, queues, and what the device wants to keep.</summary>
    public void Save(StateWriter writer)
    {
        lock (_gate)
        {
            // The device first: one that finishes its requests for this moves the queues on.
            writer.U32(_device.Id);
            writer.Block(_device.Save);
            writer.U32(_status);
            writer.U32(_deviceFeaturesPage);
            writer.U32(_driverFeaturesPage);
            writer.U64(_driverFeatures);
            writer.U32(_selectedQueue);
            writer.U32(_configurationGeneration);
            writer.U32(Volatile.Read(ref _interruptStatus));
            writer.U32((uint)_queues.Length);
            foreach (var queue in _queues)
            {
                queue.Save(writer);
            }
        }
    }

    /// <summary>Once, before the guest runs. Interrupts and notifications that were on the way come again: see <see cref="Wake"/>.</summary>
    /// <exception cref="SnapshotException">The state is none, or another device's.</exception>
    public void Restore(ref StateReader reader)
    {
        lock (_gate)
        {
            var id = reader.U32();
            if (id != _device.Id)
            {
                throw new SnapshotException($"the state of virtio device {id} stands where the configuration has device {_device.Id}");
            }

            var own = new StateReader(reader.Block());
            _status = reader.U32();
            _deviceFeaturesPage = reader.U32();
            _driverFeaturesPage = reader.U32();
            _driverFeatures = reader.U64();
            _selectedQueue = reader.U32();
            _configurationGeneration = reader.U32();
            _interruptStatus = reader.U32();
            if (reader.U32() != _queues.Length)
            {
                throw new SnapshotException($"virtio device {id} has {_queues.Length} queues, its state another number");
            }

            foreach (var queue in _queues)
            {
                queue.Restore(ref reader);
            }

            if ((_status & FeaturesAgreed) != 0 && (_driverFeatures & ~_device.Features) != 0)
            {
                throw new SnapshotException($"the guest uses features 0x{_driverFeatures & ~_device.Features:x} of virtio device {id} that it does not have here");
            }

            if ((_status & DriverReady) != 0)
            {
                _device.Activate(_driverFeatures);
            }

            if (_device.Restore(ref own))
            {
                _configurationGeneration++;
                _interruptStatus |= Active ? ConfigurationInterrupt : 0;
            }

            own.End($"what virtio device {id} keeps");
        }
    }

    /// <summary>
    /// After <see cref="Restore"/>, before the guest runs: raises an interrupt that was not acknowledged once more, and looks at
    /// every queue. Neither is kept in a snapshot once it has left the process for the kernel, and one too many does no harm.
    /// </summary>
    public void Wake()
    {
        if (Volatile.Read(ref _interruptStatus) != 0)
        {
            _raise();
        }

        for (var i = 0; i < _queues.Length; i++)
        {
            _again(i, TimeSpan.Zero);
        }
    }

    private uint ReadRegister(ulong offset)
    {
        if (offset == 0x60)
        {
            return Volatile.Read(ref _interruptStatus);
        }

        lock (_gate)
        {
            return offset switch
            {
                0x00 => Magic,
                0x04 => Version,
                0x08 => _device.Id,
                0x0c => 0,
                0x10 => _deviceFeaturesPage switch
                {
                    0 => (uint)_device.Features,
                    1 => (uint)(_device.Features >> 32),
                    _ => 0,
                },
                0x34 => Selected?.MaxSize ?? 0u,
                0x44 => Selected is { IsEnabled: true } ? 1u : 0u,
                0x70 => _status,

                // No shared memory: a length of all ones says that there is none.
                0xb0 or 0xb4 or 0xb8 or 0xbc => uint.MaxValue,
                0xfc => _configurationGeneration,
                _ => 0,
            };
        }
    }

    private void WriteRegister(ulong offset, uint value)
    {
        if (offset == 0x64)
        {
            Interlocked.And(ref _interruptStatus, ~value);
            return;
        }

        if (offset == NotifyRegister)
        {
            // The kernel takes it by an ioeventfd as a rule. Queues are the event loop's in any case.
            if (value < (uint)_queues.Length)
            {
                _again((int)value, TimeSpan.Zero);
            }

            return;
        }

        lock (_gate)
        {
            switch (offset)
            {
                case 0x14:
                    _deviceFeaturesPage = value;
                    break;
                case 0x20 when (_status & (DriverKnown | FeaturesAgreed)) == DriverKnown:
                    _driverFeatures = _driverFeaturesPage switch
                    {
                        0 => (_driverFeatures & 0xffffffff_00000000) | value,
                        1 => (_driverFeatures & uint.MaxValue) | ((ulong)value << 32),
                        _ => _driverFeatures,
                    };
                    break;
                case 0x24:
                    _driverFeaturesPage = value;
                    break;
                case 0x30:
                    _selectedQueue = value;
                    break;
                case 0x70:
                    WriteStatus(value);
                    break;

                // A queue is set up between the agreement on features and the driver's word that it is ready.
                case >= 0x38 and <= 0xa4 when (_status & (FeaturesAgreed | DriverReady)) == FeaturesAgreed && Selected is { } queue:
                    SetUp(queue, offset, value);
                    break;
            }
        }
    }

    private VirtQueue? Selected => _selectedQueue < (uint)_queues.Length ? _queues[_selectedQueue] : null;

    private void SetUp(VirtQueue queue, ulong offset, uint value)
    {
        if (offset == 0x44)
        {
            if (value == 1)
            {
                queue.UsesEventIndex = (_driverFeatures & VirtioDevice.EventIndex) != 0;
                queue.UsesIndirect = (_driverFeatures & VirtioDevice.IndirectDescriptors) != 0;
                if (!queue.Enable())
                {
                    _complain($"virtio device {_device.Id}: queue {_selectedQueue} is not set up in the guest's memory, or its size is none");
                }
            }

            return;
        }

        if (queue.IsEnabled)
        {
            return;
        }

        switch (offset)
        {
            case 0x38:
                queue.Size = (ushort)Math.Min(value, ushort.MaxValue);
                break;
            case 0x80:
                queue.DescriptorTable = Low(queue.DescriptorTable, value);
                break;
            case 0x84:
                queue.DescriptorTable = High(queue.DescriptorTable, value);
                break;
            case 0x90:
                queue.AvailableRing = Low(queue.AvailableRing, value);
                break;
            case 0x94:
                queue.AvailableRing = High(queue.AvailableRing, value);
                break;
            case 0xa0:
                queue.UsedRing = Low(queue.UsedRing, value);
                break;
            case 0xa4:
                queue.UsedRing = High(queue.UsedRing, value);
                break;
        }
    }

    private void WriteStatus(uint value)
    {
        if (value == 0)
        {
            Reset();
            return;
        }

        if ((value & Failed) != 0)
        {
            _status |= Failed;
            return;
        }

        // One step at a time, each with all the bits before it.
        switch (_status, value)
        {
            case (0, Acknowledged):
            case (Acknowledged, Acknowledged | DriverKnown):
                _status = value;
                break;
            case (Acknowledged | DriverKnown, Acknowledged | DriverKnown | FeaturesAgreed):
                // Refused by leaving the bit unset: the driver reads it back.
                if ((_driverFeatures & ~_device.Features) == 0 && (_driverFeatures & VirtioDevice.Version1) != 0)
                {
                    _status = value;
                }

                break;
            case (Acknowledged | DriverKnown | FeaturesAgreed, Acknowledged | DriverKnown | FeaturesAgreed | DriverReady):
                _status = value;
                _device.Activate(_driverFeatures);
                for (var i = 0; i < _queues.Length; i++)
                {
                    _again(i, TimeSpan.Zero);
                }

                break;
        }
    }

    private void Reset()
    {
        _device.Reset();
        for (var i = 0; i < _queues.Length; i++)
        {
            _device.LimiterOf(i)?.Forget();
            _queues[i].Reset();
        }

        _status = 0;
        _driverFeatures = 0;
        _deviceFeaturesPage = _driverFeaturesPage = _selectedQueue = 0;
        Volatile.Write(ref _interruptStatus, 0);
    }

    private void Break(string why)
    {
        _status |= NeedsReset;
        Raise(ConfigurationInterrupt);
        _complain($"virtio device {_device.Id} needs a reset: {why}");
    }

    // One for all that a turn of the device did, on whatever queues: each takes the vCPU out of the guest.
    private void Interrupt()
    {
        if (_processes)
        {
            _owesInterrupt = true;
        }
        else
        {
            Raise(QueueInterrupt);
        }
    }

    private void Raise(uint kind)
    {
        Interlocked.Or(ref _interruptStatus, kind);
        _raise();
    }

    private static ulong Low(ulong old, uint value) => (old & 0xffffffff_00000000) | value;

    private static ulong High(ulong old, uint value) => (old & uint.MaxValue) | ((ulong)value << 32);
}
