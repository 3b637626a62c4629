using System.Text;
using Fleet.Host.Consoles;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Tests.Drivers;

public sealed class QemuDriverTests
{
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(30);

    private static async Task<QemuDriver> DriverAsync()
    {
        var driver = new QemuDriver(Scratch.Options());
        var status = await driver.ProbeAsync(default);
        Skip.IfNot(status.Usable, "qemu: " + status.Detail);
        return driver;
    }

    [SkippableFact]
    public async Task Should_tell_the_exit_status_and_keep_the_console()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Speaking("hello\n", "FLEET 1 ready\nFLEET 1 exit 7\n"));
        await using var vmm = await driver.LaunchAsync(launch, default);
        Assert.Single(await vmm.VcpuThreads);

        var end = await vmm.Completion.WaitAsync(Soon);

        Assert.True(end.InOrder, end.Reason.Message);
        Assert.Equal("command_exited", end.Reason.Code);
        Assert.Equal(7, end.Exit?.Status);
        await vmm.GuestReady.WaitAsync(Soon);
        Assert.Equal("hello\n", await ReadAsync(launch.Directory, vmm.Completion));
        Assert.False(Directory.Exists($"/proc/{vmm.Pid}"));
    }

    [SkippableFact]
    public async Task Should_refuse_rate_limits_that_it_could_not_keep()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Ready());
        launch.Spec.RateLimits.Add("entropy", new RateLimit { Ops = new TokenBucket { Size = 1, RefillTimeMs = 1 } });
        var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => driver.LaunchAsync(launch, default));
        Assert.Equal("driver_unusable", refused.Code);
        Assert.Null(VmmProcess.TryAdopt(launch.Directory, out _));
    }

    [SkippableFact]
    public async Task Should_tell_a_reset_without_a_status()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        await using var vmm = await driver.LaunchAsync(scratch.Launch(TinyKernel.Speaking("", "")), default);
        var end = await vmm.Completion.WaitAsync(Soon);
        Assert.Equal((true, "guest_shutdown"), (end.InOrder, end.Reason.Code));
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => vmm.GuestReady);
    }

    [SkippableFact]
    public async Task Should_tell_a_guest_that_halts_for_good()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        await using var vmm = await driver.LaunchAsync(scratch.Launch(TinyKernel.Halting(), cpus: 2), default);
        Assert.Equal(2, (await vmm.VcpuThreads).Count);
        var end = await vmm.Completion.WaitAsync(Soon);
        Assert.Equal((false, "guest_halted"), (end.InOrder, end.Reason.Code));
    }

    [SkippableFact]
    public async Task Should_tell_a_triple_fault()
    {
        var driver = await DriverAsync();
        Skip.If(new KvmProbe().Look().Kind == KvmKind.Hardware, "QEMU on hardware KVM reports a triple fault as a reset");
        await using var scratch = new Scratch();
        await using var vmm = await driver.LaunchAsync(scratch.Launch(TinyKernel.Crashing()), default);
        var end = await vmm.Completion.WaitAsync(Soon);
        Assert.Equal((false, "guest_crashed"), (end.InOrder, end.Reason.Code));
    }

    [SkippableFact]
    public async Task Should_tell_what_a_guest_uses()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        await using var vmm = await driver.LaunchAsync(scratch.Launch(TinyKernel.Spinning()), default);
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
        await using var vmm = await driver.LaunchAsync(scratch.Launch(TinyKernel.Spinning()), default);
        await vmm.StopAsync(TimeSpan.FromMilliseconds(300)).WaitAsync(Soon);
        Assert.True(vmm.Completion.IsCompleted);
        var end = await vmm.Completion;
        Assert.Equal((true, "stop_requested"), (end.InOrder, end.Reason.Code));
    }

    [SkippableFact]
    public async Task Should_let_a_second_stop_shorten_the_grace()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        await using var vmm = await driver.LaunchAsync(scratch.Launch(TinyKernel.Spinning()), default);
        var patient = vmm.StopAsync(TimeSpan.FromMinutes(5));
        await vmm.StopAsync(TimeSpan.FromMilliseconds(1)).WaitAsync(Soon);
        await patient.WaitAsync(Soon);
        Assert.Equal("stop_requested", (await vmm.Completion).Reason.Code);
    }

    [SkippableFact]
    public async Task Should_end_a_guest_that_said_its_last_word_and_runs_on()
    {
        await DriverAsync();
        var driver = new QemuDriver(Scratch.Options() with { Clock = new FastClock(20) });
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Reporting("FLEET 1 error exec_failed no shell\n"));
        await using var vmm = await driver.LaunchAsync(launch, default);
        var end = await vmm.Completion.WaitAsync(Soon);
        Assert.Equal((false, "launch_failed"), (end.InOrder, end.Reason.Code));
        Assert.Contains("exec_failed: no shell", end.Reason.Message, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task Should_stop_a_guest_in_order_that_listens()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        await using var vmm = await driver.LaunchAsync(scratch.Launch(TinyKernel.EndingOnKey()), default);
        await vmm.GuestReady.WaitAsync(Soon);
        // Returns long before the grace is over, so the guest heard the keys.
        await vmm.StopAsync(TimeSpan.FromMinutes(5)).WaitAsync(Soon);
        Assert.Equal("stop_requested", (await vmm.Completion).Reason.Code);
    }

    [SkippableFact]
    public async Task Should_tell_a_killed_VMM()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        await using var vmm = await driver.LaunchAsync(scratch.Launch(TinyKernel.Ready()), default);
        await vmm.GuestReady.WaitAsync(Soon);
        Kill(vmm.Pid);
        var end = await vmm.Completion.WaitAsync(Soon);
        Assert.Equal((false, "vmm_killed"), (end.InOrder, end.Reason.Code));
        Assert.Contains("signal 9", end.Reason.Message, StringComparison.Ordinal);
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

    /// <summary>Starts a VMM, waits until its guest is ready and lets go of it, as an agent does that ends; its pid.</summary>
    private static async Task<int> LeaveAsync(QemuDriver driver, VmmLaunch launch)
    {
        await using var vmm = await driver.LaunchAsync(launch, default);
        await vmm.GuestReady.WaitAsync(Soon);
        return vmm.Pid;
    }

    [SkippableFact]
    public async Task Should_be_taken_over_by_another_driver()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.EndingOnKey());
        int pid = await LeaveAsync(driver, launch);

        await using var second = await new QemuDriver(Scratch.Options()).AdoptAsync(launch, default);
        Assert.NotNull(second);

        Assert.Equal(pid, second.Pid);
        await second.GuestReady.WaitAsync(Soon);
        Assert.Single(await second.VcpuThreads.WaitAsync(Soon));
        Assert.False(second.Completion.IsCompleted);
        await second.StopAsync(TimeSpan.FromMinutes(5)).WaitAsync(Soon);
        Assert.Equal("stop_requested", (await second.Completion).Reason.Code);
    }

    [SkippableFact]
    public async Task Should_ask_again_when_stopped_before_it_is_connected()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.EndingOnKey());
        await LeaveAsync(driver, launch);

        // QEMU serves one connection at a time: as long as this one lives, the next driver gets no greeting.
        var busy = await VmmSocket.ConnectAsync(launch.Directory, VmmFiles.QmpSocket, default);
        await using var second = await driver.AdoptAsync(launch, default);
        Assert.NotNull(second);
        await second.GuestReady.WaitAsync(Soon);
        var stop = second.StopAsync(TimeSpan.FromMinutes(5));
        Assert.False(stop.IsCompleted);
        busy.Dispose();

        await stop.WaitAsync(Soon);
        Assert.Equal("stop_requested", (await second.Completion).Reason.Code);
    }

    [SkippableFact]
    public async Task Should_learn_an_end_that_came_while_nobody_watched()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.EndingOnKey());
        await LeaveAsync(driver, launch);
        using (var socket = await VmmSocket.ConnectAsync(launch.Directory, VmmFiles.QmpSocket, default))
        await using (var qmp = await QmpConnection.OpenAsync(socket, TimeProvider.System, (_, _) => { }, default))
        {
            await qmp.ExecuteAsync("human-monitor-command", new() { ["command-line"] = "sendkey a" }, default);
        }

        await using var second = await driver.AdoptAsync(launch, default);
        Assert.NotNull(second);

        var end = await second.Completion.WaitAsync(Soon);
        Assert.Equal((true, "guest_shutdown"), (end.InOrder, end.Reason.Code));
    }

    [SkippableFact]
    public async Task Should_tell_a_VMM_killed_while_nobody_watched()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Spinning());
        var first = await driver.LaunchAsync(launch, default);
        await first.DisposeAsync();
        Kill(first.Pid);
        await Scratch.Until(() => !Directory.Exists($"/proc/{first.Pid}"), "QEMU's end");
        await using var second = await driver.AdoptAsync(launch, default);
        Assert.NotNull(second);
        Assert.Equal((0, "vmm_killed"), (second.Pid, (await second.Completion).Reason.Code));
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
            CheckFlood(chunk);
            if ((seen += chunk.Data.Length) > 256 * 1024) break;
        }
        Assert.False(vmm.Completion.IsCompleted);
    }

    [SkippableFact]
    public async Task Should_refuse_a_second_launch_in_a_directory_in_use()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Spinning());
        await using var vmm = await driver.LaunchAsync(launch, default);
        var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => driver.LaunchAsync(launch, default));
        Assert.Equal("launch_failed", refused.Code);
        Assert.True(Directory.Exists($"/proc/{vmm.Pid}"));
    }

    [SkippableFact]
    public async Task Should_say_why_QEMU_did_not_start_and_leave_nothing_running()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        // More vCPUs than the machine type takes.
        var launch = scratch.Launch(TinyKernel.Spinning(), cpus: 4000);
        var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => driver.LaunchAsync(launch, default));
        Assert.Equal("vmm_failed", refused.Code);
        Assert.Contains("CPU", refused.Message, StringComparison.OrdinalIgnoreCase);
        Assert.Null(VmmProcess.TryAdopt(launch.Directory, out _));
    }

    [SkippableFact]
    public async Task Should_leave_nothing_running_when_cancelled()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        foreach (int milliseconds in (int[])[0, 5, 20, 60])
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
    public async Task Should_refuse_kernels_that_are_none()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(Encoding.ASCII.GetBytes("#!/bin/sh\n"));
        var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => driver.LaunchAsync(launch, default));
        Assert.Equal("kernel_invalid", refused.Code);

        launch.Spec.Boot.KernelPath = Path.Combine(scratch.Folder, "nowhere");
        refused = await Assert.ThrowsAsync<LaunchFailedException>(() => driver.LaunchAsync(launch, default));
        Assert.Equal("kernel_missing", refused.Code);
    }

    internal static void CheckFlood(ConsoleBytes chunk)
    {
        var text = Encoding.ASCII.GetString(chunk.Data.Span);
        for (int i = 0; i + 8 <= text.Length; i += 8)
        {
            ulong offset = chunk.Offset + (ulong)i;
            string expected = (offset / 8).ToString("x7") + "\n";
            int shift = (int)(offset % 8);
            if (text.Substring(i, 8) != expected[shift..] + ((offset / 8 + 1).ToString("x7") + "\n")[..shift])
            {
                Assert.Fail($"at {offset}: {text.Substring(i, 8)}, not what belongs there");
            }
        }
    }

    private static async Task<string> ReadAsync(string directory, Task ended)
    {
        var text = new StringBuilder();
        await foreach (var chunk in new ConsoleLog(directory).ReadAsync(null, follow: true, ended))
        {
            text.Append(Encoding.Latin1.GetString(chunk.Data.Span));
        }
        return text.ToString();
    }

    private static void Kill(int pid)
    {
        using var process = System.Diagnostics.Process.GetProcessById(pid);
        process.Kill();
    }
}
