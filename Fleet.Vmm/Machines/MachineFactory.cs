using Fleet.Vmm.Boot;
using Fleet.Vmm.Devices;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Devices.Virtio.Vsock;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Metadata;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Machines;

/// <summary>Builds machines on /dev/kvm.</summary>
internal sealed class MachineFactory : IMachineFactory
{
    private const int MaxVcpus = 32;
    private const int OutOfMemoryError = 12;
    private const ulong Mebibyte = 1 << 20;

    /// <summary>What a guest may fill of the host's disk by way of the status port; what the file held before counts.</summary>
    private const long MostStatus = 64 * 1024;

    private readonly int _inputFd;
    private readonly int _outputFd;
    private readonly string _kvmPath;
    private readonly Action<string> _onStuck;
    private readonly Action<string> _onWarning;
    private readonly TimeSpan _watchPeriod;
    private readonly IConfinement? _confinement;

    /// <param name="inputFd">What the guest's console reads, when it is a pipe, a FIFO or our terminal.</param>
    /// <param name="outputFd">What the guest's console writes to. Whatever has this number gets the guest's bytes: see <see cref="StandardStream.OccupyMissing"/>.</param>
    /// <param name="onStuck">Ends the process, because a vCPU did not leave the guest in time. Only a test's may return.</param>
    /// <param name="onWarning">Told, on the loop, what the machine goes on without.</param>
    /// <param name="kvmPath">KVM's device.</param>
    /// <param name="watchPeriod">How often a sleeping guest is looked at; a test has less patience.</param>
    /// <param name="confinement">What the machine's threads give up when they run the guest; null: nothing.</param>
    public MachineFactory(int inputFd, int outputFd, Action<string> onStuck, Action<string> onWarning, string kvmPath = "/dev/kvm", TimeSpan? watchPeriod = null, IConfinement? confinement = null)
    {
        _inputFd = inputFd;
        _outputFd = outputFd;
        _kvmPath = kvmPath;
        _onStuck = onStuck;
        _onWarning = onWarning;
        _watchPeriod = watchPeriod ?? Machine.DefaultWatchPeriod;
        _confinement = confinement;
    }

    public IMachine Build(MachineSettings settings, EventLoop loop)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(settings.Vcpus, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(settings.Vcpus, MaxVcpus);
        ArgumentOutOfRangeException.ThrowIfLessThan(settings.MemoryMib, 1);

        // Files first: a wrong path is told as such on a host without KVM too.
        using var kernelFile = OpenFile(settings.KernelPath, "kernel", MachineFault.KernelMissing, MachineFault.KernelInvalid);
        using var initrdFile = settings.InitrdPath is { } path
            ? OpenFile(path, "initrd", MachineFault.InitrdMissing, MachineFault.InitrdInvalid)
            : null;

        return Attempt(undo =>
        {
            var memory = Keep(undo, AllocateMemory(settings, null));
            if (memory.Low.Size <= GuestLayout.HighMemory)
            {
                throw KernelImage.NeedsMoreMemory(2 * Mebibyte, memory);
            }

            // The kernel before KVM: a file that is none is told as such on a host without KVM too.
            var (virtio, mmio, places) = MakeVirtio(settings, memory, undo);
            var kernel = LoadGuest(settings, memory, kernelFile, initrdFile, places);
            using var system = OpenKvm(settings);
            var parts = Assemble(settings, system, memory, virtio, mmio, places, undo);
            InitialiseVcpus(system, memory, parts.Vcpus, settings.CpuTemplate);
            BootRegisters.InitialiseFirst(parts.Vcpus[0], kernel);
            return Complete(loop, parts);
        });
    }

    public IMachine Restore(MachineSettings settings, RestoreSource source, EventLoop loop) => Attempt(undo =>
    {
        var memory = Keep(undo, OpenMemory(settings, source));
        var handler = source.ByFaultHandler ? Keep(undo, new FaultHandler(source.MemoryPath, memory)) : null;
        var (virtio, mmio, places) = MakeVirtio(settings, memory, undo);
        using var system = OpenKvm(settings);
        var parts = Assemble(settings, system, memory, virtio, mmio, places, undo, handler);
        MachineState.Restore(parts, source.State.Span, source.FollowRealtime, system.CheckExtension(KvmCalls.CapabilityTscControl) > 0, _onWarning);
        GenerationId.Renew(memory, parts.Vm);
        foreach (var slot in virtio)
        {
            slot.Transport.Wake();
        }

        handler?.Watch(loop, () => _onWarning("The page fault handler is gone: the guest stops at its next page that nobody has filled."));
        return Complete(loop, parts);
    });

    private static Machine Attempt(Func<Stack<IDisposable>, Machine> build)
    {
        var undo = new Stack<IDisposable>();
        try
        {
            var machine = build(undo);
            undo.Clear();
            return machine;
        }
        catch (KvmUnsuitableException failure)
        {
            throw new MachineException(MachineFault.KvmUnavailable, $"KVM can't be used: {failure.Message}.", failure);
        }
        catch (CpuTemplateException failure)
        {
            throw new MachineException(MachineFault.Other, $"{failure.Message}.", failure);
        }
        catch (SystemCallException failure) when (failure.ErrorNumber == OutOfMemoryError)
        {
            throw new MachineException(MachineFault.OutOfMemory, $"The host has no memory for the microVM: {failure.Message}.", failure);
        }
        catch (SystemCallException failure)
        {
            throw new MachineException(MachineFault.Other, $"The microVM could not be built: {failure.Message}.", failure);
        }
        finally
        {
            while (undo.TryPop(out var part))
            {
                part.Dispose();
            }
        }
    }

    private Machine Complete(EventLoop loop, MachineParts parts) => new(loop, parts, _watchPeriod, _onStuck, _onWarning);

    private (List<VirtioSlot> Slots, MemoryBus Bus, List<VirtioPlace> Places) MakeVirtio(MachineSettings settings, GuestMemory memory, Stack<IDisposable> undo)
    {
        var mmio = new MemoryBus(GuestLayout.VirtioDevices, GuestLayout.MostVirtioDevices);
        var virtio = new List<VirtioSlot>();
        var places = new List<VirtioPlace>();
        foreach (var device in Devices(settings, memory))
        {
            if (device is IDisposable owned)
            {
                undo.Push(owned);
            }

            var slot = Keep(undo, new VirtioSlot(device, memory, _onWarning, settings.Lease));
            places.Add(new VirtioPlace(mmio.Place(slot.Transport), GuestLayout.FirstVirtioGsi + (uint)virtio.Count));
            virtio.Add(slot);
        }

        return (virtio, mmio, places);
    }

    private MachineParts Assemble(
        MachineSettings settings, KvmSystem system, GuestMemory memory, List<VirtioSlot> virtio, MemoryBus mmio, List<VirtioPlace> places,
        Stack<IDisposable> undo, FaultHandler? faultHandler = null)
    {
        var vm = Keep(undo, system.CreateVm());
        vm.SetTssAddress(GuestLayout.KvmTss);
        SetMemory(vm, memory);
        vm.CreateIrqChip();
        vm.CreatePit();
        for (var i = 0; i < virtio.Count; i++)
        {
            virtio[i].Wire(vm, places[i].Address, places[i].Gsi);
        }

        var vcpus = new KvmVcpu[settings.Vcpus];
        for (var i = 0; i < vcpus.Length; i++)
        {
            vcpus[i] = Keep(undo, vm.CreateVcpu(i, system.VcpuMapSize));
        }

        var consoleFile = settings.Serial.OutputPath is { } consolePath ? Keep(undo, OpenSink("serial console", consolePath)) : null;
        var streams = consoleFile is null ? Keep(undo, new StandardStreams(new StandardStream(_inputFd), new StandardStream(_outputFd))) : null;
        var consoleRoom = Keep(undo, new EventCounter());
        var ports = new PortBus();
        var power = new PowerSwitch();
        var limiter = settings.Serial.Limit is { Limits: true } limit ? new RateLimiter(new LimiterSettings(limit, null), TimeProvider.System) : null;
        var console = new SerialPort(new KvmInterruptLine(vm, GuestLayout.Com1Gsi), new ByteSink(consoleFile?.Descriptor ?? streams!.Output.Descriptor, limiter: limiter), consoleRoom.Signal);
        ports.Claim(GuestLayout.Com1Port, SerialPort.PortCount, console);
        SinkFile? statusFile = null;
        SerialPort? statusPort = null;
        if (settings.StatusPortPath is { } statusPath)
        {
            statusFile = Keep(undo, OpenSink("status port", statusPath));
            statusPort = new SerialPort(new KvmInterruptLine(vm, GuestLayout.Com2Gsi), new ByteSink(statusFile.Descriptor, statusFile.RoomTo(MostStatus)));
            ports.Claim(GuestLayout.Com2Port, SerialPort.PortCount, statusPort);
        }

        var keyboard = new KeyboardController(new KvmInterruptLine(vm, GuestLayout.KeyboardGsi), power.Reset);
        ports.Claim(GuestLayout.KeyboardDataPort, 1, keyboard.DataPort);
        ports.Claim(GuestLayout.KeyboardCommandPort, 1, keyboard.CommandPort);
        ports.Claim(GuestLayout.PowerPort, PowerRegisters.PortCount, new PowerRegisters(power.PowerOff, power.Reset));
        return new MachineParts
        {
            Vm = vm,
            Memory = memory,
            Vcpus = vcpus,
            ListedMsrs = system.ReadMsrIndices(),
            NamedMsrs = settings.CpuTemplate?.NamedMsrs ?? [],
            Ports = ports,
            Mmio = mmio,
            Virtio = virtio,
            PowerSwitch = power,
            Console = console,
            ConsoleRoom = consoleRoom,
            Streams = streams,
            ConsoleFile = consoleFile,
            Keyboard = keyboard,
            StatusPort = statusPort,
            StatusFile = statusFile,
            FaultHandler = faultHandler,
            Confinement = _confinement,
            Lease = settings.Lease,
            RunLog = settings.RunLog,
        };
    }

    private static IEnumerable<VirtioDevice> Devices(MachineSettings settings, GuestMemory memory)
    {
        if (settings.Balloon is { } balloon)
        {
            yield return new BalloonDevice(memory, balloon);
        }

        foreach (var disk in settings.Disks)
        {
            yield return OpenDisk(disk, memory);
        }

        foreach (var network in settings.Networks)
        {
            yield return OpenNetwork(network, settings.Metadata, memory);
        }

        if (settings.Vsock is { } vsock)
        {
            yield return OpenVsock(vsock, memory);
        }

        if (settings.Entropy is { } limits)
        {
            yield return new EntropyDevice(memory, limits, TimeProvider.System);
        }
    }

    private static BlockDevice OpenDisk(DiskSettings disk, GuestMemory memory)
    {
        try
        {
            return new BlockDevice(memory, disk, TimeProvider.System);
        }
        catch (Exception failure) when (failure is SystemCallException or NotARegularFileException)
        {
            throw new MachineException(MachineFault.Other, $"The disk {disk.Id} can't be opened: {disk.Path}: {failure.Message}.", failure);
        }
    }

    private static NetDevice OpenNetwork(NetworkSettings network, MetadataService? metadata, GuestMemory memory)
    {
        var leadsToMetadata = metadata?.Settings is { } settings && settings.Interfaces.Contains(network.Id) ? new MetadataNetwork(metadata, settings.Address) : null;
        try
        {
            return new NetDevice(memory, network, new TapInterface(network.HostDevice, memory), TimeProvider.System, leadsToMetadata);
        }
        catch (SystemCallException failure)
        {
            throw new MachineException(
                MachineFault.Other, $"The network interface {network.Id} can't be opened: {network.HostDevice}: {failure.Message}.", failure);
        }
    }

    private static VsockDevice OpenVsock(VsockSettings vsock, GuestMemory memory)
    {
        try
        {
            return new VsockDevice(memory, vsock, TimeProvider.System);
        }
        catch (Exception failure) when (failure is SystemCallException or ArgumentException)
        {
            throw new MachineException(MachineFault.Other, $"The vsock's socket can't be made: {vsock.SocketPath}: {failure.Message}.", failure);
        }
    }

    private static LoadedKernel LoadGuest(
        MachineSettings settings, GuestMemory memory, FileContent kernelFile, FileContent? initrdFile, IReadOnlyList<VirtioPlace> devices)
    {
        try
        {
            var kernel = KernelImage.Load(memory, kernelFile);
            var initrd = initrdFile is null ? default : InitialRamDisk.Load(memory, initrdFile, kernel);
            var line = CommandLine.Complete(settings.BootArgs, settings.StatusPortPath is not null, devices, settings.Root);
            CommandLine.Write(memory, line, kernel.CommandLineLimit);
            if (kernel.Mode == EntryMode.Pvh)
            {
                BootInformation.WritePvhStartInfo(memory, initrd);
            }
            else
            {
                BootInformation.WriteZeroPage(memory, kernel, line.Length, initrd);
            }

            BootRegisters.WriteTables(memory, kernel.Mode);
            MpTable.Write(memory, settings.Vcpus);
            AcpiTables.Write(memory, settings.Vcpus, settings.StatusPortPath is not null, devices);
            GenerationId.Write(memory);
            return kernel;
        }
        catch (GuestMemoryException failure)
        {
            // Every size was checked before; what is left is a file that contradicts itself.
            throw new MachineException(MachineFault.KernelInvalid, $"The kernel can't be booted: {failure.Message}.", failure);
        }
    }

    private void InitialiseVcpus(KvmSystem system, GuestMemory memory, KvmVcpu[] vcpus, CpuTemplate? template)
    {
        Span<KvmCpuidEntry> supported = new KvmCpuidEntry[KvmSystem.MaxCpuidEntries];
        supported = supported[..system.ReadSupportedCpuid(supported)];
        template?.ApplyTo(supported);
        var cpuid = new Cpuid(supported, vcpus.Length);
        var top = memory.High.Size > 0 ? memory.High.End : memory.Low.End;
        if (top > 1UL << cpuid.PhysicalAddressBits)
        {
            throw new MachineException(MachineFault.OutOfMemory, $"The microVM's memory ends at 0x{top:x}, the processor addresses only {cpuid.PhysicalAddressBits} bits.");
        }

        for (var i = 0; i < vcpus.Length; i++)
        {
            vcpus[i].SetCpuid(cpuid.For(i));
            var refused = BootRegisters.InitialiseCommon(vcpus[i]);
            template?.ApplyTo(vcpus[i]);
            if (i == 0 && refused.Length > 0)
            {
                var names = string.Join(", ", Array.ConvertAll(refused, static msr => $"MSR 0x{msr:x}"));
                _onWarning($"This host's KVM refuses to set {names}: the guest finds the reset value there.");
            }
        }
    }

    private static unsafe void SetMemory(KvmVm vm, GuestMemory memory)
    {
        // SAFETY: the VM is always closed before the memory is given back.
        vm.SetMemory(0, memory.Low.Start, memory.Low.Size, memory.LowHost, memory.Dirty is not null);
        if (memory.High.Size > 0)
        {
            vm.SetMemory(1, memory.High.Start, memory.High.Size, memory.HighHost, memory.Dirty is not null);
        }
    }

    private static GuestMemory AllocateMemory(MachineSettings settings, FileContent? content)
    {
        try
        {
            var memory = new GuestMemory((ulong)settings.MemoryMib * Mebibyte, content);
            if (settings.TrackDirtyPages)
            {
                memory.Track();
            }

            return memory;
        }
        catch (SystemCallException failure)
        {
            throw new MachineException(MachineFault.OutOfMemory, $"The host has no address space for {settings.MemoryMib} MiB of guest memory: {failure.Message}.", failure);
        }
    }

    // A file stays mapped when it is closed.
    private static GuestMemory OpenMemory(MachineSettings settings, RestoreSource source)
    {
        if (source.ByFaultHandler)
        {
            return AllocateMemory(settings, null);
        }

        try
        {
            using var file = new FileContent(source.MemoryPath);
            var wanted = (ulong)settings.MemoryMib * Mebibyte;
            return file.Size == wanted
                ? AllocateMemory(settings, file)
                : throw new SnapshotException($"the memory file {source.MemoryPath} has {file.Size} bytes, the microVM's memory {wanted}");
        }
        catch (Exception failure) when (failure is SystemCallException or NotARegularFileException)
        {
            throw new SnapshotException($"the memory file {source.MemoryPath} can't be used: {failure.Message}", failure);
        }
    }

    private KvmSystem OpenKvm(MachineSettings settings)
    {
        KvmSystem? system = null;
        try
        {
            system = new KvmSystem(_kvmPath, settings.CpuTemplate?.NotRequired);
            if (settings.Vcpus > system.MaxVcpus)
            {
                throw new KvmUnsuitableException($"it runs at most {system.MaxVcpus} vCPUs, {settings.Vcpus} are wanted");
            }

            foreach (var capability in settings.CpuTemplate?.Required ?? [])
            {
                if (system.CheckExtension(capability) <= 0)
                {
                    throw new CpuTemplateException($"This host's KVM lacks capability {capability}, which the CPU template requires");
                }
            }

            return system;
        }
        catch (SystemCallException failure)
        {
            system?.Dispose();
            throw new MachineException(
                MachineFault.KvmUnavailable,
                $"KVM can't be used: {_kvmPath}: {failure.Message}. Is virtualisation switched on, kvm_intel or kvm_amd loaded, and this user allowed to open the device?",
                failure);
        }
        catch
        {
            system?.Dispose();
            throw;
        }
    }

    private static FileContent OpenFile(string path, string what, MachineFault missing, MachineFault invalid)
    {
        try
        {
            return new FileContent(path);
        }
        catch (SystemCallException failure) when (failure.ErrorNumber == SystemCallException.NoEntry)
        {
            throw new MachineException(missing, $"There is no {what} at {path}.", failure);
        }
        catch (SystemCallException failure)
        {
            throw new MachineException(invalid, $"The {what} {path} can't be read: {failure.Reason}.", failure);
        }
        catch (NotARegularFileException failure)
        {
            throw new MachineException(invalid, $"The {what} {path} can't be read: {failure.Message}.", failure);
        }
    }

    private static SinkFile OpenSink(string what, string path)
    {
        try
        {
            return new SinkFile(path);
        }
        catch (SystemCallException failure)
        {
            throw new MachineException(MachineFault.Other, $"The file {path} of the {what} can't be opened: {failure.Reason}.", failure);
        }
    }

    private static T Keep<T>(Stack<IDisposable> undo, T part)
        where T : IDisposable
    {
        undo.Push(part);
        return part;
    }
}
