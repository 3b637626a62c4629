namespace Fleet.Vmm.Devices.Virtio;

/// <summary>Where a network device's frames come from and go to; each has a virtio-net header in front.</summary>
internal interface INetworkPort : IDisposable
{
    /// <summary>Readable while a frame waits; for the event loop.</summary>
    int Descriptor { get; }

    void SetOffloads(NetworkOffloads offloads);

    /// <summary>The next frame, header included; 0 when there is none. What does not fit is cut off.</summary>
    int Receive(Span<byte> frame);

    /// <summary>Sends a frame, header included; false when the host did not take it, and then it is lost, as frames may be.</summary>
    bool Send(ReadOnlySpan<GuestBuffer> buffers);
}

/// <summary>Work on frames that the receiver can do itself; values are the kernel's TUN_F_*.</summary>
[Flags]
internal enum NetworkOffloads
{
    None = 0,
    Checksum = 1,
    Tso4 = 2,
    Tso6 = 4,
    Ufo = 16,
}
