using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Devices;

/// <summary>
/// The i8042 with a keyboard and without a mouse. It is how the guest resets the machine (0xFE to port 0x64) and how
/// Ctrl-Alt-Del gets in. It answers every command at once that Linux sends while it looks for it; each one left
/// unanswered would cost the guest half a second.
/// </summary>
internal sealed class KeyboardController(IInterruptLine interrupt, Action onReset)
{
    // Status register.
    private const byte OutputFull = 1;
    private const byte SelfTestPassed = 4;
    private const byte CommandLast = 8;
    private const byte KeyLockOpen = 0x10;

    // Command byte.
    private const byte KeyboardInterrupt = 1;
    private const byte SystemFlag = 4;
    private const byte KeyboardDisabled = 0x10;
    private const byte MouseDisabled = 0x20;
    private const byte Translate = 0x40;

    private const byte Acknowledge = 0xfa;
    private const byte Resend = 0xfe;

    /// <summary>Answers and key strokes that wait; a guest that does not read loses the newest.</summary>
    private const int Capacity = 32;

    private readonly Lock _lock = new();
    private readonly byte[] _queue = new byte[Capacity];
    private int _start;
    private int _count;
    private byte _commandByte = KeyboardInterrupt | SystemFlag | MouseDisabled;
    private byte _outputPort = 0xcf;
    private byte _controllerCommand;
    private byte _keyboardCommand;
    private bool _scanning = true;
    private bool _lastWasCommand;
    private ulong _resets;

    // Left Ctrl, left Alt, Delete as pressed keys, by the keyboard's own set 2 and as the controller translates it to set 1.
    private static ReadOnlySpan<byte> CtrlAltDel => [0x14, 0x11, 0xe0, 0x71];

    private static ReadOnlySpan<byte> CtrlAltDelTranslated => [0x1d, 0x38, 0xe0, 0x53];

    /// <summary>How often the guest pulled the reset line.</summary>
    public ulong Resets => Volatile.Read(ref _resets);

    /// <summary>The register at port 0x60.</summary>
    public IPortDevice DataPort => field ??= new Register(this, false);

    /// <summary>The register at port 0x64.</summary>
    public IPortDevice CommandPort => field ??= new Register(this, true);

    /// <summary>For a snapshot.</summary>
    public void Save(StateWriter state)
    {
        lock (_lock)
        {
            state.Bytes([_commandByte, _outputPort, _controllerCommand, _keyboardCommand]);
            state.Flag(_scanning);
            state.Flag(_lastWasCommand);
            var queued = new byte[_count];
            for (var i = 0; i < queued.Length; i++)
            {
                queued[i] = _queue[(_start + i) % Capacity];
            }

            state.Bytes(queued);
        }
    }

    /// <summary>Takes up what <see cref="Save"/> put down.</summary>
    public void Restore(ref StateReader state)
    {
        lock (_lock)
        {
            var registers = state.Bytes(4);
            (_commandByte, _outputPort, _controllerCommand, _keyboardCommand) = (registers[0], registers[1], registers[2], registers[3]);
            (_scanning, _lastWasCommand) = (state.Flag(), state.Flag());
            var queued = state.Bytes();
            if (queued.Length > Capacity)
            {
                throw new SnapshotException("its keyboard holds more than one can");
            }

            queued.CopyTo(_queue);
            (_start, _count) = (0, queued.Length);
        }
    }

    /// <summary>Presses the three keys. False when the guest has the keyboard switched off or does not read what was typed before.</summary>
    public bool SendCtrlAltDel()
    {
        lock (_lock)
        {
            if (!_scanning || (_commandByte & KeyboardDisabled) != 0 || _count + CtrlAltDel.Length > Capacity)
            {
                return false;
            }

            foreach (var code in (_commandByte & Translate) != 0 ? CtrlAltDelTranslated : CtrlAltDel)
            {
                Answer(code);
            }

            return true;
        }
    }

    private byte ReadStatus()
    {
        lock (_lock)
        {
            return (byte)(KeyLockOpen | SelfTestPassed | (_lastWasCommand ? CommandLast : 0) | (_count > 0 ? OutputFull : 0));
        }
    }

    private byte ReadData()
    {
        lock (_lock)
        {
            if (_count == 0)
            {
                return 0;
            }

            var value = _queue[_start];
            _start = (_start + 1) % Capacity;
            _count--;
            if (_count > 0)
            {
                RaiseInterrupt();
            }

            return value;
        }
    }

    private void WriteCommand(byte command)
    {
        lock (_lock)
        {
            _lastWasCommand = true;
            _controllerCommand = 0;
            switch (command)
            {
                case 0x20:
                    Answer(_commandByte);
                    break;
                case 0x60 or 0xd1 or 0xd2 or 0xd3 or 0xd4:
                    // They take a byte at the data port.
                    _controllerCommand = command;
                    break;
                case 0xa7:
                    _commandByte |= MouseDisabled;
                    break;
                case 0xa8:
                    _commandByte = (byte)(_commandByte & ~MouseDisabled);
                    break;
                case 0xa9:
                    // Mouse port: clock line stuck. Nobody there.
                    Answer(1);
                    break;
                case 0xaa:
                    Answer(0x55);
                    break;
                case 0xab:
                    Answer(0);
                    break;
                case 0xad:
                    _commandByte |= KeyboardDisabled;
                    break;
                case 0xae:
                    _commandByte = (byte)(_commandByte & ~KeyboardDisabled);
                    break;
                case 0xc0:
                    Answer(0);
                    break;
                case 0xd0:
                    Answer(_outputPort);
                    break;
                case >= 0xf0 when (command & 1) == 0:
                    // Pulses the lines whose bits are 0; bit 0 is the processor's reset.
                    Volatile.Write(ref _resets, _resets + 1);
                    onReset();
                    break;
            }
        }
    }

    private void WriteData(byte value)
    {
        lock (_lock)
        {
            _lastWasCommand = false;
            var command = _controllerCommand;
            _controllerCommand = 0;
            switch (command)
            {
                case 0x60:
                    _commandByte = value;
                    if (_count > 0)
                    {
                        RaiseInterrupt();
                    }

                    break;
                case 0xd1:
                    _outputPort = value;
                    if ((value & 1) == 0)
                    {
                        Volatile.Write(ref _resets, _resets + 1);
                        onReset();
                    }

                    break;
                case 0xd2:
                    Answer(value);
                    break;
                case 0xd3:
                    // Mouse loop-back without a mouse: the byte does not come back changed, but it comes, so that nobody waits.
                    Answer(0);
                    break;
                case 0xd4:
                    Answer(Resend);
                    break;
                default:
                    WriteToKeyboard(value);
                    break;
            }
        }
    }

    private void WriteToKeyboard(byte value)
    {
        if (_keyboardCommand != 0)
        {
            // The argument of the command before. Asked for its scan code set (0), the keyboard says 2.
            var asked = _keyboardCommand == 0xf0 && value == 0;
            _keyboardCommand = 0;
            Answer(Acknowledge);
            if (asked)
            {
                Answer(2);
            }

            return;
        }

        switch (value)
        {
            case 0xee:
                Answer(0xee);
                break;
            case 0xed or 0xf0 or 0xf3:
                _keyboardCommand = value;
                Answer(Acknowledge);
                break;
            case 0xf2:
                Answer(Acknowledge);
                Answer(0xab);
                Answer(0x83);
                break;
            case 0xf4:
                _scanning = true;
                Answer(Acknowledge);
                break;
            case 0xf5:
                _scanning = false;
                Answer(Acknowledge);
                break;
            case 0xf6:
                _scanning = true;
                Answer(Acknowledge);
                break;
            case 0xff:
                _scanning = true;
                Answer(Acknowledge);
                Answer(0xaa);
                break;
            default:
                Answer(Acknowledge);
                break;
        }
    }

    private void Answer(byte value)
    {
        if (_count < Capacity)
        {
            _queue[(_start + _count) % Capacity] = value;
            _count++;
            if (_count == 1)
            {
                RaiseInterrupt();
            }
        }
    }

    // Edge-triggered: one pulse for each byte that becomes readable.
    private void RaiseInterrupt()
    {
        if ((_commandByte & KeyboardInterrupt) != 0)
        {
            interrupt.Set(true);
            interrupt.Set(false);
        }
    }

    private sealed class Register(KeyboardController controller, bool command) : IPortDevice
    {
        byte IPortDevice.Read(int register) => command ? controller.ReadStatus() : controller.ReadData();

        void IPortDevice.Write(int register, ReadOnlySpan<byte> values)
        {
            foreach (var value in values)
            {
                if (command)
                {
                    controller.WriteCommand(value);
                }
                else
                {
                    controller.WriteData(value);
                }
            }
        }
    }
}
