using System.Text;
using Fleet.Host.Consoles;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Fencing;
using Fleet.Shared.Contracts;
using Fleet.Tests;

namespace Fleet.Host.Tests.Drivers;

/// <summary>The driver kvm with the real fleet-vmm and small kernels, which any /dev/kvm runs.</summary>
public sealed class KvmDriverTests
{
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(30);

    private static async Task<KvmDriver> DriverAsync()
    {
        var driver = new KvmDriver(Options());
        var status = await driver.ProbeAsync(default);
        Skip.IfNot(status.Usable, "kvm: " + status.Detail);
        return driver;
    }

    private static DriverOptions Options() =>
        new(Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm"), DriverOptions.DefaultQemu, new Scratch.NoImage());

    [SkippableFact]
    public async Task Should_tell_the_exit_status_and_keep_the_console()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Speaking("hello\n", "FLEET 1 ready\nFLEET 1 exit 7\n"));
        await using var vmm = await driver.LaunchAsync(launch, default);
        var end = await vmm.Completion.WaitAsync(Soon);
        Assert.Equal((true, "command_exited", 7), (end.InOrder, end.Reason.Code, end.Exit?.Status));
        Assert.Equal("hello\n", File.ReadAllText(Path.Combine(launch.Directory, ConsoleLog.FileName)));
        Assert.False(Directory.Exists($"/proc/{vmm.Pid}"));
    }

    [SkippableFact]
    public async Task Should_tell_how_guests_end()
    {
        var driver = await DriverAsync();
        (byte[] Kernel, bool InOrder, string Code)[] guests =
        [
            (TinyKernel.Speaking("", ""), true, "guest_shutdown"),
            (TinyKernel.Halting(), false, "guest_halted"),
            (TinyKernel.Crashing(), false, "guest_crashed"),
        ];
        foreach (var guest in guests)
        {
            await using var scratch = new Scratch();
            await using var vmm = await driver.LaunchAsync(scratch.Launch(guest.Kernel, cpus: 2), default);
            var end = await vmm.Completion.WaitAsync(Soon);
            Assert.Equal((guest.InOrder, guest.Code), (end.InOrder, end.Reason.Code));
        }
    }

    [SkippableFact]
    public async Task Should_give_the_CPU_template_that_is_asked_for_and_refuse_one_that_it_has_not()
    {
        await DriverAsync();
        var driver = new KvmDriver(Options() with { CpuTemplates = new Dictionary<string, string> { ["plain"] = "{}", ["impossible"] = """{"kvm_capabilities": ["99999"]}""" } });
        async Task<VmmEnd> LaunchAsync(string template)
        {
            await using var scratch = new Scratch();
            var launch = scratch.Launch(TinyKernel.Speaking("", "FLEET 1 ready\nFLEET 1 exit 3\n"));
            launch.Spec.CpuTemplate = template;
            await using var vmm = await driver.LaunchAsync(launch, default);
            return await vmm.Completion.WaitAsync(Soon);
        }

        Assert.Equal(3, (await LaunchAsync("plain")).Exit?.Status);
        Assert.Contains("99999", (await Assert.ThrowsAsync<LaunchFailedException>(() => LaunchAsync("impossible"))).Message, StringComparison.Ordinal);
        var missing = await Assert.ThrowsAsync<LaunchFailedException>(() => LaunchAsync("other"));
        Assert.Equal("driver_unusable", missing.Code);
        Assert.Contains("no CPU template other", missing.Message, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task Should_let_the_jailed_vmm_write_when_its_guest_ran()
    {
        await DriverAsync();
        await using var scratch = new Scratch();
        var runs = Path.Combine(scratch.Folder, "runs");
        var driver = new KvmDriver(Options() with { Runs = new RunLogs(runs, "box") });
        await using var vmm = await driver.LaunchAsync(scratch.Launch(TinyKernel.Spinning(), cpus: 2), default);
        var path = Assert.Single(Directory.GetFiles(runs, "vm-01test.1.*.jsonl"));
        await Scratch.Until(() => File.ReadAllText(path).Contains("alive", StringComparison.Ordinal), "a sign of life");
        await vmm.StopAsync(TimeSpan.Zero).WaitAsync(Soon);
        var lines = File.ReadAllLines(path);
        Assert.Matches("""^\{"boot_ms":[0-9]+,"vm":"vm-01test","epoch":1,"policy":"strict","host":"box","event":"run"\}$""", lines[0]);
        Assert.EndsWith(""","event":"end"}""", lines[^1], StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task Should_tell_what_a_guest_uses()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        await using var vmm = await driver.LaunchAsync(scratch.Launch(TinyKernel.Spinning(), cpus: 2), default);
        await Scratch.Until(() => vmm.ReadUse()?.Cpu > TimeSpan.FromMilliseconds(500), "half a second of CPU");
        Assert.InRange(vmm.ReadUse()!.MemoryKib, 1024, 1024 * 1024);
        await vmm.StopAsync(TimeSpan.Zero).WaitAsync(Soon);
        Assert.Null(vmm.ReadUse());
    }

    [SkippableFact]
    public async Task Should_stop_a_guest_that_does_not_listen()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        await using var vmm = await driver.LaunchAsync(scratch.Launch(TinyKernel.Spinning(), cpus: 2), default);
        var threads = await vmm.VcpuThreads.WaitAsync(Soon);
        Assert.Equal(2, threads.Count);
        Assert.All(threads, thread => Assert.True(Directory.Exists($"/proc/{vmm.Pid}/task/{thread}")));
        await vmm.StopAsync(TimeSpan.FromMilliseconds(300)).WaitAsync(Soon);
        Assert.Equal("stop_requested", (await vmm.Completion).Reason.Code);
    }

    /// <summary>Jailed, filtered, and without anybody who tells it to.</summary>
    [SkippableFact]
    public async Task Should_end_a_guest_whose_lease_nobody_renews_and_keep_one_whose_lease_is_renewed()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var begin = Posix.BootTime;
        var launch = scratch.Launch(TinyKernel.Spinning(), cpus: 2) with { Lease = new(begin + TimeSpan.FromSeconds(3), begin + TimeSpan.FromSeconds(3.2)) };
        await using var vmm = await driver.LaunchAsync(launch, default);
        var end = begin + TimeSpan.FromSeconds(4);
        Assert.True(await vmm.HoldLeaseAsync(new(end, end + TimeSpan.FromMilliseconds(200)), default));
        Assert.Equal("lease_over", (await vmm.Completion.WaitAsync(Soon)).Reason.Code);
        Assert.InRange(Posix.BootTime, end, end + Soon);
    }

    [SkippableFact]
    public async Task Should_stop_a_guest_in_order_that_listens()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        await using var vmm = await driver.LaunchAsync(scratch.Launch(TinyKernel.EndingOnKey()), default);
        await vmm.GuestReady.WaitAsync(Soon);
        await vmm.StopAsync(TimeSpan.FromMinutes(5)).WaitAsync(Soon);
        Assert.Equal("stop_requested", (await vmm.Completion).Reason.Code);
    }

    [SkippableFact]
    public async Task Should_carry_console_input()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Echoing());
        await using var vmm = await driver.LaunchAsync(launch, default);
        await vmm.GuestReady.WaitAsync(Soon);
        await vmm.WriteConsoleAsync("one two"u8.ToArray(), default);
        string path = Path.Combine(launch.Directory, ConsoleLog.FileName);
        await Scratch.Until(() => new FileInfo(path).Length == 7, "the echo");
        Assert.Equal("one two", File.ReadAllText(path));
    }

    /// <summary>The limit on file sizes goes along with it, or there is none where it can't.</summary>
    [SkippableFact]
    public async Task Should_keep_a_console_that_is_longer_than_what_is_kept_of_it()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Echoing());
        await using var vmm = await driver.LaunchAsync(launch, default);
        await vmm.GuestReady.WaitAsync(Soon);
        string path = Path.Combine(launch.Directory, ConsoleLog.FileName);
        const long before = 3 * ConsoleLog.Limit;
        await using (var file = new FileStream(path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
            file.SetLength(before);
        await Scratch.Until(() => new ConsoleLog(launch.Directory).Extent().Start > ConsoleLog.Limit, "the console to be trimmed");
        await Scratch.Until(
            () =>
            {
                _ = vmm.WriteConsoleAsync("m"u8.ToArray(), default).AsTask();
                return new FileInfo(path).Length > before;
            },
            "the echo");
        Assert.False(vmm.Completion.IsCompleted);
    }

    [SkippableFact]
    public async Task Should_be_taken_over_and_tell_a_kill()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Ready());
        Assert.Null(await driver.AdoptAsync(launch, default));
        var first = await driver.LaunchAsync(launch, default);
        await first.GuestReady.WaitAsync(Soon);
        await first.DisposeAsync();
        await using var second = await new KvmDriver(Options()).AdoptAsync(launch, default);
        Assert.NotNull(second);
        Assert.Equal(first.Pid, second.Pid);
        await second.GuestReady.WaitAsync(Soon);
        Assert.Single(await second.VcpuThreads.WaitAsync(Soon));

        VmmProcess.TryAdopt(launch.Directory, out _)!.Signal(Posix.SigKill);

        var end = await second.Completion.WaitAsync(Soon);
        Assert.Equal((false, "vmm_killed"), (end.InOrder, end.Reason.Code));
        await using var third = await driver.AdoptAsync(launch, default);
        Assert.Equal("vmm_killed", (await third!.Completion).Reason.Code);
    }

    /// <summary>What a VMM could do that a guest broke into: its limit on file sizes goes by offsets, and grows with the console's.</summary>
    [SkippableFact]
    public async Task Should_end_a_vmm_that_fills_the_disk()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Ready());
        await using var vmm = await driver.LaunchAsync(launch, default);
        await vmm.GuestReady.WaitAsync(Soon);
        var path = Path.Combine(launch.Directory, VmmFiles.Exit);
        await using (var writer = new FileStream(path, FileMode.Append, FileAccess.Write, FileShare.ReadWrite))
            await writer.WriteAsync(new byte[2 << 20]);
        var end = await vmm.Completion.WaitAsync(Soon);
        Assert.Equal((false, "vmm_failed"), (end.InOrder, end.Reason.Code));
        Assert.Contains(VmmFiles.Exit, end.Reason.Message, StringComparison.Ordinal);
        Assert.InRange(new FileInfo(path).Length, 0, 1 << 20);
    }

    [SkippableFact]
    public async Task Should_start_with_rate_limits_and_change_them_while_the_guest_runs()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Ready());
        var limit = new RateLimit { Bandwidth = new TokenBucket { Size = 65536, RefillTimeMs = 1000, OneTimeBurst = 10 } };
        launch.Spec.RateLimits.Add("entropy", limit);
        await using var vmm = await driver.LaunchAsync(launch, default);
        await vmm.GuestReady.WaitAsync(Soon);
        Assert.Equal(new LimiterReading(limit, 0, 0, 0, 0), await vmm.ReadLimiterAsync("entropy", default));

        var other = new RateLimit { Ops = new TokenBucket { Size = 7, RefillTimeMs = 100 } };
        await vmm.SetLimiterAsync("entropy", other, default);
        Assert.Equal(other, (await vmm.ReadLimiterAsync("entropy", default))!.InForce);

        await vmm.SetLimiterAsync("entropy", null, default);
        Assert.Null((await vmm.ReadLimiterAsync("entropy", default))!.InForce);
        Assert.Null(await vmm.ReadLimiterAsync("disk", default));
    }

    [SkippableFact]
    public async Task Should_learn_from_the_exit_file_what_happened_meanwhile()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Halting());
        var first = await driver.LaunchAsync(launch, default);
        await first.DisposeAsync();
        await Scratch.Until(() => !Directory.Exists($"/proc/{first.Pid}"), "fleet-vmm's end");
        await using var second = await driver.AdoptAsync(launch, default);
        Assert.Equal((0, "guest_halted"), (second!.Pid, (await second.Completion).Reason.Code));
    }

    [SkippableFact]
    public async Task Should_keep_a_flooding_guest_running_within_bounds()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Flooding());
        await using var vmm = await driver.LaunchAsync(launch, default);
        await vmm.GuestReady.WaitAsync(Soon);
        using var stop = new CancellationTokenSource(Soon);
        long seen = 0;
        await foreach (var chunk in new ConsoleLog(launch.Directory).ReadAsync(0, follow: true, vmm.Completion, stop.Token))
        {
            QemuDriverTests.CheckFlood(chunk);
            if ((seen += chunk.Data.Length) > 64 * 1024) break;
        }
        Assert.False(vmm.Completion.IsCompleted);
    }

    [SkippableFact]
    public async Task Should_refuse_what_fleet_vmm_can_not_start_and_leave_nothing_running()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        // An ELF program that looks right, but is to be loaded where there is no memory.
        var kernel = TinyKernel.Spinning();
        BitConverter.TryWriteBytes(kernel.AsSpan(64 + 24), 1ul << 40);
        var launch = scratch.Launch(kernel);
        var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => driver.LaunchAsync(launch, default));
        Assert.Equal("kernel_invalid", refused.Code);
        Assert.Null(VmmProcess.TryAdopt(launch.Directory, out _));
    }

    [SkippableFact]
    public async Task Should_leave_nothing_running_when_cancelled()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        foreach (int milliseconds in (int[])[0, 2, 5, 10, 20])
        {
            var launch = scratch.Launch(TinyKernel.Spinning());
            using var cancel = new CancellationTokenSource(milliseconds);
            try
            {
                await using var vmm = await driver.LaunchAsync(launch, cancel.Token);
                await vmm.StopAsync(TimeSpan.Zero);
            }
            catch (OperationCanceledException)
            {
                Assert.True(cancel.IsCancellationRequested);
            }
            Assert.Null(VmmProcess.TryAdopt(launch.Directory, out _));
        }
    }

    [SkippableFact]
    public async Task Should_refuse_a_stock_kernel_that_would_be_interpreted()
    {
        var driver = await DriverAsync();
        Skip.If(new KvmProbe().Look().Kind != KvmKind.Interpreting, "this machine's KVM runs stock kernels");
        Assert.False((await driver.ProbeAsync(default)).StockKernels);
        await using var scratch = new Scratch();
        var launch = scratch.Launch(new() { Name = "stock", Cpus = 1, MemoryMib = 256 });
        var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => driver.LaunchAsync(launch, default));
        Assert.Equal("driver_unusable", refused.Code);
    }
}
