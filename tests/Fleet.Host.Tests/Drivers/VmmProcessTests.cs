using System.Diagnostics;
using System.Net.Sockets;
using Fleet.Host.Consoles;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;

namespace Fleet.Host.Tests.Drivers;

public sealed class VmmProcessTests : IDisposable
{
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(20);

    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-process-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private VmmProcess Shell(string script, params string[] arguments) =>
        VmmProcess.Start(_folder, "/bin/sh", ["-c", script, "vmm", .. arguments]);

    private string Read(string name) => File.ReadAllText(Path.Combine(_folder, name));

    [Fact]
    public async Task Should_tell_an_exit_code_and_leave_no_zombie()
    {
        var process = Shell("exit 42");
        Assert.Equal(new ProcessEnd(42, null), await process.Ended.WaitAsync(Soon));
        Assert.False(Directory.Exists($"/proc/{process.Pid}"));
        process.Signal(Posix.SigKill);
    }

    [Fact]
    public async Task Should_tell_a_signal()
    {
        var process = Shell("exec sleep 1000");
        process.Signal(Posix.SigKill);
        Assert.Equal(new ProcessEnd(null, 9), await process.Ended.WaitAsync(Soon));
    }

    [Fact]
    public async Task Should_pass_arguments_on_as_they_are()
    {
        string[] arguments = ["a b", "$(touch x)", "'", "\"", "*", "", "ü\n-"];
        var process = Shell("printf '<%s>' \"$@\"", arguments);
        await process.Ended.WaitAsync(Soon);
        Assert.Equal(string.Concat(arguments.Select(a => $"<{a}>")), Read(ConsoleLog.FileName));
    }

    [Fact]
    public async Task Should_stand_alone_in_its_session_with_its_own_streams_and_nothing_else()
    {
        using var inherited = File.OpenHandle("/dev/null");
        var process = Shell("""
            ls -l /proc/self/fd | sed -n 's/.* \([0-9]* -> .*\)/\1/p' | grep -v ' /proc/' ; pwd
            read -r stat </proc/$$/stat; set -- $stat; echo "session $6 group $5 self $$"
            grep -E '^Sig(Ign|Blk)' /proc/self/status
            """);
        Assert.Equal(0, (await process.Ended.WaitAsync(Soon)).ExitCode);
        var lines = Read(ConsoleLog.FileName).TrimEnd().Split('\n');
        Assert.Equal($"0 -> {_folder}/console.in", lines[0]);
        // The shell's pipe stands for its standard output.
        Assert.Equal($"2 -> {_folder}/vmm.log", lines[2]);
        Assert.Equal(_folder, lines[3]);
        Assert.Equal($"session {process.Pid} group {process.Pid} self {process.Pid}", lines[4]);
        Assert.Equal("SigBlk:\t0000000000000000", lines[5]);
        // SIGXFSZ, 25, and no other but the C library's own.
        Assert.Equal(1ul << 24, Convert.ToUInt64(lines[6]["SigIgn:\t".Length..], 16) & 0x7fffffff);
    }

    [Fact]
    public async Task Should_go_on_when_its_output_is_full()
    {
        var process = Shell("head -c 20000000 /dev/zero; echo still here >&2; exec sleep 1000");
        await Scratch.Until(() => File.Exists(Path.Combine(_folder, VmmFiles.Log)) && Read(VmmFiles.Log).Contains("still here", StringComparison.Ordinal), "the line after the flood");
        Assert.Equal(ConsoleLog.Limit, new FileInfo(Path.Combine(_folder, ConsoleLog.FileName)).Length);
        process.LimitFileSize((ulong)ConsoleLog.Limit * 2);
        Assert.Contains($"{ConsoleLog.Limit * 2} ", File.ReadAllText($"/proc/{process.Pid}/limits"), StringComparison.Ordinal);
        process.Signal(Posix.SigKill);
        await process.Gone.WaitAsync(Soon);
    }

    [Fact]
    public async Task Should_be_found_by_what_it_wrote_down()
    {
        Assert.Null(VmmProcess.TryAdopt(_folder, out var absence));
        Assert.Equal(VmmAbsence.NeverStarted, absence);
        var process = Shell("exec sleep 1000");
        await Scratch.Until(() => VmmProcess.TryAdopt(_folder, out _) is not null, "the process to name itself");
        var adopted = VmmProcess.TryAdopt(_folder, out _)!;
        Assert.Equal(process.Pid, adopted.Pid);
        adopted.Signal(Posix.SigKill);
        await adopted.Gone.WaitAsync(Soon);
        await process.Gone.WaitAsync(Soon);
        Assert.Null(VmmProcess.TryAdopt(_folder, out absence));
        Assert.Equal(VmmAbsence.Gone, absence);
    }

    [Fact]
    public void Should_leave_no_child_running_that_can_not_be_held()
    {
        var pid = Spawn.Start(_folder, "/bin/sh", ["-c", "exec sleep 1000"], new SpawnStreams("/dev/null", "out", "out"));
        var failure = Assert.Throws<IOException>(() => ProcessWatch.Catch(pid, _ => throw new IOException("no descriptor is left")));
        Assert.Equal("no descriptor is left", failure.Message);
        Assert.False(Directory.Exists($"/proc/{pid}"), "the child lives, or is a zombie");
    }

    [Fact]
    public async Task Should_see_who_works_in_a_directory_over_links()
    {
        var link = _folder + "-link";
        Directory.CreateSymbolicLink(link, _folder);
        try
        {
            Assert.False(ProcessIdentity.WorksIn(link));
            var process = Shell("exec sleep 1000");
            await Scratch.Until(() => ProcessIdentity.WorksIn(link), "the process to be seen");
            Assert.True(await VmmProcess.EndStrayAsync(link, TimeProvider.System, CancellationToken.None));
            await process.Gone.WaitAsync(Soon);
            Assert.False(await VmmProcess.EndStrayAsync(link, TimeProvider.System, CancellationToken.None));
        }
        finally
        {
            Directory.Delete(link);
        }
    }

    [Fact]
    public async Task Should_not_hand_on_the_environment_of_the_agent()
    {
        Environment.SetEnvironmentVariable("FLEET_TEST_SECRET", "secret");
        var process = Shell("exec cat /proc/self/environ");
        await process.Ended.WaitAsync(Soon);
        Assert.DoesNotContain("secret", Read(ConsoleLog.FileName), StringComparison.Ordinal);
        Assert.Contains("PATH=", Read(ConsoleLog.FileName), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_watch_a_process_that_is_no_child()
    {
        // The shell in between ends, so the sleeper becomes init's.
        using var between = Process.Start(new ProcessStartInfo("/bin/sh",
        [
            "-c", "setsid sh -c 'read -r boot </proc/sys/kernel/random/boot_id; read -r stat </proc/$$/stat; printf \"%s\\n%s\\n\" \"$boot\" \"$stat\" >vmm.pid; exec sleep 1000' & exit 0",
        ])
        { WorkingDirectory = _folder })!;
        await between.WaitForExitAsync();
        VmmProcess? adopted = null;
        await Scratch.Until(() => (adopted ??= VmmProcess.TryAdopt(_folder, out _)) is not null, "the sleeper to name itself");
        Assert.False(adopted!.Ended.IsCompleted);
        adopted.Signal(Posix.SigKill);
        Assert.Equal(default, await adopted.Ended.WaitAsync(Soon));
    }

    [Theory]
    [InlineData("", nameof(VmmAbsence.NeverStarted))]
    [InlineData("{boot}\n", nameof(VmmAbsence.NeverStarted))]
    [InlineData("{boot}\n{stat}", nameof(VmmAbsence.NeverStarted))]
    [InlineData("{boot}\nrubbish\n", nameof(VmmAbsence.NeverStarted))]
    [InlineData("another-boot\n{stat}\n", nameof(VmmAbsence.MachineRebooted))]
    [InlineData("{boot}\n{later}\n", nameof(VmmAbsence.Gone))]
    public void Should_not_take_over_a_stranger(string text, string expected)
    {
        string stat = File.ReadAllText("/proc/self/stat").TrimEnd();
        var fields = stat[(stat.LastIndexOf(')') + 2)..].Split(' ');
        string later = stat.Replace($" {fields[19]} ", $" {long.Parse(fields[19]) + 1} ", StringComparison.Ordinal);
        File.WriteAllText(Path.Combine(_folder, VmmFiles.Pid), text
            .Replace("{boot}", ProcessIdentity.CurrentBoot(), StringComparison.Ordinal)
            .Replace("{stat}", stat, StringComparison.Ordinal)
            .Replace("{later}", later, StringComparison.Ordinal));
        Assert.Null(VmmProcess.TryAdopt(_folder, out var absence));
        Assert.Equal(expected, absence.ToString());
    }

    [Fact]
    public void Should_read_a_process_with_a_strange_name()
    {
        var identity = ProcessIdentity.Parse("boot\n12 (a) b (c d) S 1 12 12 0 -1 4194304 1 0 0 0 3 4 0 0 20 0 1 0 777 1 1\n");
        Assert.Equal(new ProcessIdentity(12, 777, "boot"), identity);
    }

    [Fact]
    public async Task Should_say_what_did_not_start()
    {
        var process = VmmProcess.Start(_folder, "/nonexistent/vmm", []);
        Assert.Equal(127, (await process.Ended.WaitAsync(Soon)).ExitCode);
        Assert.Contains("/nonexistent/vmm", VmmProcess.LastWords(_folder), StringComparison.Ordinal);
        var failure = Assert.Throws<LaunchFailedException>(() => VmmProcess.Start(Path.Combine(_folder, "nowhere"), "/bin/true", []));
        Assert.Equal("vmm_failed", failure.Code);
    }

    [Fact]
    public async Task Should_reach_sockets_in_directories_with_long_names()
    {
        string deep = Path.Combine(_folder, new string('d', 200), new string('e', 200));
        Directory.CreateDirectory(deep);
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        using (var handle = Posix.OpenDirectory(deep))
        {
            listener.Bind(new UnixDomainSocketEndPoint($"/proc/self/fd/{handle.DangerousGetHandle()}/api.sock"));
        }
        listener.Listen();
        using var connected = await VmmSocket.ConnectAsync(deep, "api.sock", default);
        Assert.True(connected.Connected);
    }
}
