using Fleet.Vmm.Boot;
using Fleet.Vmm.Devices;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Tests.Machines;

namespace Fleet.Vmm.Tests.Snapshots;

/// <summary>Guests of a few bytes on the real KVM, saved in one machine and gone on with in another.</summary>
public sealed class MachineSnapshotTests
{
    [SkippableFact]
    public void Should_go_on_where_the_guest_stopped()
    {
        using var first = new MachineRun(SteppingGuests.Counter);
        using var saved = SavedMachine.From(first, "aaa", 3);
        Assert.Equal("123", saved.Console);

        using var second = new MachineRun([], source: saved.Source);
        second.Type("aaq");
        Assert.Equal(MachineEndKind.GuestShutdown, second.RunToEnd().Kind);
        Assert.Equal("45", second.Console());
        Assert.Empty(second.Warnings);
    }

    [SkippableFact]
    public void Should_restore_as_many_clones_as_one_likes()
    {
        using var first = new MachineRun(SteppingGuests.Counter);
        using var saved = SavedMachine.From(first, "aaa", 3);
        var memory = File.ReadAllBytes(saved.MemoryPath);
        for (var clone = 0; clone < 3; clone++)
        {
            using var run = new MachineRun([], source: saved.Source);
            run.Type("aq");
            run.RunToEnd();
            Assert.Equal("4", run.Console());
        }

        Assert.Equal(memory, File.ReadAllBytes(saved.MemoryPath));
    }

    [SkippableFact]
    public void Should_go_on_itself_after_it_was_saved()
    {
        using var run = new MachineRun(SteppingGuests.Counter);
        using var saved = SavedMachine.From(run, "aaa", 3, _ =>
        {
            run.Machine.Resume();
            run.Type("aq");
            run.RunToEnd(started: true);
        });
        Assert.Equal("1234", saved.Console);
    }

    [SkippableFact]
    public void Should_save_a_restored_machine_again()
    {
        using var first = new MachineRun(SteppingGuests.Counter);
        using var saved = SavedMachine.From(first, "aa", 2);
        using var second = new MachineRun([], source: saved.Source);
        using var again = SavedMachine.From(second, "aa", 2);
        Assert.Equal("34", again.Console);
        using var third = new MachineRun([], source: again.Source);
        third.Type("aq");
        third.RunToEnd();
        Assert.Equal("5", third.Console());
    }

    [SkippableFact]
    public void Should_keep_every_vcpu()
    {
        using var first = new MachineRun(SteppingGuests.TwoVcpus, vcpus: 2);
        using var saved = SavedMachine.From(first, "a", 1);
        using var second = new MachineRun([], vcpus: 2, source: saved.Source);
        second.Type("aaq");
        Assert.Equal(MachineEndKind.GuestShutdown, second.RunToEnd().Kind);
        Assert.Equal("MM", second.Console());
    }

    [SkippableFact]
    public void Should_keep_a_device_and_its_queue()
    {
        using var first = new MachineRun(SteppingGuests.Entropy, entropy: true);
        using var saved = SavedMachine.From(first, "aaa", 3);
        using var second = new MachineRun([], entropy: true, source: saved.Source);
        second.Type("aaaaaaaaaaaaq");
        Assert.Equal(MachineEndKind.GuestShutdown, second.RunToEnd().Kind);
        Assert.Equal(12, second.ConsoleBytes().Length);
        Assert.Empty(second.Warnings);
    }

    [SkippableFact]
    public void Should_give_each_clone_a_generation_of_its_own()
    {
        using var first = new MachineRun(SteppingGuests.GenerationId);
        using var saved = SavedMachine.From(first, "a", 16);
        var ids = new List<byte[]> { saved.ConsoleBytes };
        for (var clone = 0; clone < 2; clone++)
        {
            using var run = new MachineRun([], source: saved.Source);
            run.Type("aq");
            run.RunToEnd();
            ids.Add(run.ConsoleBytes());
        }

        Assert.All(ids, id => Assert.Equal(16, id.Length));
        Assert.Equal(3, ids.Select(Convert.ToHexString).Distinct().Count());
    }

    [SkippableFact]
    public void Should_interrupt_a_clone_for_its_new_generation()
    {
        using var first = new MachineRun(SteppingGuests.GenerationInterrupt);
        using var saved = SavedMachine.From(first, "ab", 2);
        Assert.Equal("bc", saved.Console);
        using var second = new MachineRun([], source: saved.Source);
        second.Type("xq");
        Assert.Equal(new MachineEnd(MachineEndKind.GuestShutdown, "The guest reset itself."), second.RunToEnd());
        Assert.Equal("Gy", second.Console());
    }

    /// <summary>The driver has notified, and nobody has looked yet.</summary>
    [SkippableFact]
    public void Should_keep_a_request_that_was_not_yet_served()
    {
        using var first = new MachineRun(SteppingGuests.EntropyAtOnce, entropy: true);

        // The loop does not run: the notification stays where it is. All registers are written, and then some time has passed.
        first.Machine.Start();
        Assert.True(SpinWait.SpinUntil(() => first.Machine.ReadCounters().ExitsMmioWrite == 11, TimeSpan.FromSeconds(20)));
        var thread = first.Machine.VcpuThreads[0];
        var now = ThreadKick.CpuTime(thread);
        Assert.True(SpinWait.SpinUntil(() => ThreadKick.CpuTime(thread) > now + 5_000_000, TimeSpan.FromSeconds(20)));
        using var saved = SavedMachine.From(first, "", 0);
        Assert.Equal("", saved.Console);
        using var second = new MachineRun([], entropy: true, source: saved.Source);
        second.Type("q");
        Assert.Equal(MachineEndKind.GuestShutdown, second.RunToEnd().Kind);
        Assert.Single(second.ConsoleBytes());
    }

    /// <summary>A vCPU that is stopped while a device answers its read: the answer has to be in its register when it stands.</summary>
    [SkippableFact]
    public void Should_end_the_instruction_that_the_vcpu_was_stopped_in()
    {
        const byte Answer = 0x5a;
        Skip.IfNot(File.Exists("/dev/kvm"), "there is no /dev/kvm on this machine");
        using var memory = new GuestMemory(1 << 20);
        memory.Write(0x1000, [0xe4, 0x10, 0xf4]); // in $0x10,%al; hlt
        using var system = new KvmSystem();
        using var vm = system.CreateVm();
        unsafe
        {
            // SAFETY: the VM is closed before the memory.
            vm.SetMemory(0, 0, memory.Low.Size, memory.LowHost, false);
        }

        using var moved = new EventCounter();
        var ports = new PortBus();
        var owner = new NoMachine();
        var kvm = vm.CreateVcpu(0, system.VcpuMapSize);
        using var vcpu = new Vcpu(0, kvm, ports, new MemoryBus(GuestLayout.VirtioDevices, 1), moved, owner);
        ports.Claim(0x10, 1, new AnsweringPort(Answer, () => vcpu.Command(VcpuOrder.Park)));
        var segments = kvm.SystemRegisters;
        segments.Cs.Base = segments.Cs.Selector = 0;
        kvm.SystemRegisters = segments;
        kvm.Registers = new KvmRegs { Rip = 0x1000, Rflags = 2 };
        vcpu.Start(VcpuOrder.Run);
        Assert.True(SpinWait.SpinUntil(() => vcpu.IsParked || owner.End is not null, TimeSpan.FromSeconds(20)));
        Assert.Null(owner.End);
        var registers = kvm.Registers;
        vcpu.Command(VcpuOrder.Stop);
        Assert.True(vcpu.Join(20_000));
        Assert.Equal((0x1002ul, (ulong)Answer), (registers.Rip, registers.Rax & 0xff));
    }

    private sealed class AnsweringPort(byte answer, Action onRead) : IPortDevice
    {
        public byte Read(int register)
        {
            onRead();
            return answer;
        }

        public void Write(int register, ReadOnlySpan<byte> values)
        {
        }
    }

    private sealed class NoMachine : IVcpuOwner
    {
        public MachineEnd? End { get; private set; }

        public bool IsEnding => End is not null;

        public bool HasLeaseLapsed => false;

        public void LookAtLease()
        {
        }

        public void ReportEnd(MachineEnd end) => End ??= end;
    }
}
