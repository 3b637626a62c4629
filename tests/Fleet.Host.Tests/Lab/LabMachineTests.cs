using Fleet.Host.Lab;

namespace Fleet.Host.Tests.Lab;

/// <summary>One machine: boot attempts, commands, ends.</summary>
public sealed class LabMachineTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(20);

    [Fact]
    public async Task Should_start_a_node_again_that_hangs()
    {
        using var fake = new FakeEmulator($"if [ -e tried ]; then {FakeEmulator.Works}\nfi; touch tried; {FakeEmulator.Hangs}");
        await using var node = await fake.BootAsync(fake.Options with { BootTimeout = TimeSpan.FromSeconds(2), BootAttempts = 5 });
        Assert.True(node.IsOn);
        Assert.True(File.Exists(Path.Combine(node.Folder, "tried")));
        Assert.Single(fake.Processes());
    }

    [Fact]
    public async Task Should_give_up_on_a_node_that_always_hangs_and_leave_nothing()
    {
        using var fake = new FakeEmulator("echo 'soft lockup' >>serial.log; " + FakeEmulator.Hangs);
        var options = fake.Options with { BootTimeout = TimeSpan.FromSeconds(1), BootAttempts = 2 };
        var error = await Assert.ThrowsAsync<LabException>(() => fake.BootAsync(options));
        Assert.Equal("boot_failed", error.Code);
        Assert.Contains("2 attempts", error.Message, StringComparison.Ordinal);
        Assert.Contains("soft lockup | soft lockup", error.Message, StringComparison.Ordinal);
        Assert.Empty(fake.Processes());
        Assert.Empty(Directory.GetFileSystemEntries(options.StateDirectory));
    }

    [Fact]
    public async Task Should_say_what_the_emulator_said_when_it_does_not_start()
    {
        using var fake = new FakeEmulator("echo 'qemu: cannot set up guest memory' >&2; exit 1");
        var error = await Assert.ThrowsAsync<LabException>(() => fake.BootAsync(fake.Options));
        Assert.Equal("boot_failed", error.Code);
        Assert.Contains("cannot set up guest memory", error.Message, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFileSystemEntries(fake.Options.StateDirectory));
    }

    [Fact]
    public async Task Should_give_back_output_errors_and_status_and_keep_no_files_of_a_command()
    {
        using var fake = new FakeEmulator(FakeEmulator.Works);
        await using var node = await fake.BootAsync(fake.Options);
        var before = Directory.GetFiles(Path.Combine(node.Folder, "exchange"));
        var results = await Task.WhenAll(Enumerable.Range(0, 3).Select(i =>
            node.RunAsync(LabCommand.Shell($"echo out {i}; echo err {i} >&2; exit {i + 5}"), Limit)));
        Assert.Equal([5, 6, 7], results.Select(result => result.ExitStatus));
        Assert.Equal(["out 0\n", "out 1\n", "out 2\n"], results.Select(result => result.Output));
        Assert.Equal(["err 0\n", "err 1\n", "err 2\n"], results.Select(result => result.Errors));
        Assert.Equal(before, Directory.GetFiles(Path.Combine(node.Folder, "exchange")));
    }

    [Fact]
    public async Task Should_kill_a_command_that_takes_too_long_and_stay_usable()
    {
        using var fake = new FakeEmulator(FakeEmulator.Works);
        await using var node = await fake.BootAsync(fake.Options);
        var error = await Assert.ThrowsAsync<LabException>(() => node.RunAsync(LabCommand.Shell("echo begun; sleep 1000"), TimeSpan.FromSeconds(0.5)));
        Assert.Equal("command_timeout", error.Code);
        Assert.Contains("begun", error.Message, StringComparison.Ordinal);
        Assert.Equal(0, (await node.RunAsync(LabCommand.Shell(":"), Limit)).ExitStatus);
    }

    [Fact]
    public async Task Should_tell_a_node_that_hung_from_a_command_that_takes_long()
    {
        using var fake = new FakeEmulator("echo 1 >exchange/ready; echo 'soft lockup - CPU#1 stuck' >serial.log; exec 3<>control.in; " + FakeEmulator.Hangs);
        await using var node = await fake.BootAsync(fake.Options);
        node.AnswerLimit = TimeSpan.FromSeconds(0.3);
        var error = await Assert.ThrowsAsync<LabException>(() => node.RunAsync(LabCommand.Shell(":"), TimeSpan.FromSeconds(0.2)));
        Assert.Equal("node_stuck", error.Code);
        Assert.Contains("soft lockup", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_say_that_the_node_ended_under_a_command()
    {
        using var fake = new FakeEmulator(FakeEmulator.Works);
        await using var node = await fake.BootAsync(fake.Options);
        var running = node.RunAsync(LabCommand.Shell("exec sleep 3"), Limit);
        await node.PowerOffAsync();
        Assert.Equal("node_off", (await Assert.ThrowsAsync<LabException>(() => running)).Code);
        Assert.Equal("node_off", (await Assert.ThrowsAsync<LabException>(() => node.RunAsync(LabCommand.Shell(":"), Limit))).Code);
    }

    [Fact]
    public async Task Should_stop_an_emulator_from_filling_the_disk()
    {
        using var fake = new FakeEmulator("exec 2>/dev/null; head -c 1000000 /dev/zero >flood; ls -l flood >size; " + FakeEmulator.Hangs);
        Directory.CreateDirectory(fake.Root);
        var process = await NodeProcess.StartAsync(fake.Root, Path.Combine(fake.Root, "qemu"), [], NodeLifetime.WithThisProcess, fileSizeLimit: 65536);
        for (var tries = 0; !File.Exists(Path.Combine(fake.Root, "size")) && tries < 1000; tries++) await Task.Delay(20);
        Assert.Equal(65536, new FileInfo(Path.Combine(fake.Root, "flood")).Length);
        Assert.True(process.IsRunning);
        await process.KillAsync();
        Assert.False(process.IsRunning);
    }

    [Fact]
    public async Task Should_find_an_emulator_that_nobody_recorded_and_nothing_when_it_is_gone()
    {
        using var fake = new FakeEmulator(FakeEmulator.Hangs);
        Assert.Null(NodeProcess.Find(fake.Root));
        var process = await NodeProcess.StartAsync(fake.Root, fake.Options.Qemu, [], NodeLifetime.Detached, 65536);
        var found = NodeProcess.Find(fake.Root);
        Assert.Equal(process.Pid, found?.Pid);
        await found!.KillAsync();
        Assert.Null(NodeProcess.Find(fake.Root));
        Assert.Empty(fake.Processes());
        await process.KillAsync();
    }
}
