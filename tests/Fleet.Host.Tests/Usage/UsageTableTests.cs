using Fleet.Host.Agent;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Simulated;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Pressure;
using Fleet.Host.Usage;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Host.Tests.Usage;

public sealed class UsageTableTests
{
    private const string Id = "vm-01jd8mbr4v3s6q8k2n0x5t7w9z";

    private readonly UsageTable _table = new();

    private static TimeSpan At(double seconds) => TimeSpan.FromSeconds(seconds);

    private static VmmUse Use(double cpuSeconds, long kib = 100) => new(TimeSpan.FromSeconds(cpuSeconds), kib);

    private static MachineReading Machine(ulong busy, ulong total) => new(busy, total, 4, 2048);

    [Fact]
    public void Should_tell_what_a_guest_says_of_itself_while_it_is_of_now()
    {
        var said = new GuestFigures { MemoryKib = 1000, AvailableKib = 10 };
        for (var i = 0; i < 7; i++)
        {
            _table.Begin(Machine(0, 0), default, At(10 * i));
            _table.Put(Id, 1, Use(i), At(10 * i));
            if (i == 1) _table.PutGuest(Id, 1, said, At(11));
            if (i == 5) _table.PutGuest(Id, 2, said, At(51));
            if (i == 0) continue;
            Assert.Equal(i is 1 or 2 or 3, _table.Next(At(10 * i + 2))!.Vms.Single().Guest is not null);
            _table.Told();
        }
    }

    [Fact]
    public void Should_tell_what_was_used_between_two_readings_once()
    {
        Assert.True(_table.IsDue(At(0)));
        _table.Begin(Machine(100, 1000), default, At(0));
        _table.Put(Id, 1, Use(50), At(0));
        Assert.Null(_table.Next(At(0)));
        var first = _table.Next(At(2));
        Assert.Equal(new UsageSample { Sequence = 1, AgeMs = 2000 }, first); // nothing to compare with
        _table.Told();
        Assert.Null(_table.Next(At(4)));
        Assert.False(_table.IsDue(At(9)));

        Assert.True(_table.IsDue(At(10)));
        _table.Begin(Machine(200, 1400), default, At(10));
        _table.Put(Id, 1, Use(65, 300), At(10));
        var second = _table.Next(At(11));
        Assert.Equal(
            new UsageSample
            {
                Sequence = 2,
                AgeMs = 1000,
                Machine = new MachineUse { CpuMillis = 1000, MemoryKib = 2048 },
                Vms = { new VmUse { VmId = Id, Epoch = 1, CpuMillis = 1500, MemoryKib = 300 } },
            },
            second);
    }

    [Fact]
    public void Should_leave_out_who_did_not_answer_is_another_or_is_gone()
    {
        _table.Begin(null, default, At(0));
        _table.Put(Id, 1, Use(50), At(0));
        _table.Begin(null, default, At(10));
        Assert.Empty(_table.Next(At(11))!.Vms);

        _table.Put(Id, 2, Use(1), At(11)); // under a new epoch
        Assert.Empty(_table.Next(At(12))!.Vms);
        _table.Begin(null, default, At(20));
        _table.Put(Id, 2, Use(0.5), At(20)); // another process
        Assert.Empty(_table.Next(At(21))!.Vms);
        _table.Begin(null, default, At(30));
        _table.Put(Id, 2, Use(1.5), At(30));
        Assert.Equal(100U, Assert.Single(_table.Next(At(31))!.Vms).CpuMillis);
        _table.Forget(Id);
        Assert.Empty(_table.Next(At(31))!.Vms);
    }

    [Fact]
    public void Should_add_up_what_vCPUs_waited_and_groups_stood_still()
    {
        static VcpuUsage Vcpu(int index, double run, double wait) => new(index, TimeSpan.FromSeconds(run), TimeSpan.FromSeconds(wait));
        static Stalls Stalled(double seconds) => new(new StallTime(TimeSpan.FromSeconds(seconds), default), null, null);

        _table.Begin(Machine(100, 1000), Stalled(3), At(0));
        _table.Put(Id, 1, Use(50) with { Stalls = Stalled(1) }, At(0));
        _table.Put(Id, 1, Vcpu(0, 10, 1));
        _table.Put(Id, 1, Vcpu(1, 10, 1));
        _table.Begin(Machine(200, 1400), Stalled(8), At(10));
        Assert.Equal(0, _table.Vcpus.WaitShare);
        _table.Put(Id, 1, Use(65) with { Stalls = Stalled(2) }, At(10));
        _table.Put(Id, 1, Vcpu(0, 14, 6) with { Allowance = 0.25, Credits = TimeSpan.FromSeconds(-3) });
        _table.Put(Id, 1, Vcpu(1, 11, 16) with { Credits = TimeSpan.FromSeconds(1.5) });
        _table.PutBalloon(Id, 1, 40);
        var sample = _table.Next(At(11))!;
        Assert.Equal((2000U, 500U), (sample.Machine.CpuWaitMillis, sample.Machine.Stalls.CpuSome));
        Assert.Equal((2000U, 100U), (sample.Vms[0].CpuWaitMillis, sample.Vms[0].Stalls.CpuSome));
        Assert.Equal((40U, 1U, -1500L), (sample.Vms[0].BalloonMib, sample.Vms[0].VcpusHeldBack, sample.Vms[0].Credits.BalanceMs));
        Assert.Equal(0.8, _table.Vcpus.WaitShare, 9);

        // Threads of another epoch are others.
        _table.Begin(null, default, At(20));
        _table.Put(Id, 2, Vcpu(0, 20, 20));
        Assert.Equal(default, _table.Vcpus);
        _table.Forget(Id);
        _table.Put(Id, 2, Vcpu(0, 30, 30));
        Assert.Equal(default, _table.Vcpus);
    }

    /// <summary>Four vCPUs in ten seconds, what each may use before and since the second look.</summary>
    [Theory]
    [InlineData(1, 9, 0.1, 0.1, 0)]
    [InlineData(1, 9, 0.1, 1, 0)] // they were held up to then
    [InlineData(1, 9, 1, 0.1, 36)] // and these only from then on
    [InlineData(0.5, 9.5, 0.1, 0.1, 2)] // these did not get half of what they may use
    [InlineData(5, 5, 0.1, 0.1, 20)] // nothing holds these, whatever they should be held to
    public void Should_not_blame_the_machine_for_what_a_quota_holds_back(double run, double wait, double allowed, double allowedSince, double blamed)
    {
        Assert.Equal(new VcpuTimes(At(4 * run), At(blamed)), LookAtFour(run, wait, allowed, allowedSince).Vcpus);
        Assert.Equal(At(4 * wait), _table.Vcpus.Wait); // as the kernel counts it, and metrics tell it
    }

    /// <summary>The quota is the microVM's: who has credits left may use what another leaves, and is held with it when there is nothing.</summary>
    [Fact]
    public void Should_take_a_microVM_for_held_back_when_one_of_its_vCPUs_is()
    {
        for (var look = 0; look < 2; look++)
        {
            _table.Begin(Machine(0, 0), default, At(10 * look));
            _table.Put(Id, 1, new VcpuUsage(0, At(2 * look), At(8 * look), 0.1));
            _table.Put(Id, 1, new VcpuUsage(1, At(9 * look), At(look)));
            _table.Put("vm-2", 1, new VcpuUsage(0, At(3 * look), At(7 * look)));
        }
        Assert.Equal(new VcpuTimes(At(14), At(7)), _table.CpuOfLastLook(At(12))!.Value.Vcpus);
    }

    /// <summary>Ten minutes of a guest that runs 0.4 CPUs of an otherwise idle machine's four.</summary>
    [Theory]
    [InlineData(0.1, PressureRung.Calm)]
    [InlineData(1, PressureRung.Evict)]
    public void Should_not_take_a_guest_without_credits_for_pressure(double allowed, PressureRung rung)
    {
        var shortage = LookAtFour(1, 9, allowed, allowed);
        var host = new HostReaction();
        for (var look = 1; look <= 60; look++)
            host.TakeCpu(shortage, At(10 * look));
        Assert.Equal(rung, host.Told.Cpu);
    }

    private CpuShortage LookAtFour(double run, double wait, double allowed, double allowedSince)
    {
        for (var look = 0; look < 2; look++)
        {
            _table.Begin(Machine(0, 0), default, At(10 * look));
            for (var index = 0; index < 4; index++)
                _table.Put(Id, 1, new VcpuUsage(index, At(look * run), At(look * wait), look == 0 ? allowed : allowedSince));
        }
        return _table.CpuOfLastLook(At(12))!.Value;
    }

    [Fact]
    public void Should_read_the_machine_from_the_kernels_files()
    {
        const string Memory = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 400 kB\n";
        Assert.Equal(new MachineReading(170, 1000, 2, 600) { Steal = 10 }, MachineReading.Parse("cpu  100 20 30 800 30 5 5 10 7 3\ncpu0 1 1\ncpu1 1 1\nintr 5\n", Memory));
        Assert.Null(MachineReading.Parse("cpu 1 2 3\n", Memory));
        Assert.Null(MachineReading.Parse("cpu a b c d e f g h i\n", Memory));
        Assert.Null(MachineReading.Parse("", Memory));
        Assert.Null(MachineReading.Parse("cpu  100 20 30 800 30 5 5 10 7 3\n", "MemTotal: 1000 kB\n"));
        Assert.Equal(0.02, new MachineReading(0, 2000, 2, 0) { Steal = 30 }.StealSince(new MachineReading(0, 1000, 2, 0) { Steal = 10 }));
        Assert.InRange(MachineReading.ReadMemoryAvailable("/proc")!.Value, 0.001, 1);
        Assert.Null(MachineReading.ReadMemoryAvailable("/nonexistent"));
        var now = MachineReading.Read()!;
        Assert.True(now is { Busy: > 0, MemoryKib: > 0 } && now.Cpus >= Environment.ProcessorCount);
        Assert.Equal(0U, now.CpuMillisSince(now));
    }

    [Fact]
    public void Should_read_what_a_process_used_and_nothing_of_one_that_is_gone()
    {
        var use = ProcessIdentity.ReadUse(Environment.ProcessId)!;
        using var self = System.Diagnostics.Process.GetCurrentProcess();
        Assert.InRange(use.Cpu, TimeSpan.FromMilliseconds(10), self.TotalProcessorTime + TimeSpan.FromSeconds(1));
        Assert.InRange(use.MemoryKib, 10_000, 100_000_000);
        Assert.Null(ProcessIdentity.ReadUse(int.MaxValue));
    }

    [Fact]
    public void Should_follow_a_scripts_curves()
    {
        var spec = new VmSpec { Cpus = 2, MemoryMib = 100, Simulated = new SimulatedGuest { StepMs = 1000, CpuPercent = { 50, 0, 100 }, MemoryPercent = { 10, 20 } } };
        VmmUse Of(double seconds) => SimulatedUse.At(spec, TimeSpan.FromSeconds(seconds));
        Assert.Equal(new VmmUse(TimeSpan.Zero, 10 * 1024), Of(0));
        Assert.Equal(new VmmUse(TimeSpan.FromSeconds(0.5), 10 * 1024), Of(0.5));
        Assert.Equal(new VmmUse(TimeSpan.FromSeconds(1), 20 * 1024), Of(1.5));
        Assert.Equal(new VmmUse(TimeSpan.FromSeconds(3), 20 * 1024), Of(3));
        Assert.Equal(new VmmUse(TimeSpan.FromSeconds(30 + 0.5), 10 * 1024), Of(30.5));
        spec.Simulated = null;
        Assert.Equal(new VmmUse(TimeSpan.Zero, 0), Of(5));
    }
}
