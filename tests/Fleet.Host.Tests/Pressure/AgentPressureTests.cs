using System.Globalization;
using Fleet.Host.Agent;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Jail;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Pressure;
using Fleet.Host.Tests.Agent;
using Fleet.Host.Tests.Drivers;
using Fleet.Host.Tests.Link;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Fleet.Tests;

namespace Fleet.Host.Tests.Pressure;

/// <summary>What an agent does and tells when its machine is short of something, by files of the kernel's form.</summary>
public sealed class AgentPressureTests : AgentTest
{
    private static readonly TimeSpan Tick = TimeSpan.FromSeconds(2);

    private readonly ManualClock _clock = new();
    private ulong _asked = 100;

    [Fact]
    public async Task Should_tell_what_it_does_when_memory_is_scarce_and_when_that_is_over()
    {
        using var machine = new RecordedMachine();
        await using var agent = await StartAsync(clock: _clock, proc: machine.Folder);
        var stream = await Scheduler.NextAsync();
        Assert.Equal(new PressureReport { Cpu = PressureRung.Calm, Memory = PressureRung.Calm }, await NextAsync(stream, null));

        machine.MemoryAvailable(0.03);
        var told = await NextAsync(stream, one => one.Memory == PressureRung.Closed);
        Assert.Equal(PressureRung.Calm, told.Cpu);
        Assert.Contains("3% of the memory is available", told.Why, StringComparison.Ordinal);
        await NextAsync(stream, one => one.Memory == PressureRung.Reclaim);
        machine.MemoryAvailable(0.5);
        await NextAsync(stream, one => one is { Memory: PressureRung.Closed, Why.Length: > 0 });
        await NextAsync(stream, one => one is { Memory: PressureRung.Calm, Why: "" });

        // Everything that runs waits for memory, however much of it is said to be available.
        machine.StallsAll();
        await NextAsync(stream, one => one.Memory == PressureRung.Closed, () => machine.StallsAll());
        // Its first word said it already.
        Assert.Equal(new PressureReport { Cpu = PressureRung.Calm, Memory = PressureRung.Calm }, stream.Hello.Pressure);
    }

    [Fact]
    public async Task Should_ask_guests_for_memory_while_it_is_scarce_and_give_it_back()
    {
        using var machine = new RecordedMachine();
        // One that tells, and one that has no balloon.
        var driver = new ScriptedDriver();
        driver.OnLaunched = vmm => vmm.Balloon = driver.Vmms.Count == 1 ? new BalloonReading(0, 0, 900, 0) : null;
        await using var agent = await StartAsync(driver, _clock, proc: machine.Folder);
        var stream = await Scheduler.NextAsync();
        var launch = Launch();
        launch.Launch.Spec.MemoryMib = 1024;
        await stream.SendAsync(launch);
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        await stream.SendAsync(Launch(id: IdOf(2)));
        await stream.ExpectReportAsync(IdOf(2), HostVmState.Running);
        var vmm = driver.Vmms[0];

        machine.MemoryAvailable(0.03);
        await NextAsync(stream, one => one.Memory == PressureRung.Reclaim);
        await TickUntilAsync(stream, () => vmm.Balloon!.ActualMib == 512);
        Assert.All(vmm.BalloonTargets, asked => Assert.Equal(BalloonActor.TellsWhileAsked, asked.Tells));
        Assert.True(vmm.BalloonTargets.Count >= 8);

        machine.MemoryAvailable(0.5);
        await TickUntilAsync(stream, () => vmm.BalloonTargets.Last() == (0U, KvmVmm.TellsInCalm));
        // Nothing more is asked.
        var asked = vmm.BalloonTargets.Count;
        for (var i = 0; i < 10; i++)
            await TickAsync(stream, _ => { });
        Assert.Equal((asked, 0), (vmm.BalloonTargets.Count, driver.Vmms[1].BalloonTargets.Count));
    }

    /// <summary>An agent that died in the middle of it left the balloon as it was.</summary>
    [Fact]
    public async Task Should_empty_a_balloon_that_an_agent_before_blew_up()
    {
        using var machine = new RecordedMachine();
        Write(Record(HostVmState.Running));
        var driver = new ScriptedDriver();
        driver.OnLaunched = vmm => vmm.Balloon = new BalloonReading(10, 10, 20, 0);
        driver.OnAdopt = (_, _) => Task.FromResult<IVmm?>(driver.NewVmm());
        await using var agent = await StartAsync(driver, _clock, proc: machine.Folder);
        var stream = await Scheduler.NextAsync();
        await TickUntilAsync(stream, () => driver.Vmms.Count == 1 && driver.Vmms[0].BalloonTargets.LastOrDefault() == (0U, KvmVmm.TellsInCalm));
    }

    [Fact]
    public async Task Should_give_the_lowest_class_less_CPU_while_it_is_short_and_what_it_had_afterwards()
    {
        using var machine = new RecordedMachine();
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver, _clock, proc: machine.Folder);
        var stream = await Scheduler.NextAsync();
        // Two of the lowest class, of different sizes, and the largest of a higher one.
        await RunAsync(stream, 1, PriorityClass.Low, memoryMib: 1024);
        await RunAsync(stream, 2, PriorityClass.Low, memoryMib: 64);
        await RunAsync(stream, 3, PriorityClass.Normal, memoryMib: 2048);

        await NextAsync(stream, one => one.Cpu == PressureRung.Squeeze, () => machine.Runs(stolen: 40));
        await UntilAsync("the squeeze", () => driver.Vmms.Take(2).All(vmm => !vmm.Shares.IsEmpty));
        Assert.All(driver.Vmms.Take(2), vmm => Assert.Equal([0.25], Weights(vmm)));
        await NextAsync(stream, one => one.Cpu == PressureRung.Calm, () => machine.Runs(stolen: 0));
        await UntilAsync("the end of it", () => driver.Vmms.Take(2).All(vmm => vmm.Shares.Count == 2));
        Assert.All(driver.Vmms.Take(2), vmm => Assert.Equal([0.25, 1], Weights(vmm)));
        Assert.Empty(driver.Vmms[2].Shares);
    }

    [Fact]
    public async Task Should_squeeze_nobody_of_one_class_and_look_anew_when_a_microVM_comes_or_leaves()
    {
        using var machine = new RecordedMachine();
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver, _clock, proc: machine.Folder);
        var stream = await Scheduler.NextAsync();
        await RunAsync(stream, 1, PriorityClass.Normal, memoryMib: 64);
        await RunAsync(stream, 2, PriorityClass.Normal, memoryMib: 1024);
        var (small, large) = (driver.Vmms[0], driver.Vmms[1]);
        await NextAsync(stream, one => one.Cpu == PressureRung.Squeeze, () => machine.Runs(stolen: 40));

        Assert.All([small, large], vmm => Assert.Empty(vmm.Shares));

        // A higher class comes: now there is somebody to give to.
        await RunAsync(stream, 3, PriorityClass.High, memoryMib: 64);
        await UntilAsync("the squeeze of both", () => !small.Shares.IsEmpty && !large.Shares.IsEmpty);
        Assert.All([small, large], vmm => Assert.Equal([0.25], Weights(vmm)));

        // A lower one comes and gives in their place.
        await RunAsync(stream, 4, PriorityClass.Low, memoryMib: 64);
        await UntilAsync("the squeeze of the lower one", () => !driver.Vmms[3].Shares.IsEmpty && small.Shares.Count == 2 && large.Shares.Count == 2);
        Assert.Equal([0.25], Weights(driver.Vmms[3]));
        Assert.All([small, large], vmm => Assert.Equal([0.25, 1], Weights(vmm)));

        // It leaves, as one does that is evicted: the next class gives again.
        driver.Vmms[3].End();
        await stream.ExpectReportAsync(IdOf(4), HostVmState.Ended);
        await UntilAsync("the squeeze of both again", () => small.Shares.Count == 3 && large.Shares.Count == 3);
        // And with the higher one goes the last reason for it.
        driver.Vmms[2].End();
        await stream.ExpectReportAsync(IdOf(3), HostVmState.Ended);
        await UntilAsync("the end of it", () => small.Shares.Count == 4 && large.Shares.Count == 4);
        Assert.All([small, large], vmm => Assert.Equal([0.25, 1, 0.25, 1], Weights(vmm)));
        Assert.Empty(driver.Vmms[2].Shares);
    }

    [Fact]
    public async Task Should_weigh_a_microVM_by_its_class_from_its_start_on()
    {
        using var machine = new RecordedMachine();
        var driver = new ScriptedDriver();
        var plan = CreditPlan.Parse(["low=100:10:50", "high=100:10:400"], out _);
        await using var agent = await StartAsync(driver, _clock, proc: machine.Folder, credits: plan);
        var stream = await Scheduler.NextAsync();
        foreach (var (number, priority) in ((int, string)[])[(1, PriorityClass.Low), (2, ""), (3, PriorityClass.High)])
        {
            var launch = Launch(id: IdOf(number));
            launch.Launch.Spec.Priority = priority;
            launch.Launch.Spec.Cpus = 2;
            await stream.SendAsync(launch);
            await stream.ExpectReportAsync(IdOf(number), HostVmState.Running);
        }
        Assert.Equal([new CpuShare(2, null, 1)], driver.Vmms[0].Shares);
        Assert.Empty(driver.Vmms[1].Shares);
        Assert.Equal([new CpuShare(2, null, 8)], driver.Vmms[2].Shares);
        // A quarter of what it has by its class.
        await NextAsync(stream, one => one.Cpu == PressureRung.Squeeze, () => machine.Runs(stolen: 40));
        await UntilAsync("the squeeze", () => driver.Vmms[0].Shares.Count == 2);
        Assert.Equal(new CpuShare(2, null, 0.25), driver.Vmms[0].Shares.Last());
    }

    [Fact]
    public async Task Should_do_nothing_when_it_is_not_to_react()
    {
        using var machine = new RecordedMachine();
        machine.MemoryAvailable(0.01);
        await using var agent = await StartAsync(clock: _clock, proc: machine.Folder, reacts: false);
        var stream = await Scheduler.NextAsync();
        for (var i = 0; i < 20; i++)
            await TickAsync(stream, message => Assert.Null(message.Pressure));
    }

    /// <summary>A real guest that wants twice the CPUs that there are, by the kernel's own account of what its vCPUs got.</summary>
    [SkippableFact]
    public async Task Should_hold_the_vCPUs_of_a_real_guest_to_their_credits()
    {
        var driver = new KvmDriver(new(Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm"), DriverOptions.DefaultQemu, new Scratch.NoImage()));
        var status = await driver.ProbeAsync(default);
        Skip.IfNot(status.Usable, "kvm: " + status.Detail);
        var groups = ControlGroups.OfThisMachine("fleet");
        Skip.If(groups.NotEnforced.Contains("cpu"), "no control group of this machine limits CPU");
        await using var scratch = new Scratch();
        await using var agent = await StartAsync(driver, _clock, credits: new CreditPlan(Low: new CreditTerms(0.05, TimeSpan.FromSeconds(10)), Normal: null, High: null));
        var stream = await Scheduler.NextAsync();
        var launch = Launch();
        launch.Launch.Spec.Driver = "kvm";
        launch.Launch.Spec.Simulated = null;
        launch.Launch.Spec.Priority = PriorityClass.Low;
        launch.Launch.Spec.Cpus = (uint)Math.Min(32, 2 * Environment.ProcessorCount);
        launch.Launch.Spec.Boot = new BootSource { KernelPath = TinyKernel.Write(scratch.Folder, TinyKernel.Spinning()) };
        await stream.SendAsync(launch);
        var pid = (await stream.ExpectReportAsync(Id, HostVmState.Running)).VmmPid;
        try
        {
            var group = File.ReadAllLines($"/proc/{pid}/cgroup").Select(line => line.Split(':')[2]).First(path => path.StartsWith("/fleet/", StringComparison.Ordinal));
            var file = new[] { "/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/unified" }
                .SelectMany(root => new[] { $"{root}{group}/cpu.max", $"{root}{group}/cpu.cfs_quota_us" }).First(File.Exists);
            string Quota() => File.ReadAllText(file).Split(' ')[0].Trim();
            var free = Quota();
            for (var rounds = 0; rounds < 5 && Quota() == free; rounds++)
            {
                // At least one vCPU has used up what it had at first and what the ten seconds of this clock bring: 1.5 s.
                var before = ProcessIdentity.ReadUse(pid)!.Cpu;
                await Scratch.Until(() => ProcessIdentity.ReadUse(pid)!.Cpu - before > launch.Launch.Spec.Cpus * TimeSpan.FromSeconds(1.6), "the guest works", seconds: 120);
                for (var ticks = 0; ticks < 6; ticks++)
                    await TickAsync(stream, _ => { });
            }
            // Set by actors that were asked at the last tick.
            await Scratch.Until(() => int.Parse(Quota(), CultureInfo.InvariantCulture) < int.Parse(free, CultureInfo.InvariantCulture) - 50_000, "the quota is less");
        }
        finally
        {
            await stream.SendAsync(Remove());
            await stream.ExpectReportAsync(Id, HostVmState.Removed);
        }
    }

    private static double[] Weights(ScriptedVmm vmm) => [.. vmm.Shares.Select(share => share.Weight)];

    /// <summary>Starts one with one vCPU.</summary>
    private static async Task RunAsync(AgentStream stream, int number, string priority, uint memoryMib)
    {
        var launch = Launch(id: IdOf(number));
        launch.Launch.Spec.Priority = priority;
        launch.Launch.Spec.MemoryMib = memoryMib;
        await stream.SendAsync(launch);
        await stream.ExpectReportAsync(IdOf(number), HostVmState.Running);
    }

    /// <summary>Lets the clock go on until a word comes that is wanted; null: any.</summary>
    private async Task<PressureReport> NextAsync(AgentStream stream, Func<PressureReport, bool>? wanted, Action? each = null)
    {
        for (var i = 0; i < 200; i++)
        {
            PressureReport? found = null;
            each?.Invoke();
            await TickAsync(stream, message => found = message.Pressure is { } told && wanted?.Invoke(told) != false ? told : found);
            if (found is not null)
                return found;
        }
        throw new Xunit.Sdk.XunitException("the word did not come");
    }

    private async Task TickUntilAsync(AgentStream stream, Func<bool> condition)
    {
        for (var i = 0; i < 500; i++)
        {
            if (condition())
                return;
            await TickAsync(stream, _ => { });
        }
        throw new Xunit.Sdk.XunitException("it did not come to that");
    }

    private async Task TickAsync(AgentStream stream, Action<HostMessage> heard)
    {
        _clock.Advance(Tick);
        // The answer to this tells that the tick was seen before the clock goes on.
        var epoch = ++_asked;
        await stream.SendAsync(Stop(epoch));
        await stream.ExpectAsync(message =>
        {
            heard(message);
            return message.Report?.Epoch == epoch;
        });
    }
}

/// <summary>The kernel's files of a machine that does not exist.</summary>
internal sealed class RecordedMachine : IDisposable
{
    private ulong _stalledUs;
    private int _steal;
    private int _idle = 800;

    public RecordedMachine()
    {
        Directory.CreateDirectory(Path.Combine(Folder, "pressure"));
        Runs(stolen: 0);
        MemoryAvailable(0.5);
        Stall();
    }

    public string Folder { get; } = Directory.CreateTempSubdirectory("fleet-proc-").FullName;

    public void MemoryAvailable(double share) =>
        Write("meminfo", $"MemTotal:       10000000 kB\nMemFree:          10000 kB\nMemAvailable:   {(int)(10_000_000 * share)} kB\n");

    /// <summary>A hundred ticks more, some of which were stolen.</summary>
    public void Runs(int stolen)
    {
        (_steal, _idle) = (_steal + stolen, _idle + 100 - stolen);
        Write("stat", $"cpu  100 20 30 {_idle} 30 5 5 {_steal} 7 3\ncpu0 1 1\ncpu1 1 1\nintr 5\n");
    }

    /// <summary>Ten seconds more.</summary>
    public void StallsAll()
    {
        _stalledUs += 10_000_000;
        Stall();
    }

    public void Dispose() => Directory.Delete(Folder, true);

    private void Stall() => Write("pressure/memory", $"some avg10=0.00 avg60=0.00 avg300=0.00 total={_stalledUs}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={_stalledUs}\n");

    // As a whole: the agent never reads half a file.
    private void Write(string name, string text)
    {
        var path = Path.Combine(Folder, name);
        File.WriteAllText(path + ".new", text);
        File.Move(path + ".new", path, overwrite: true);
    }
}
