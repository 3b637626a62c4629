using System.Diagnostics;
using System.Globalization;
using Fleet.Vmm.Devices;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Machines;

/// <summary>What a vCPU's thread should be doing.</summary>
internal enum VcpuOrder
{
    Run,

    /// <summary>Outside the guest, until the order changes.</summary>
    Park,

    /// <summary>As <see cref="Park"/>, after a look at whether the vCPU could ever run again by itself.</summary>
    ParkAndInspect,

    /// <summary>Leave the guest for ever and end the thread.</summary>
    Stop,
}

/// <summary>What an inspection saw.</summary>
internal enum VcpuActivity
{
    /// <summary>Runs, or will when an interrupt comes.</summary>
    Alive,

    /// <summary>Was never started by the guest, or sent back to wait; another vCPU may start it.</summary>
    Waiting,

    /// <summary>Halted with interrupts off: only an NMI from another vCPU could wake it.</summary>
    Dead,
}

/// <summary>One vCPU and its thread: runs the guest, hands its port and memory accesses to the devices.</summary>
/// <remarks>
/// The thread sleeps on the kick signal while it is parked, and the same signal gets it out of KVM_RUN: whoever changes
/// the order writes it first and kicks then, so a kick is never lost. Nor is there a second one before the first was
/// taken: kicks queue up, and all VMMs of a user share one limit (RLIMIT_SIGPENDING). The thread says where it is through
/// <see cref="IsParked"/> and <see cref="HasEnded"/> and signals <paramref name="moved"/> after each change.
/// Nothing here allocates on an exit.
/// </remarks>
internal sealed unsafe class Vcpu(int index, KvmVcpu kvm, PortBus ports, MemoryBus mmio, EventCounter moved, IVcpuOwner owner, IConfinement? confinement = null) : IDisposable
{
    /// <summary>Small on purpose: the thread's deepest path is a port write that formats an error.</summary>
    private const int StackSize = 256 * 1024;

    private Thread? _thread;
    private int _threadId;
    private int _order;
    private int _kicked;
    private int _activity;
    private int _inspectionsAsked;
    private int _inspectionsDone;
    private bool _parked;
    private bool _interrupted;
    private bool _ended;
    private bool _exitOpen;
    private long _began;

    private ulong _exits;
    private ulong _ioIn;
    private ulong _ioOut;
    private ulong _mmioRead;
    private ulong _mmioWrite;
    private ExitStopwatch _ioInTook;
    private ExitStopwatch _ioOutTook;
    private ExitStopwatch _mmioReadTook;
    private ExitStopwatch _mmioWriteTook;

    public int Index => index;

    /// <summary>gettid of the thread; 0 until it runs.</summary>
    public int ThreadId => Volatile.Read(ref _threadId);

    /// <summary>Outside the guest, and stays there while the order says so.</summary>
    public bool IsParked => Volatile.Read(ref _parked);

    /// <summary>The thread has left the guest for ever.</summary>
    public bool HasEnded => Volatile.Read(ref _ended);

    /// <summary>Parked, and the last <see cref="VcpuOrder.ParkAndInspect"/> obeyed. Event-loop thread only.</summary>
    public bool IsInspected => Volatile.Read(ref _inspectionsDone) == _inspectionsAsked && IsParked;

    /// <summary>What the last <see cref="VcpuOrder.ParkAndInspect"/> saw; meaningful while <see cref="IsInspected"/>.</summary>
    public VcpuActivity Activity => (VcpuActivity)Volatile.Read(ref _activity);

    public ulong Exits => Volatile.Read(ref _exits);

    public ulong IoIn => Volatile.Read(ref _ioIn);

    public ulong IoOut => Volatile.Read(ref _ioOut);

    public ulong MmioRead => Volatile.Read(ref _mmioRead);

    public ulong MmioWrite => Volatile.Read(ref _mmioWrite);

    public ExitLatency IoInTook => _ioInTook.Read();

    public ExitLatency IoOutTook => _ioOutTook.Read();

    public ExitLatency MmioReadTook => _mmioReadTook.Read();

    public ExitLatency MmioWriteTook => _mmioWriteTook.Read();

    /// <summary>Starts the thread under <paramref name="order"/>. It has begun when <see cref="ThreadId"/> is set.</summary>
    public void Start(VcpuOrder order)
    {
        _order = (int)order;
        _thread = new Thread(Main, StackSize) { Name = $"vcpu {index}", IsBackground = true };
        _thread.Start();
    }

    /// <summary>Gives an order and gets the thread out of the guest to see it. Event-loop thread only.</summary>
    public void Command(VcpuOrder order)
    {
        if (order == VcpuOrder.ParkAndInspect)
        {
            Volatile.Write(ref _inspectionsAsked, _inspectionsAsked + 1);
        }

        // Full fence: the order must be visible before IsParked is read, see Obey, and before it is seen that an earlier
        // kick was not taken yet: whoever takes that one then finds this order.
        Interlocked.Exchange(ref _order, (int)order);
        if (_threadId != 0 && !HasEnded && Interlocked.Exchange(ref _kicked, 1) == 0)
        {
            kvm.Exit->ImmediateExit = 1;
            if (!ThreadKick.TryKick(_threadId))
            {
                Volatile.Write(ref _kicked, 0);
            }
        }
    }

    /// <summary>Waits for the thread; false when it is still there after so long.</summary>
    public bool Join(int milliseconds) => _thread is null || _thread.Join(milliseconds);

    public void Dispose() => kvm.Dispose();

    private void Main()
    {
        try
        {
            confinement?.EnterVcpu();
            kvm.SetSignalMask(ThreadKick.BlockHere());
            _began = Stopwatch.GetTimestamp();
            Volatile.Write(ref _threadId, ThreadKick.CurrentThread());
            moved.Signal();
            while (Obey())
            {
                var error = kvm.Run();
                _exitOpen = error == 0;
                if (error == 0)
                {
                    HandleExit();
                }
                else if (error is SystemCallException.Interrupted or SystemCallException.TryAgain)
                {
                    // The kick is taken before the order is looked at: one that comes later interrupts the next KVM_RUN.
                    // The other way round an order could be seen, its kick taken for it, and the next one missed.
                    kvm.Exit->ImmediateExit = 0;
                    ThreadKick.Drain();
                    Volatile.Write(ref _kicked, 0);
                    _interrupted = true;
                }
                else
                {
                    owner.ReportEnd(new MachineEnd(MachineEndKind.VmmFailed, $"KVM_RUN of vCPU {index} failed: {new SystemCallException("ioctl", error).Reason}."));
                }
            }
        }
        catch (Exception failure)
        {
            // Nobody above would catch it, and the process would die without a report of how the machine ended.
            owner.ReportEnd(new MachineEnd(MachineEndKind.VmmFailed, $"vCPU {index} failed: {failure.Message}"));
        }
        finally
        {
            Volatile.Write(ref _ended, true);
            moved.Signal();
        }
    }

    // Does what is ordered; false when the thread shall end. On return with true the guest may be entered.
    private bool Obey()
    {
        while (true)
        {
            Interlocked.MemoryBarrier();
            var order = (VcpuOrder)Volatile.Read(ref _order);
            switch (order)
            {
                case VcpuOrder.Stop:
                    return false;
                // The lease's timer interrupts as a kick does, so between two interruptions there is nothing to look for.
                case VcpuOrder.Run when !owner.IsEnding && !((_interrupted || _parked) && owner.HasLeaseLapsed):
                    _interrupted = false;
                    if (!_parked)
                    {
                        return true;
                    }

                    // Once more round: whoever gave a new order and then still saw IsParked relies on us seeing it.
                    Volatile.Write(ref _parked, false);
                    break;
                default:
                    var asked = Volatile.Read(ref _inspectionsAsked);
                    if (order == VcpuOrder.ParkAndInspect && asked != _inspectionsDone)
                    {
                        Volatile.Write(ref _activity, (int)Inspect());
                        Volatile.Write(ref _inspectionsDone, asked);
                    }
                    else if (order is VcpuOrder.Park or VcpuOrder.Run)
                    {
                        FinishExit();
                        if (!_parked)
                        {
                            kvm.NoteStopped();
                        }
                    }

                    Volatile.Write(ref _parked, true);
                    moved.Signal();
                    ThreadKick.Await();
                    Volatile.Write(ref _kicked, 0);
                    owner.LookAtLease();
                    break;
            }
        }
    }

    // What a port or a device answered reaches the guest's registers, and its instruction ends, only with the next KVM_RUN;
    // before that they are not worth saving. With ImmediateExit KVM does this much and comes back. An access in several
    // parts comes as several exits.
    private void FinishExit()
    {
        while (_exitOpen && !owner.IsEnding)
        {
            kvm.Exit->ImmediateExit = 1;
            _exitOpen = kvm.Run() == 0;
            if (_exitOpen)
            {
                HandleExit();
            }
        }

        // A kick that wrote this meanwhile has its signal as well, which is taken next.
        kvm.Exit->ImmediateExit = 0;
    }

    private VcpuActivity Inspect()
    {
        const ulong InterruptsEnabled = 1 << 9;
        switch (kvm.MpState)
        {
            case KvmCalls.MpStateRunnable:
                return VcpuActivity.Alive;
            case KvmCalls.MpStateHalted:
                var events = kvm.Events;
                var wakes = (kvm.Registers.Rflags & InterruptsEnabled) != 0 || events.NmiPending != 0 || events.NmiInjected != 0 || events.SmiPending != 0;
                return wakes ? VcpuActivity.Alive : VcpuActivity.Dead;
            default:
                return VcpuActivity.Waiting;
        }
    }

    private void HandleExit()
    {
        // SAFETY: this is the vCPU's thread, see KvmVcpu.Exit; the methods below get the same pointer.
        var exit = kvm.Exit;
        Volatile.Write(ref _exits, _exits + 1);
        switch (exit->ExitReason)
        {
            case KvmCalls.ExitIo:
                HandlePortAccess(exit);
                break;
            case KvmCalls.ExitMmio:
                HandleMemoryAccess(exit);
                break;
            case KvmCalls.ExitInterrupted or KvmCalls.ExitIrqWindowOpen:
                break;
            default:
                owner.ReportEnd(Describe(exit));
                break;
        }
    }

    private void HandlePortAccess(KvmRun* exit)
    {
        var began = Stopwatch.GetTimestamp();
        var size = exit->IoSize;
        var length = (ulong)size * exit->IoCount;
        var offset = exit->IoDataOffset;
        if (size is not (1 or 2 or 4) || offset > kvm.ExitAreaSize || length > kvm.ExitAreaSize - offset)
        {
            owner.ReportEnd(new MachineEnd(MachineEndKind.VmmFailed, $"KVM told of a port access of {exit->IoCount} times {size} bytes, which does not fit its buffer."));
            return;
        }

        // SAFETY: checked right above that the range lies in the area that is mapped for as long as this object lives.
        var data = new Span<byte>((byte*)exit + offset, (int)length);
        if (exit->IoDirection == KvmCalls.IoOut)
        {
            Volatile.Write(ref _ioOut, _ioOut + 1);
            ports.Write(exit->IoPort, size, data);
            _ioOutTook.Add(began);
        }
        else
        {
            Volatile.Write(ref _ioIn, _ioIn + 1);
            ports.Read(exit->IoPort, size, data);
            _ioInTook.Add(began);
        }
    }

    private void HandleMemoryAccess(KvmRun* exit)
    {
        var began = Stopwatch.GetTimestamp();
        // SAFETY: the field is a fixed array of 8 bytes, and no more of it is shown.
        var data = new Span<byte>(exit->MmioData, (int)Math.Min(exit->MmioLength, 8));
        if (exit->MmioIsWrite != 0)
        {
            Volatile.Write(ref _mmioWrite, _mmioWrite + 1);
            mmio.Write(exit->MmioAddress, data);
            _mmioWriteTook.Add(began);
        }
        else
        {
            Volatile.Write(ref _mmioRead, _mmioRead + 1);
            mmio.Read(exit->MmioAddress, data);
            _mmioReadTook.Add(began);
        }
    }

    /// <summary>Times of exits: written by the vCPU's thread, read by any.</summary>
    private struct ExitStopwatch
    {
        private static readonly double NanosecondsPerTick = 1e9 / Stopwatch.Frequency;

        private long _least;
        private long _most;
        private long _sum;

        /// <summary>One exit that began at that timestamp and is over now.</summary>
        public void Add(long began)
        {
            var took = Math.Max(1, Stopwatch.GetTimestamp() - began);
            Volatile.Write(ref _sum, _sum + took);
            if (took > _most)
            {
                Volatile.Write(ref _most, took);
            }

            if (took < _least || _least == 0)
            {
                Volatile.Write(ref _least, took);
            }
        }

        public readonly ExitLatency Read() => new(Nanoseconds(in _least), Nanoseconds(in _most), Nanoseconds(in _sum));

        private static ulong Nanoseconds(ref readonly long ticks) => (ulong)(Volatile.Read(in ticks) * NanosecondsPerTick);
    }

    private MachineEnd Describe(KvmRun* exit)
    {
        switch (exit->ExitReason)
        {
            case KvmCalls.ExitShutdown:
                return Crash("triple fault: an exception came while the guest could not handle the one before");
            case KvmCalls.ExitInternalError:
                return Crash($"KVM can't go on: suberror {exit->InternalSuberror} ({Suberror(exit->InternalSuberror)})");
            case KvmCalls.ExitFailEntry:
                return Crash($"the processor refuses the vCPU's state: hardware reason 0x{exit->HardwareExitReason:x}");
            case KvmCalls.ExitUnknown:
                return Crash($"unknown exit: hardware reason 0x{exit->HardwareExitReason:x}");
            case KvmCalls.ExitSystemEvent when exit->SystemEventType is KvmCalls.SystemEventShutdown or KvmCalls.SystemEventReset:
                return new MachineEnd(MachineEndKind.GuestShutdown, "The guest switched itself off through KVM.");
            default:
                return Crash($"exit reason {exit->ExitReason}, which this program does not handle");
        }
    }

    private MachineEnd Crash(string why)
    {
        string where;
        try
        {
            var registers = kvm.Registers;
            var system = kvm.SystemRegisters;
            where = IsReset(registers, system)
                ? "where is not known, since KVM on AMD resets the vCPU before it tells"
                : $"rip 0x{registers.Rip:x}, rsp 0x{registers.Rsp:x}, rflags 0x{registers.Rflags:x}, cr0 0x{system.Cr0:x}, cr2 0x{system.Cr2:x}, cr3 0x{system.Cr3:x}";
        }
        catch (SystemCallException failure)
        {
            where = $"registers unknown, {failure.Message}";
        }

        // Whether it ever ran is the first question: a kernel that was loaded wrong crashes within milliseconds.
        var after = Stopwatch.GetElapsedTime(_began);
        return new MachineEnd(MachineEndKind.GuestCrashed, string.Create(CultureInfo.InvariantCulture, $"The guest crashed on vCPU {index}, {after.TotalSeconds:0.000} s after its start: {why}; {where}."));
    }

    /// <summary>Whether a vCPU stands where a processor begins after power-on, which no guest of ours starts at or comes to by itself.</summary>
    internal static bool IsReset(in KvmRegs registers, in KvmSregs system) =>
        registers.Rip == 0xfff0 && system.Cs.Base == 0xffff0000 && (system.Cr0 & 1) == 0;

    private static string Suberror(uint code) => code switch
    {
        1 => "an instruction that can't be emulated",
        2 => "several exceptions at once",
        3 => "an exit while an event was being delivered",
        4 => "an unexpected exit",
        _ => "unknown",
    };
}

/// <summary>What a vCPU's thread needs of its machine.</summary>
internal interface IVcpuOwner
{
    /// <summary>The machine's end was reported: no vCPU enters the guest any more.</summary>
    bool IsEnding { get; }

    /// <summary>The guest may not run, for now or for ever.</summary>
    bool HasLeaseLapsed { get; }

    /// <summary>From a vCPU that stands still: ends the process when the event loop failed to do so at the lease's end.</summary>
    void LookAtLease();

    /// <summary>Any thread; the first report counts.</summary>
    void ReportEnd(MachineEnd end);
}
