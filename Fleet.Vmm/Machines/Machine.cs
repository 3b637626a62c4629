using Fleet.Vmm.Devices;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Machines;

/// <summary>A machine on KVM. Everything but the vCPUs' threads runs on the event loop.</summary>
internal sealed partial class Machine : IMachine, IVcpuOwner
{
    /// <summary>
    /// How long vCPUs may take to leave the guest. They need microseconds; a thread that takes longer hangs in the kernel,
    /// and then only the end of the process keeps the promise that the guest runs no more.
    /// </summary>
    private const int StopLimitMilliseconds = StopLimitSlices * SliceMilliseconds;

    // Counted in slices of running time and not by the clock: a process that was stopped and continued (SIGSTOP, a suspended
    // host) would otherwise find the time over before its vCPUs had a chance.
    private const int StopLimitSlices = 20;
    private const int SliceMilliseconds = 100;

    /// <summary>How long the API waits while sleepers are looked at; what is not out of the guest by then is left alone.</summary>
    private const int InspectionLimitSlices = 2;

    /// <summary>How often it is looked whether the guest has halted for good, and whether standard input has come back.</summary>
    public static readonly TimeSpan DefaultWatchPeriod = TimeSpan.FromSeconds(1);

    private readonly EventLoop _loop;
    private readonly MachineParts _parts;
    private readonly Vcpu[] _vcpus;
    private readonly EventCounter _moved = new();
    private readonly EventCounter _ending = new();
    private readonly long[] _cpuTimes;
    private readonly int[] _threads;
    private readonly Action<string> _onStuck;
    private readonly Action<string> _onWarning;
    private readonly TimeSpan _watchPeriod;
    private readonly VirtioDevice[] _devices;
    private ConsoleInput? _input;
    private LoopTimer? _watch;
    private MachineEnd? _end;
    private bool _started;
    private bool _paused;
    private bool _finished;
    private bool _disposed;

    /// <summary>Owns the parts from now on, except when it throws.</summary>
    /// <param name="loop">The process's loop.</param>
    /// <param name="parts">Everything but the vCPUs' threads.</param>
    /// <param name="watchPeriod">See <see cref="DefaultWatchPeriod"/>.</param>
    /// <param name="onStuck">Ends the process: a vCPU did not stop in time.</param>
    /// <param name="onWarning">Told, on the loop, what the machine goes on without.</param>
    public Machine(EventLoop loop, MachineParts parts, TimeSpan watchPeriod, Action<string> onStuck, Action<string> onWarning)
    {
        _loop = loop;
        _parts = parts;
        _watchPeriod = watchPeriod;
        _devices = [.. parts.Virtio.Select(static slot => slot.Device)];
        _onStuck = onStuck;
        _onWarning = onWarning;
        _vcpus = new Vcpu[parts.Vcpus.Length];
        _cpuTimes = new long[_vcpus.Length];
        _threads = new int[_vcpus.Length];
        for (var i = 0; i < _vcpus.Length; i++)
        {
            _vcpus[i] = new Vcpu(i, parts.Vcpus[i], parts.Ports, parts.Mmio, _moved, this, parts.Confinement);
        }

        parts.PowerSwitch.Owner = this;
        try
        {
            _loop.Add(_ending.Descriptor, OnEnding);
        }
        catch
        {
            _moved.Dispose();
            _ending.Dispose();
            throw;
        }
    }

    public event Action<MachineEnd>? Ended;

    public IReadOnlyList<int> VcpuThreads => _started ? _threads : [];

    public IReadOnlyList<VirtioDevice> Devices => _devices;

    public bool IsEnding => Volatile.Read(ref _end) is not null;

    public void Start(bool paused = false)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_started || _finished)
        {
            throw new InvalidOperationException("the machine was started before");
        }

        try
        {
            foreach (var vcpu in _vcpus)
            {
                vcpu.Start(VcpuOrder.Park);
            }

            Await(static vcpu => vcpu.IsParked || vcpu.HasEnded, "did not start");
            for (var i = 0; i < _vcpus.Length; i++)
            {
                _threads[i] = _vcpus[i].ThreadId;
            }

            ArmLease();

            if (_parts.Streams?.Input is { Kind: StreamKind.Pipe or StreamKind.Terminal } input)
            {
                input.MakeRaw();
                _input = new ConsoleInput(_loop, input.Descriptor, _parts.Console, _parts.ConsoleRoom, _onWarning);
            }

            _watch = new LoopTimer(_loop, OnWatch);
            _watch.Start(_watchPeriod, _watchPeriod);
            _parts.Confinement?.GuestRuns();
        }
        catch (Exception failure) when (failure is OutOfMemoryException or SystemCallException or ThreadStartException)
        {
            StopThreads();
            throw new MachineException(MachineFault.Other, $"The vCPUs could not be started: {failure.Message}", failure);
        }

        _started = true;
        _paused = true;
        if (!paused)
        {
            Resume();
        }
    }

    public void Save(StateWriter writer)
    {
        OnlyPaused();
        MachineState.Save(_parts, writer);
    }

    public void SaveMemory(NewFile file, bool onlyChanges)
    {
        OnlyPaused();

        // Also when everything is written: the log of what this snapshot has is not to be in the next one's.
        _parts.Memory.Dirty?.Fetch(_parts.Vm);
        if (onlyChanges)
        {
            MemoryFile.WriteChanges(_parts.Memory, file);
        }
        else
        {
            MemoryFile.WriteAll(_parts.Memory, file);
        }
    }

    public void ForgetChanges() => _parts.Memory.Dirty?.Clear();

    public void SendCtrlAltDel()
    {
        if (_started && !_finished)
        {
            _ = _parts.Keyboard.SendCtrlAltDel();
        }
    }

    public void Pause()
    {
        if (_started && !_finished && !_paused)
        {
            _paused = true;
            StandStill();
        }
    }

    public void Resume()
    {
        if (_paused)
        {
            _paused = false;
            _fenced = _parts.Lease.HasLapsed;
            if (!_fenced)
            {
                GoOn();
            }
        }
    }

    public void ReplaceDisk(string id, string path)
    {
        foreach (var slot in _parts.Virtio)
        {
            if (slot.Device is BlockDevice disk && disk.Path == BlockDevice.PathOf(id))
            {
                slot.Transport.ChangeConfiguration(() => disk.Replace(path));
                return;
            }
        }
    }

    public bool ResizeBalloon(uint pages)
    {
        foreach (var slot in _parts.Virtio)
        {
            if (slot.Device is BalloonDevice balloon)
            {
                slot.Transport.ChangeConfiguration(() => balloon.TargetPages = pages);
                return true;
            }
        }

        return false;
    }

    public bool Retune(string device, string? queue, LimiterSettings update)
    {
        foreach (var slot in _parts.Virtio)
        {
            if (slot.Device.Path != device)
            {
                continue;
            }

            foreach (var limited in slot.Device.Limiters)
            {
                if (limited.Queue == queue)
                {
                    slot.Transport.Change(() => limited.Limiter.Update(update));
                    slot.Wake();
                    return true;
                }
            }
        }

        return false;
    }

    public void Stop() => ReportEnd(new MachineEnd(MachineEndKind.Stopped, "The microVM was stopped from outside."));

    public void ReportEnd(MachineEnd end)
    {
        if (Interlocked.CompareExchange(ref _end, end, null) is null)
        {
            _ending.Signal();
        }
    }

    public MachineCounters ReadCounters()
    {
        ulong exits = 0, ioIn = 0, ioOut = 0, mmioRead = 0, mmioWrite = 0;
        ExitLatency ioInTook = default, ioOutTook = default, mmioReadTook = default, mmioWriteTook = default;
        foreach (var vcpu in _vcpus)
        {
            exits += vcpu.Exits;
            ioIn += vcpu.IoIn;
            ioOut += vcpu.IoOut;
            mmioRead += vcpu.MmioRead;
            mmioWrite += vcpu.MmioWrite;
            ioInTook += vcpu.IoInTook;
            ioOutTook += vcpu.IoOutTook;
            mmioReadTook += vcpu.MmioReadTook;
            mmioWriteTook += vcpu.MmioWriteTook;
        }

        var console = _parts.Console;
        var status = _parts.StatusPort;
        return new MachineCounters(
            exits, ioIn, ioOut, mmioRead, mmioWrite,
            console.Sink.Written + (status?.Sink.Written ?? 0),
            console.BytesIn,
            console.Sink.Missed + (status?.Sink.Missed ?? 0),
            _parts.Keyboard.Resets)
        {
            SerialDroppedBytes = console.Sink.Dropped,
            IoInLatency = ioInTook,
            IoOutLatency = ioOutTook,
            MmioReadLatency = mmioReadTook,
            MmioWriteLatency = mmioWriteTook,
        };
    }

    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }

        _disposed = true;
        Interlocked.CompareExchange(ref _end, new MachineEnd(MachineEndKind.Stopped, "The microVM was given up."), null);
        StopThreads();
        LeaveLoop();
        _parts.RunLog?.End();
        foreach (var vcpu in _vcpus)
        {
            vcpu.Dispose();
        }

        _parts.Dispose();
        _moved.Dispose();
        _ending.Dispose();
    }

    private void StandStill()
    {
        if (!_fenced)
        {
            Command(VcpuOrder.Park);
            Await(static vcpu => vcpu.IsParked || vcpu.HasEnded, "did not pause");
            LeaveDevices();
            _parts.RunLog?.Stand();
        }
    }

    private void GoOn()
    {
        _parts.RunLog?.Run();
        AttendDevices();
        Command(VcpuOrder.Run);
    }

    private void OnlyPaused()
    {
        if (!_started || !_paused || _finished)
        {
            throw new InvalidOperationException("the machine is not paused");
        }
    }

    private void OnEnding()
    {
        _ending.Clear();
        if (_finished || _disposed || Volatile.Read(ref _end) is not { } end)
        {
            return;
        }

        StopThreads();
        LeaveLoop();
        _parts.RunLog?.End();
        Ended?.Invoke(end);
    }

    private void LeaveLoop()
    {
        _finished = true;
        _loop.Remove(_ending.Descriptor);
        LeaveDevices();
        _input?.Dispose();
        _input = null;
        _watch?.Dispose();
        _watch = null;
        DisarmLease();
    }

    private void AttendDevices()
    {
        foreach (var slot in _parts.Virtio)
        {
            slot.Attend(_loop);
        }
    }

    private void LeaveDevices()
    {
        foreach (var slot in _parts.Virtio)
        {
            slot.Leave();
        }
    }

    private void StopThreads()
    {
        Command(VcpuOrder.Stop);
        foreach (var vcpu in _vcpus)
        {
            var slices = 0;
            while (!vcpu.Join(SliceMilliseconds))
            {
                if (++slices == StopLimitSlices)
                {
                    _onStuck($"vCPU {vcpu.Index} did not leave the guest within {StopLimitMilliseconds} ms");
                    break;
                }
            }
        }
    }

    private void Command(VcpuOrder order)
    {
        foreach (var vcpu in _vcpus)
        {
            vcpu.Command(order);
        }
    }

    private void Await(Predicate<Vcpu> reached, string complaint)
    {
        if (FindLate(reached, StopLimitSlices) is { } vcpu)
        {
            _onStuck($"vCPU {vcpu.Index} {complaint} within {StopLimitMilliseconds} ms");
        }
    }

    // Waits until all have reached it; the one that had not when the time was over, or null.
    private Vcpu? FindLate(Predicate<Vcpu> reached, int limitSlices)
    {
        var slices = 0;
        foreach (var vcpu in _vcpus)
        {
            while (true)
            {
                _moved.Clear();
                if (reached(vcpu))
                {
                    break;
                }

                if (!_moved.Wait(SliceMilliseconds) && ++slices == limitSlices)
                {
                    return vcpu;
                }
            }
        }

        return null;
    }

    private void OnWatch()
    {
        _input?.Retry();
        if (!_paused && !_fenced && !IsEnding && AllSleep())
        {
            InspectSleepers();
        }
    }

    // A vCPU that waits in hlt uses no CPU at all, one that does anything uses some: only a machine that slept for a whole
    // period is looked at, so a guest with a timer tick is never disturbed. The reverse does not hold: a busy vCPU uses none
    // either while the host throttles it, swaps or waits for a disk.
    private bool AllSleep()
    {
        var sleeps = true;
        for (var i = 0; i < _vcpus.Length; i++)
        {
            var time = ThreadKick.CpuTime(_threads[i]);
            sleeps &= time == _cpuTimes[i];
            _cpuTimes[i] = time;
        }

        return sleeps;
    }

    private void InspectSleepers()
    {
        // The second look sees all of them outside the guest; during the first, one still inside could wake another by an NMI.
        if (AreDead() && AreDead())
        {
            ReportEnd(new MachineEnd(MachineEndKind.GuestHalted, "Every running vCPU halted with interrupts off: nothing can wake the guest."));
            return;
        }

        Command(VcpuOrder.Run);
    }

    // False too when one can't be looked at for now, because the host holds its thread up: there is another look next period,
    // and a guest must not die of a slow host.
    private bool AreDead()
    {
        Command(VcpuOrder.ParkAndInspect);
        if (FindLate(static vcpu => vcpu.IsInspected || vcpu.HasEnded, InspectionLimitSlices) is not null)
        {
            return false;
        }

        var dead = 0;
        var alive = false;
        foreach (var vcpu in _vcpus)
        {
            dead += vcpu.Activity == VcpuActivity.Dead ? 1 : 0;
            alive |= vcpu.Activity == VcpuActivity.Alive;
        }

        return !alive && dead > 0;
    }
}
