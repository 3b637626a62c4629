using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>
/// io_uring(7): reads, writes and flushes of files that the kernel carries out while we go on. Readable, for epoll, while
/// something is done. Not for two threads at once.
/// </summary>
internal sealed unsafe partial class IoRing : IDisposable
{
    internal const int SetupCall = 425;
    internal const int EnterCall = 426;
    internal const int RegisterCall = 427;
    internal const uint StartDisabled = 1 << 6;
    internal const int RegisterRestrictions = 11;
    internal const int EnableRings = 12;
    internal const ushort AllowOperation = 1;
    internal const uint SingleMapping = 1;
    internal const uint GetEvents = 1;
    internal const long RingsOffset = 0;
    internal const long EntriesOffset = 0x10000000;
    internal const byte ReadPieces = 1;
    internal const byte WritePieces = 2;
    internal const byte Flush = 3;
    internal const uint DataOnly = 1;

    /// <summary>Milliseconds, about, that a host without memory is waited for.</summary>
    private const int MostPauses = 500;

    private int _fd = -1;
    private byte* _rings;
    private readonly nuint _ringsSize;
    private Entry* _entries;
    private readonly nuint _entriesSize;
    private readonly uint* _submittedTail;
    private readonly uint _submittedMask;
    private readonly uint* _array;
    private readonly uint* _doneHead;
    private readonly uint* _doneTail;
    private readonly uint _doneMask;
    private readonly Completion* _done;
    private uint _queued;

    /// <summary>Room for so many operations at once, a power of two. Throws <see cref="SystemCallException"/>.</summary>
    public IoRing(uint capacity)
    {
        // Disabled until it is restricted: what goes through a ring goes past the process's seccomp filter.
        Parameters parameters = new() { Flags = StartDisabled };
        _fd = (int)syscall(SetupCall, (nint)capacity, (nint)(&parameters), 0, 0, 0, 0);
        if (_fd < 0)
        {
            throw SystemCallException.Last("io_uring_setup");
        }

        try
        {
            Restrict();
            if ((parameters.Features & SingleMapping) == 0)
            {
                throw new SystemCallException("io_uring_setup", SystemCallException.NotSupported);
            }

            _ringsSize = Math.Max(
                parameters.Submitted.Array + (parameters.SubmittedEntries * sizeof(uint)),
                parameters.Done.Entries + (parameters.DoneEntries * (uint)sizeof(Completion)));
            _rings = (byte*)VirtualMemory.MapShared(_fd, _ringsSize, RingsOffset);
            _entriesSize = parameters.SubmittedEntries * (uint)sizeof(Entry);
            _entries = (Entry*)VirtualMemory.MapShared(_fd, _entriesSize, EntriesOffset);
        }
        catch
        {
            Dispose();
            throw;
        }

        // SAFETY: the kernel's own offsets into the mapping that it measured.
        _submittedTail = (uint*)(_rings + parameters.Submitted.Tail);
        _submittedMask = *(uint*)(_rings + parameters.Submitted.Mask);
        _array = (uint*)(_rings + parameters.Submitted.Array);
        _doneHead = (uint*)(_rings + parameters.Done.Head);
        _doneTail = (uint*)(_rings + parameters.Done.Tail);
        _doneMask = *(uint*)(_rings + parameters.Done.Mask);
        _done = (Completion*)(_rings + parameters.Done.Entries);
    }

    /// <summary>For the event loop.</summary>
    public int Descriptor => _fd;

    /// <summary>Reads into or writes from pieces of memory, which with what they point to stay where they are until it is done.</summary>
    public void QueueMove(bool reads, int fd, ulong offset, IoPiece* pieces, int count, uint token) =>
        Queue(reads ? ReadPieces : WritePieces, fd, offset, (ulong)pieces, (uint)count, 0, token);

    /// <summary>What was written is on the disk afterwards.</summary>
    public void QueueFlush(int fd, uint token) => Queue(Flush, fd, 0, 0, 0, DataOnly, token);

    /// <summary>Hands over what was queued. Throws <see cref="SystemCallException"/>.</summary>
    public void Submit()
    {
        while (_queued > 0)
        {
            var taken = Enter(_queued, 0, 0);
            _queued -= taken;
        }
    }

    /// <summary>Waits until at least one operation is done. Throws <see cref="SystemCallException"/>.</summary>
    public void Wait() => _ = Enter(0, 1, GetEvents);

    /// <summary>The next operation that is done: bytes moved, or a negative errno.</summary>
    public bool TryReap(out uint token, out int result)
    {
        // SAFETY: the kernel writes entries before the tail that says so, and reuses them behind the head that we move.
        var head = *_doneHead;
        if (head == Volatile.Read(ref *_doneTail))
        {
            (token, result) = (0, 0);
            return false;
        }

        var completion = _done[head & _doneMask];
        Volatile.Write(ref *_doneHead, head + 1);
        (token, result) = ((uint)completion.Token, completion.Result);
        return true;
    }

    public void Dispose()
    {
        if (_entries != null)
        {
            VirtualMemory.Unmap(_entries, _entriesSize);
            _entries = null;
        }

        if (_rings != null)
        {
            VirtualMemory.Unmap(_rings, _ringsSize);
            _rings = null;
        }

        if (_fd >= 0)
        {
            _ = Descriptors.close(_fd);
            _fd = -1;
        }
    }

    // The caller never has more operations under way than the ring holds, so there is always a free entry.
    private void Queue(byte operation, int fd, ulong offset, ulong address, uint length, uint flags, uint token)
    {
        var tail = *_submittedTail;
        var index = tail & _submittedMask;
        _entries[index] = new Entry
        {
            Operation = operation, Fd = fd, Offset = offset, Address = address, Length = length, OperationFlags = flags, Token = token,
        };
        _array[index] = index;
        Volatile.Write(ref *_submittedTail, tail + 1);
        _queued++;
    }

    private uint Enter(uint submit, uint complete, uint flags)
    {
        var pauses = 0;
        while (true)
        {
            var taken = syscall(EnterCall, _fd, (nint)submit, (nint)complete, (nint)flags, 0, 0);
            if (taken >= 0)
            {
                return (uint)taken;
            }

            switch (Marshal.GetLastPInvokeError())
            {
                case SystemCallException.Interrupted:
                    break;
                case SystemCallException.TryAgain when pauses++ < MostPauses:
                    // The host has no memory for a request at the moment.
                    Thread.Sleep(1);
                    break;
                default:
                    throw SystemCallException.Last("io_uring_enter");
            }
        }
    }

    /// <summary>struct io_uring_sqe.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 64)]
    internal struct Entry
    {
        [FieldOffset(0)]
        public byte Operation;

        [FieldOffset(4)]
        public int Fd;

        [FieldOffset(8)]
        public ulong Offset;

        [FieldOffset(16)]
        public ulong Address;

        [FieldOffset(24)]
        public uint Length;

        [FieldOffset(28)]
        public uint OperationFlags;

        [FieldOffset(32)]
        public ulong Token;
    }

    /// <summary>struct io_uring_cqe.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct Completion
    {
        public ulong Token;
        public int Result;
        public uint Flags;
    }

    /// <summary>struct io_sqring_offsets.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 40)]
    internal struct SubmittedOffsets
    {
        [FieldOffset(0)]
        public uint Head;

        [FieldOffset(4)]
        public uint Tail;

        [FieldOffset(8)]
        public uint Mask;

        [FieldOffset(24)]
        public uint Array;
    }

    /// <summary>struct io_cqring_offsets.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 40)]
    internal struct DoneOffsets
    {
        [FieldOffset(0)]
        public uint Head;

        [FieldOffset(4)]
        public uint Tail;

        [FieldOffset(8)]
        public uint Mask;

        [FieldOffset(20)]
        public uint Entries;
    }

    /// <summary>struct io_uring_params.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 120)]
    internal struct Parameters
    {
        [FieldOffset(0)]
        public uint SubmittedEntries;

        [FieldOffset(4)]
        public uint DoneEntries;

        [FieldOffset(8)]
        public uint Flags;

        [FieldOffset(20)]
        public uint Features;

        [FieldOffset(40)]
        public SubmittedOffsets Submitted;

        [FieldOffset(80)]
        public DoneOffsets Done;
    }

    // The ring takes these three operations from now on, and nobody can allow it more: an attacker could not open or connect by it.
    private void Restrict()
    {
        // struct io_uring_restriction has 16 bytes: what is allowed in the first two, then the operation's number.
        ReadOnlySpan<byte> operations = [ReadPieces, WritePieces, Flush];
        var restrictions = stackalloc byte[16 * 3];
        new Span<byte>(restrictions, 16 * 3).Clear();
        for (var i = 0; i < operations.Length; i++)
        {
            *(ushort*)(restrictions + (16 * i)) = AllowOperation;
            restrictions[(16 * i) + 2] = operations[i];
        }

        // SAFETY: the kernel reads as many structures as it is told, during the call.
        if (syscall(RegisterCall, _fd, RegisterRestrictions, (nint)restrictions, operations.Length, 0, 0) < 0
            || syscall(RegisterCall, _fd, EnableRings, 0, 0, 0, 0) < 0)
        {
            throw SystemCallException.Last("io_uring_register");
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint syscall(nint number, nint first, nint second, nint third, nint fourth, nint fifth, nint sixth);
}
