namespace Fleet.Vmm.Devices.Virtio.Vsock;

/// <summary>What a packet of the guest means to its connection.</summary>
internal enum VsockVerdict
{
    /// <summary>Nothing to do; there may be something to send.</summary>
    Noted,

    /// <summary>The guest has taken the connection that the host asked for.</summary>
    Connected,

    /// <summary>Its payload is for the host.</summary>
    Data,

    /// <summary>The guest sends or takes no more: see <see cref="VsockFlow.GuestShut"/>.</summary>
    GuestShut,

    /// <summary>The connection is over; nothing is sent.</summary>
    Ended,

    /// <summary>The guest broke the rules: the connection is over, and it is told so.</summary>
    Refused,
}

/// <summary>
/// One connection's state and credit, without its sockets: what the guest's packets do to it, and what has to be sent. The
/// guest promises room in its buffer and is promised room in ours; neither may send more (virtio 1.2, §5.10.6.3).
/// </summary>
internal sealed class VsockFlow
{
    /// <summary>The least of <see cref="BufferSize"/>.</summary>
    public const uint SmallBuffer = 64 * 1024;

    private State _state;
    private Due _due;
    private uint _guestBuffer;
    private uint _guestForwarded;
    private uint _sent;
    private uint _received;
    private uint _forwarded;
    private uint _told;

    private VsockFlow(State state, Due due, uint bufferSize)
    {
        _state = state;
        _due = due;
        BufferSize = bufferSize;
    }

    private enum State
    {
        Asking,
        Asked,
        Accepting,
        Connected,
        Ended,
    }

    [Flags]
    private enum Due
    {
        None = 0,
        Reset = 1,
        Request = 2,
        Response = 4,
        Shutdown = 8,
        Credit = 16,
    }

    /// <summary>Bytes of the guest that are kept at most while the host does not read.</summary>
    public uint BufferSize { get; }

    /// <summary>What the guest has said that it does no more.</summary>
    public VsockShutdown GuestShut { get; private set; }

    /// <summary>What the guest was, or is to be, told that the host does no more.</summary>
    public VsockShutdown HostShut { get; private set; }

    public bool IsConnected => _state == State.Connected;

    public bool HasEnded => _state == State.Ended;

    /// <summary>A packet without payload is to be sent.</summary>
    public bool HasDue => _due != Due.None;

    /// <summary>Bytes that may be sent to the guest now.</summary>
    public uint Credit
    {
        get
        {
            var under = _sent - _guestForwarded;
            return _state != State.Connected || (GuestShut & VsockShutdown.ReceivesNoMore) != 0 || (HostShut & VsockShutdown.SendsNoMore) != 0 || under > _guestBuffer
                ? 0
                : _guestBuffer - under;
        }
    }

    /// <summary>Bytes of the guest that the host has not taken yet.</summary>
    public uint Held => _received - _forwarded;

    /// <summary>A host's client wants to talk to the guest.</summary>
    public static VsockFlow FromHost(uint bufferSize = SmallBuffer) => new(State.Asking, Due.Request, bufferSize);

    /// <summary>The guest's request was taken by a host's program.</summary>
    public static VsockFlow FromGuest(in VsockHeader request, uint bufferSize = SmallBuffer)
    {
        var flow = new VsockFlow(State.Accepting, Due.Response, bufferSize);
        flow.NoteCredit(request);
        return flow;
    }

    /// <summary>A packet came that belongs to this connection.</summary>
    public VsockVerdict Take(in VsockHeader packet)
    {
        NoteCredit(packet);
        switch (packet.Operation)
        {
            case VsockOperation.Response when _state == State.Asked:
                _state = State.Connected;
                return VsockVerdict.Connected;
            case VsockOperation.Reset:
                _state = State.Ended;
                _due = Due.None;
                return VsockVerdict.Ended;
            case VsockOperation.Shutdown when _state == State.Connected:
                GuestShut |= (VsockShutdown)packet.Flags & VsockShutdown.Both;
                return VsockVerdict.GuestShut;
            case VsockOperation.Data when _state == State.Connected && (GuestShut & VsockShutdown.SendsNoMore) == 0 && packet.Length <= BufferSize - Held:
                _received += packet.Length;
                return VsockVerdict.Data;
            case VsockOperation.CreditUpdate when _state == State.Connected:
                return VsockVerdict.Noted;
            case VsockOperation.CreditRequest when _state == State.Connected:
                _due |= Due.Credit;
                return VsockVerdict.Noted;
            default:
                Reset();
                return VsockVerdict.Refused;
        }
    }

    /// <summary>The host has taken so many of the guest's bytes.</summary>
    public void Forward(uint bytes)
    {
        _forwarded += bytes;

        // Told when the guest would soon stop for want of credit, and not for every byte.
        if (_forwarded != _told && _received - _told > BufferSize / 2)
        {
            _due |= Due.Credit;
        }
    }

    /// <summary>The host sends or takes no more; the guest will be told.</summary>
    public void ShutHost(VsockShutdown what)
    {
        if ((HostShut | what) != HostShut)
        {
            HostShut |= what;
            _due |= _state == State.Connected ? Due.Shutdown : Due.None;
        }
    }

    /// <summary>The connection is to end at once; the guest will be told.</summary>
    public void Reset() => _due = Due.Reset;

    /// <summary>The next packet without payload for the guest; there is one: see <see cref="HasDue"/>.</summary>
    public (VsockOperation Operation, uint Flags) TakeDue()
    {
        switch (_due)
        {
            case var due when (due & Due.Reset) != 0:
                _due = Due.None;
                _state = State.Ended;
                return (VsockOperation.Reset, 0);
            case var due when (due & Due.Request) != 0:
                _due &= ~Due.Request;
                _state = State.Asked;
                return (VsockOperation.Request, 0);
            case var due when (due & Due.Response) != 0:
                _due &= ~Due.Response;
                _state = State.Connected;
                _due |= HostShut != VsockShutdown.None ? Due.Shutdown : Due.None;
                return (VsockOperation.Response, 0);
            case var due when (due & Due.Shutdown) != 0:
                _due &= ~Due.Shutdown;
                return (VsockOperation.Shutdown, (uint)HostShut);
            default:
                _due &= ~Due.Credit;
                return (VsockOperation.CreditUpdate, 0);
        }
    }

    /// <summary>So many bytes go to the guest, at most <see cref="Credit"/>.</summary>
    public void Send(uint bytes) => _sent += bytes;

    /// <summary>Every packet tells how much of the guest's has been taken: the value for it.</summary>
    public uint TellForwarded()
    {
        _told = _forwarded;
        _due &= ~Due.Credit;
        return _forwarded;
    }

    private void NoteCredit(in VsockHeader packet)
    {
        _guestBuffer = packet.BufferSize;
        _guestForwarded = packet.Forwarded;
    }
}
