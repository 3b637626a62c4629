using Fleet.Host.Lab;
using Xunit;

namespace Fleet.Host.Tests.Lab;

/// <summary>The lab's own logic: what is started, listed, powered off, removed, and what is left.</summary>
public sealed class LabTests
{
    private static readonly CancellationToken Never = CancellationToken.None;

    [Fact]
    public async Task Should_start_nodes_and_leave_nothing_after_down()
    {
        using var fake = new FakeEmulator(FakeEmulator.Works);
        var nodes = await fake.Lab.UpAsync(2, Never);
        Assert.Equal(["lab-1", "lab-2"], nodes.Select(node => node.Name));
        Assert.All(nodes, node => Assert.Equal(LabNodeState.Running, node.State));
        Assert.Equal(2, fake.Processes().Count);

        await fake.Lab.DownAsync(Never);
        Assert.Empty(fake.Lab.List());
        Assert.Empty(fake.Processes());
        Assert.False(Directory.Exists(fake.Options.StateDirectory));
        await fake.Lab.DownAsync(Never);
    }

    [Fact]
    public async Task Should_know_its_nodes_in_another_process()
    {
        using var fake = new FakeEmulator(FakeEmulator.Works);
        var started = Assert.Single(await fake.Lab.UpAsync(1, Never));
        var other = FakeEmulator.Over(fake.Options);
        Assert.Equal(started, Assert.Single(other.List()));
        await other.DownAsync(Never);
        Assert.Empty(fake.Processes());
    }

    [Fact]
    public async Task Should_leave_running_nodes_alone_and_start_what_is_missing_or_off()
    {
        using var fake = new FakeEmulator(FakeEmulator.Works);
        await fake.Lab.UpAsync(3, Never);
        await fake.Lab.PowerOffAsync("lab-2", Never);
        Assert.Equal([LabNodeState.Running, LabNodeState.Off, LabNodeState.Running], fake.Lab.List().Select(node => node.State));
        Assert.Equal(2, fake.Processes().Count);
        await fake.Lab.RemoveAsync("lab-3", Never);
        Assert.Equal(["lab-1", "lab-2"], fake.Lab.List().Select(node => node.Name));

        var before = fake.Lab.List()[0].Pid;
        var after = await fake.Lab.UpAsync(3, Never);
        Assert.Equal(before, after[0].Pid);
        Assert.All(after, node => Assert.Equal(LabNodeState.Running, node.State));
        await fake.Lab.DownAsync(Never);
        Assert.Empty(fake.Processes());
    }

    [Fact]
    public async Task Should_take_down_what_a_cancelled_start_started_and_nothing_else()
    {
        // The first node works; the others never get ready.
        using var fake = new FakeEmulator($"case $PWD in *lab-1) {FakeEmulator.Works}\n;; *) {FakeEmulator.Hangs} ;; esac");
        await fake.Lab.UpAsync(1, Never);
        using var cancel = new CancellationTokenSource();
        var up = fake.Lab.UpAsync(3, cancel.Token);
        await EventuallyAsync(() => fake.Processes().Count > 1);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => up);
        var left = Assert.Single(fake.Lab.List());
        Assert.Equal(("lab-1", LabNodeState.Running), (left.Name, left.State));
        Assert.Single(fake.Processes());
        await fake.Lab.DownAsync(Never);
    }

    [Fact]
    public async Task Should_take_down_every_node_when_one_does_not_boot()
    {
        using var fake = new FakeEmulator($"case $PWD in *lab-2) echo no_kvm >exchange/why; mv exchange/why exchange/failed ;; *) {FakeEmulator.Works}\n;; esac; {FakeEmulator.Hangs}");
        var error = await Assert.ThrowsAsync<LabException>(() => fake.Lab.UpAsync(2, Never));
        Assert.Equal("boot_failed", error.Code);
        Assert.Contains("lab-2", error.Message, StringComparison.Ordinal);
        Assert.Contains("no_kvm", error.Message, StringComparison.Ordinal);
        Assert.Empty(fake.Lab.List());
        Assert.Empty(fake.Processes());
        Assert.False(Directory.Exists(fake.Options.StateDirectory));
    }

    [Fact]
    public async Task Should_refuse_a_second_command_while_one_works()
    {
        using var fake = new FakeEmulator(FakeEmulator.Hangs);
        using var cancel = new CancellationTokenSource();
        var up = fake.Lab.UpAsync(1, cancel.Token);
        await EventuallyAsync(() => fake.Processes().Count == 1);
        var error = await Assert.ThrowsAsync<LabException>(() => FakeEmulator.Over(fake.Options).DownAsync(Never));
        Assert.Equal("lab_busy", error.Code);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => up);
        Assert.False(Directory.Exists(fake.Options.StateDirectory));
    }

    [Fact]
    public async Task Should_remove_a_node_whose_record_is_damaged()
    {
        using var fake = new FakeEmulator(FakeEmulator.Works);
        var node = Assert.Single(await fake.Lab.UpAsync(1, Never));
        await File.WriteAllTextAsync(Path.Combine(fake.Options.StateDirectory, "lab-1", "node.json"), "{\"name\":");
        Assert.Equal(node with { MemoryMib = 0, Cpus = 0, StartedAt = null }, Assert.Single(fake.Lab.List()));
        await fake.Lab.RemoveAsync("lab-1", Never);
        Assert.Empty(fake.Processes());
        Assert.False(Directory.Exists(fake.Options.StateDirectory));
    }

    [Theory]
    [InlineData("", "")]
    [InlineData("garbage\n1 2 3\n", "")]
    [InlineData("{boot}\n{pid} (sh) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0\n", "another start time")]
    [InlineData("0b1c\n{pid} {stat}\n", "another boot")]
    public async Task Should_not_take_a_stranger_for_a_node(string pidFile, string why)
    {
        using var fake = new FakeEmulator(FakeEmulator.Works);
        using var stranger = System.Diagnostics.Process.Start("sleep", "1000");
        try
        {
            var folder = Directory.CreateDirectory(Path.Combine(fake.Options.StateDirectory, "lab-1")).FullName;
            var stat = await File.ReadAllTextAsync($"/proc/{stranger.Id}/stat");
            await File.WriteAllTextAsync(Path.Combine(folder, "qemu.pid"), pidFile
                .Replace("{boot}", (await File.ReadAllTextAsync("/proc/sys/kernel/random/boot_id")).Trim(), StringComparison.Ordinal)
                .Replace("{pid}", $"{stranger.Id}", StringComparison.Ordinal)
                .Replace("{stat}", stat[stat.IndexOf('(', StringComparison.Ordinal)..].Trim(), StringComparison.Ordinal));
            Assert.True(fake.Lab.List().Single().State == LabNodeState.Off, why);
            await fake.Lab.DownAsync(Never);
            Assert.False(stranger.HasExited, why);
        }
        finally
        {
            stranger.Kill();
        }
    }

    [Theory]
    [InlineData("lab-9")]
    [InlineData("../lab-1")]
    [InlineData("lab-1/../lab-1")]
    [InlineData("")]
    public async Task Should_refuse_a_node_that_is_not_there(string name)
    {
        using var fake = new FakeEmulator(FakeEmulator.Works);
        await fake.Lab.UpAsync(1, Never);
        var error = await Assert.ThrowsAsync<LabException>(() => fake.Lab.RemoveAsync(name, Never));
        Assert.Equal("node_not_found", error.Code);
        Assert.Contains("lab-1", error.Message, StringComparison.Ordinal);
        await fake.Lab.DownAsync(Never);
    }

    [Fact]
    public async Task Should_run_commands_in_a_node_of_an_earlier_process()
    {
        using var fake = new FakeEmulator(FakeEmulator.Works);
        await fake.Lab.UpAsync(1, Never);
        var other = FakeEmulator.Over(fake.Options);
        var result = await other.RunAsync("lab-1", LabCommand.Shell("echo in; exit 3"), TimeSpan.FromSeconds(20), Never);
        Assert.Equal((3, "in\n"), (result.ExitStatus, result.Output));
        await other.PowerOffAsync("lab-1", Never);
        var error = await Assert.ThrowsAsync<LabException>(() => other.RunAsync("lab-1", LabCommand.Shell(":"), TimeSpan.FromSeconds(20), Never));
        Assert.Equal("node_off", error.Code);
        await other.DownAsync(Never);
    }

    [Fact]
    public async Task Should_refuse_more_memory_than_there_is()
    {
        using var fake = new FakeEmulator(FakeEmulator.Works);
        var error = await Assert.ThrowsAsync<LabException>(() => FakeEmulator.Over(fake.Options with { MemoryMib = 65536 }).UpAsync(32, Never));
        Assert.Equal("no_memory", error.Code);
        Assert.False(Directory.Exists(fake.Options.StateDirectory));
    }

    private static async Task EventuallyAsync(Func<bool> condition)
    {
        for (var tries = 0; !condition(); tries++)
        {
            Assert.True(tries < 1000, "did not happen within 20 s");
            await Task.Delay(20);
        }
    }
}
