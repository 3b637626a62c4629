using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>Commands in a guest, from the command line to fleet-init and back, on whatever this machine's <c>auto</c> is.</summary>
[Trait("Kind", "Slow")]
public sealed class ExecTests
{
    private static readonly TimeSpan Boot = TimeSpan.FromSeconds(120);

    [Fact]
    public async Task Should_run_commands_and_copy_files_in_a_guest_over_kill_9_of_the_agent()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var (exit, output, error) = await fleet.CliAsync("vm", "run", "-d", "--name", "box", "--env", "FROM_SPEC=spec", "--", "sleep", "10000");
        Assert.True(exit == 0, $"{output}\n{error}\n{fleet.Log()}");

        // At once: what is asked before the guest has booted waits for it.
        await RunningFleet.WaitAsync("the guest's first answer", async () => (await fleet.CliAsync("vm", "exec", "box", "--", "true")).Exit == 0, Boot);
        (exit, output, error) = await fleet.CliAsync("vm", "exec", "-e", "FROM_EXEC=exec", "-w", "/tmp", "box", "--", "sh", "-c", "echo $FROM_SPEC $FROM_EXEC $PWD; echo err >&2; exit 9");
        Assert.Equal((9, "spec exec /tmp\n", "err\n"), (exit, output.ReplaceLineEndings("\n"), error.ReplaceLineEndings("\n")));
        (exit, output, error) = await fleet.CliWithInputAsync("typed\n", "vm", "exec", "-i", "box", "--", "sh", "-c", "cat; echo over");
        Assert.Equal((0, "typed\nover\n"), (exit, output.ReplaceLineEndings("\n")));
        (exit, output, error) = await fleet.CliAsync("vm", "exec", "-t", "box", "--", "sh", "-c", "test -t 1 && echo terminal");
        Assert.Equal((0, "terminal"), (exit, output.Trim()));
        (exit, output, error) = await fleet.CliAsync("vm", "exec", "-u", "nobody", "box", "--", "id", "-un");
        Assert.True((exit, output.Trim()) == (0, "nobody"), $"exit {exit}\n{output}\n{error}");

        (exit, _, error) = await fleet.CliAsync("vm", "exec", "box", "--", "no-such-program");
        Assert.Equal(127, exit);
        Assert.Contains("command_not_found", error, StringComparison.Ordinal);
        (exit, _, error) = await fleet.CliAsync("vm", "exec", "other", "--", "true");
        Assert.Equal(125, exit);
        Assert.Contains("not_found", error, StringComparison.Ordinal);

        var from = Path.Combine(fleet.Files, "from");
        Directory.CreateDirectory(Path.Combine(from, "inner"));
        var bytes = new byte[3_000_000];
        Random.Shared.NextBytes(bytes);
        await File.WriteAllBytesAsync(Path.Combine(from, "inner", "file"), bytes);
        (exit, _, error) = await fleet.CliAsync("vm", "cp", from, "box:/tmp/there");
        Assert.True(exit == 0, error);
        (exit, _, error) = await fleet.CliAsync("vm", "cp", "box:/tmp/there", Path.Combine(fleet.Files, "back"));
        Assert.True(exit == 0, error);
        Assert.Equal(bytes, await File.ReadAllBytesAsync(Path.Combine(fleet.Files, "back", "inner", "file")));
        (exit, _, error) = await fleet.CliAsync("vm", "cp", "box:/tmp/nothing", fleet.Files);
        Assert.Equal(1, exit);
        Assert.Contains("The guest could not pack /tmp/nothing: ", error, StringComparison.Ordinal);
        Assert.Contains("There is nothing at /tmp/nothing. (copy_failed)", error, StringComparison.Ordinal);

        // Node and agent die in the middle: the clients hear it, the command ends, what is half copied is nowhere, and the guest serves the next agent.
        var (half, here) = (Path.Combine(fleet.Files, "half"), Directory.CreateDirectory(Path.Combine(fleet.Files, "here")).FullName);
        await using (var sparse = File.Create(half))
            sparse.SetLength(8L << 30);
        (exit, _, error) = await fleet.CliAsync("vm", "exec", "box", "--", "sh", "-c", "mkdir /tmp/in && truncate -s 8G /tmp/out");
        Assert.True(exit == 0, error);
        // The guest's side of the one stands still as soon as something has come; the other is long enough.
        var standing = fleet.CliAsync("vm", "exec", "box", "--", "sh", "-c",
            "until ls -A /tmp/in | grep -q .; do :; done; for p in /proc/[0-9]*; do grep -q '[u]npack' $p/cmdline && kill -STOP ${p#/proc/} && exit; done; exit 1");
        var goingIn = fleet.CliAsync("vm", "cp", half, "box:/tmp/in");
        (exit, _, error) = await standing;
        Assert.True(exit == 0, error);
        var comingOut = fleet.CliAsync("vm", "cp", "box:/tmp/out", here);
        var cut = fleet.CliAsync("vm", "exec", "box", "--", "sh", "-c", "echo $$ > /tmp/pid; sleep 10000");
        await RunningFleet.WaitAsync("the command", async () => (await fleet.CliAsync("vm", "exec", "box", "--", "test", "-s", "/tmp/pid")).Exit == 0, Boot);
        await RunningFleet.WaitAsync("what is copied out", () => Task.FromResult(new DirectoryInfo(here).EnumerateFiles().Any(file => file.Length > 0)), onTimeout: fleet.Log);
        fleet.Kill();
        Assert.Equal(125, (await cut).Exit);
        Assert.Equal((5, 5), ((await goingIn).Exit, (await comingOut).Exit));
        Assert.Empty(Directory.EnumerateFileSystemEntries(here));
        await fleet.UpAsync();
        await fleet.WaitForAsync("box", "running");
        await RunningFleet.WaitAsync("the guest's answer to the next agent", async () => (await fleet.CliAsync("vm", "exec", "box", "--", "true")).Exit == 0, Boot);
        (exit, _, error) = await fleet.CliAsync("vm", "exec", "box", "--", "sh", "-c", "sleep 3; ! kill -0 $(cat /tmp/pid)");
        Assert.True(exit == 0, error);
        await RunningFleet.WaitAsync("nothing to be left of the half file", async () => (await fleet.CliAsync("vm", "exec", "box", "--", "ls", "-A", "/tmp/in")) is (0, "", _));
        (exit, _, error) = await fleet.CliAsync("vm", "delete", "box");
        Assert.True(exit == 0, error);
    }
}
