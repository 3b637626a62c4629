using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Devices;

/// <summary>
/// A 16550A serial port that sends without delay. It does what Linux's 8250 driver looks for: FIFOs in the interrupt
/// identification, modem lines that mirror in loopback, a transmitter interrupt (without which everything that user space
/// writes vanishes while the kernel's own messages still appear).
/// </summary>
internal sealed class SerialPort : IPortDevice
{
    public const int PortCount = 8;

    /// <summary>Received bytes that wait for the guest: more than the 16 of the real chip, for fewer round trips.</summary>
    public const int ReceiveCapacity = 64;

    private const byte InterruptOnReceive = 1;
    private const byte InterruptOnTransmit = 2;
    private const byte DivisorAccess = 0x80;
    private const byte Loopback = 0x10;
    private const byte DataReady = 1;
    private const byte TransmitterEmpty = 0x60;

    /// <summary>Carrier, data set ready, clear to send.</summary>
    private const byte LinesUp = 0xb0;

    private readonly Lock _lock = new();
    private readonly IInterruptLine _interrupt;
    private readonly ByteSink _sink;
    private readonly Action? _onRoom;
    private readonly byte[] _received = new byte[ReceiveCapacity];
    private int _receivedStart;
    private int _receivedCount;
    private bool _inputWaits;
    private ulong _bytesIn;

    private byte _interruptEnable;
    private byte _lineControl = 3;
    private byte _modemControl = 8;
    private byte _scratch;
    private byte _divisorLow = 12;
    private byte _divisorHigh;
    private bool _fifos;
    private bool _transmitInterrupt;
    private bool _line;

    /// <param name="interrupt">Its interrupt.</param>
    /// <param name="sink">Takes what the guest sends.</param>
    /// <param name="onRoom">Called, on a vCPU's thread, when there is room again after <see cref="Receive"/> took less than it was given.</param>
    public SerialPort(IInterruptLine interrupt, ByteSink sink, Action? onRoom = null)
    {
        _interrupt = interrupt;
        _sink = sink;
        _onRoom = onRoom;
    }

    /// <summary>Bytes that the guest was given.</summary>
    public ulong BytesIn => Volatile.Read(ref _bytesIn);

    public ByteSink Sink => _sink;

    /// <summary>How many bytes <see cref="Receive"/> would take now; below 1, <c>onRoom</c> tells when to ask again.</summary>
    public int Room
    {
        get
        {
            lock (_lock)
            {
                var room = (_modemControl & Loopback) != 0 ? 0 : ReceiveCapacity - _receivedCount;
                _inputWaits |= room == 0;
                return room;
            }
        }
    }

    /// <summary>For a snapshot.</summary>
    public void Save(StateWriter state)
    {
        lock (_lock)
        {
            state.Bytes([_interruptEnable, _lineControl, _modemControl, _scratch, _divisorLow, _divisorHigh]);
            state.Flag(_fifos);
            state.Flag(_transmitInterrupt);
            state.Flag(_line);
            var received = new byte[_receivedCount];
            for (var i = 0; i < received.Length; i++)
            {
                received[i] = _received[(_receivedStart + i) % ReceiveCapacity];
            }

            state.Bytes(received);
        }
    }

    /// <summary>Takes up what <see cref="Save"/> put down. The interrupt's level is the controllers' state.</summary>
    public void Restore(ref StateReader state)
    {
        lock (_lock)
        {
            var registers = state.Bytes(6);
            (_interruptEnable, _lineControl, _modemControl) = (registers[0], registers[1], registers[2]);
            (_scratch, _divisorLow, _divisorHigh) = (registers[3], registers[4], registers[5]);
            (_fifos, _transmitInterrupt, _line) = (state.Flag(), state.Flag(), state.Flag());
            var received = state.Bytes();
            if (received.Length > ReceiveCapacity)
            {
                throw new SnapshotException("its serial port holds more than one can");
            }

            received.CopyTo(_received);
            (_receivedStart, _receivedCount) = (0, received.Length);
        }
    }

    /// <summary>Bytes from outside for the guest. Any thread. Never more than <see cref="Room"/> said.</summary>
    public void Receive(ReadOnlySpan<byte> bytes)
    {
        lock (_lock)
        {
            foreach (var value in bytes)
            {
                Enqueue(value);
            }

            Volatile.Write(ref _bytesIn, _bytesIn + (ulong)bytes.Length);
            UpdateInterrupt();
        }
    }

    public byte Read(int register)
    {
        lock (_lock)
        {
            switch (register)
            {
                case 0 when DivisorSelected:
                    return _divisorLow;
                case 0:
                    return ReadReceived();
                case 1:
                    return DivisorSelected ? _divisorHigh : _interruptEnable;
                case 2:
                    return ReadInterruptIdentification();
                case 3:
                    return _lineControl;
                case 4:
                    return _modemControl;
                case 5:
                    return (byte)(TransmitterEmpty | (_receivedCount > 0 ? DataReady : 0));
                case 6:
                    return ReadModemLines();
                default:
                    return _scratch;
            }
        }
    }

    public void Write(int register, ReadOnlySpan<byte> values)
    {
        if (values.IsEmpty)
        {
            return;
        }

        lock (_lock)
        {
            if (register == 0 && !DivisorSelected)
            {
                Transmit(values);
                return;
            }

            // Only the last of several values remains in a register.
            var value = values[^1];
            switch (register)
            {
                case 0:
                    _divisorLow = value;
                    break;
                case 1 when DivisorSelected:
                    _divisorHigh = value;
                    break;
                case 1:
                    // An empty transmitter interrupts as soon as it may.
                    _transmitInterrupt |= (value & ~_interruptEnable & InterruptOnTransmit) != 0;
                    _interruptEnable = (byte)(value & 0xf);
                    UpdateInterrupt();
                    break;
                case 2:
                    _fifos = (value & 1) != 0;
                    if ((value & 2) != 0)
                    {
                        _receivedCount = 0;
                        TellRoom();
                        UpdateInterrupt();
                    }

                    break;
                case 3:
                    _lineControl = value;
                    break;
                case 4:
                    _modemControl = (byte)(value & 0x1f);
                    TellRoom();
                    break;
                case 7:
                    _scratch = value;
                    break;
            }
        }
    }

    private bool DivisorSelected => (_lineControl & DivisorAccess) != 0;

    private void Transmit(ReadOnlySpan<byte> values)
    {
        if ((_modemControl & Loopback) != 0)
        {
            foreach (var value in values)
            {
                Enqueue(value);
            }
        }
        else
        {
            _sink.Write(values);
        }

        _transmitInterrupt = true;
        UpdateInterrupt();
    }

    private void Enqueue(byte value)
    {
        // Full, as when a guest in loopback sends more than it reads: the newest is lost, as in the chip.
        if (_receivedCount == ReceiveCapacity)
        {
            return;
        }

        _received[(_receivedStart + _receivedCount) % ReceiveCapacity] = value;
        _receivedCount++;
    }

    private byte ReadReceived()
    {
        if (_receivedCount == 0)
        {
            return 0;
        }

        var value = _received[_receivedStart];
        _receivedStart = (_receivedStart + 1) % ReceiveCapacity;
        _receivedCount--;
        if (_receivedCount <= ReceiveCapacity / 2)
        {
            TellRoom();
        }

        UpdateInterrupt();
        return value;
    }

    private byte ReadInterruptIdentification()
    {
        var fifoBits = _fifos ? 0xc0 : 0;
        if (ReceiveInterrupt)
        {
            return (byte)(fifoBits | 4);
        }

        if (TransmitInterrupt)
        {
            // The read that reports it ends it.
            _transmitInterrupt = false;
            UpdateInterrupt();
            return (byte)(fifoBits | 2);
        }

        return (byte)(fifoBits | 1);
    }

    private byte ReadModemLines()
    {
        if ((_modemControl & Loopback) == 0)
        {
            return LinesUp;
        }

        // In loopback the outputs come back as inputs: RTS as CTS, DTR as DSR, OUT1 as RI, OUT2 as DCD.
        return (byte)(((_modemControl & 2) << 3) | ((_modemControl & 1) << 5) | ((_modemControl & 4) << 4) | ((_modemControl & 8) << 4));
    }

    private bool ReceiveInterrupt => (_interruptEnable & InterruptOnReceive) != 0 && _receivedCount > 0;

    private bool TransmitInterrupt => (_interruptEnable & InterruptOnTransmit) != 0 && _transmitInterrupt;

    private void TellRoom()
    {
        if (_inputWaits)
        {
            _inputWaits = false;
            _onRoom?.Invoke();
        }
    }

    private void UpdateInterrupt()
    {
        var line = ReceiveInterrupt || TransmitInterrupt;
        if (line != _line)
        {
            _line = line;
            _interrupt.Set(line);
        }
    }
}
