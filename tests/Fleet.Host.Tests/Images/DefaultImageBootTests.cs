using System.Diagnostics;
using Fleet.Host.Images;
using Serilog.Core;
using Xunit;

namespace Fleet.Host.Tests.Images;

/// <summary>The real image: Debian's kernel from the host's package source, fleet-init as published.</summary>
public sealed class RealImage : IAsyncLifetime, IDisposable
{
    /// <summary>Names a fleet-init that was published already.</summary>
    public const string InitVariable = "FLEET_INIT";

    private readonly TestFolder _folder = new();

    internal TestFolder Folder => _folder;

    internal DefaultImageStore Store { get; private set; } = null!;

    internal BootImage Image { get; private set; } = null!;

    internal static bool CanBoot => File.Exists(GuestMachine.Qemu);

    public async Task InitializeAsync()
    {
        if (!CanBoot) return;
        var init = Environment.GetEnvironmentVariable(InitVariable) ?? await PublishInitAsync();
        Store = new DefaultImageStore(new ImageOptions(_folder.At("cache"), init), Logger.None);
        Image = await Store.GetDefaultAsync(default);
    }

    public Task DisposeAsync() => Task.CompletedTask;

    public void Dispose()
    {
        Store?.Dispose();
        _folder.Dispose();
    }

    private async Task<string> PublishInitAsync()
    {
        var root = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(root, "Fleet.sln"))) root = Path.GetDirectoryName(root) ?? throw new InvalidOperationException("Fleet.sln is not above the tests");
        var start = new ProcessStartInfo("dotnet", ["publish", Path.Combine(root, "Fleet.Guest"), "-c", "Release", "-v", "q", "-nologo", "-o", _folder.At("init")])
        {
            RedirectStandardOutput = true,
        };
        using var publish = Process.Start(start)!;
        var output = await publish.StandardOutput.ReadToEndAsync();
        await publish.WaitForExitAsync();
        return publish.ExitCode == 0 ? _folder.At("init", "fleet-init") : throw new InvalidOperationException("fleet-init does not publish: " + output);
    }
}

[Trait("Kind", "Slow")]
public sealed class DefaultImageBootTests(RealImage real) : IClassFixture<RealImage>
{
    [SkippableFact]
    public async Task A_command_runs_and_its_status_comes_back()
    {
        await using var guest = await BootAsync(2, "sh", "-c", "echo hello from $(uname -r) on $(nproc) cpus; exit 7");
        await guest.EndAsync();
        Assert.Matches(@"\Ahello from \d+\.\d+\S+ on 2 cpus\r\n\z", guest.Console);
        Assert.Equal(["FLEET 1 ready", "FLEET 1 exit 7"], guest.Status);
    }

    [SkippableFact]
    public async Task Arguments_and_environment_arrive_as_they_are()
    {
        string[] tricky = ["two words", "'single' \"double\"", "", "ünïcode 🚀", "line\nbreak", "$HOME `id` \\ *", "-n", " "];
        await using var guest = await BootAsync(1, ["sh", "-c", "printf '[%s]' \"$GREETING\" \"$@\"", "sh", .. tricky]);
        await guest.EndAsync();
        var expected = string.Concat(((string[])["a b=ç", .. tricky]).Select(argument => $"[{argument.Replace("\n", "\r\n", StringComparison.Ordinal)}]"));
        Assert.Equal(expected, guest.Console);
        Assert.Equal("FLEET 1 exit 0", guest.Status[^1]);
    }

    [SkippableTheory]
    [InlineData("FLEET 1 exit 127", "fleet-init: no-such-command: not found", "no-such-command")]
    [InlineData("FLEET 1 exit 126", "fleet-init: /etc/passwd: Permission denied", "/etc/passwd")]
    [InlineData("FLEET 1 exit 137", "", "sh", "-c", "kill -KILL $$")]
    public async Task Every_end_has_the_shells_status(string status, string console, params string[] argv)
    {
        await using var guest = await BootAsync(1, argv);
        await guest.EndAsync();
        Assert.Equal(["FLEET 1 ready", status], guest.Status);
        Assert.Equal(console, guest.Console.TrimEnd());
    }

    [SkippableFact]
    public async Task No_byte_of_output_is_lost_at_the_end()
    {
        // The background process writes no more once the command has ended; the command's own last lines all come out.
        await using var guest = await BootAsync(1, "sh", "-c", "(while :; do sleep 60; done) & seq 1 20000");
        await guest.EndAsync();
        Assert.Equal(string.Concat(Enumerable.Range(1, 20000).Select(i => $"{i}\r\n")), guest.Console);
        Assert.Equal("FLEET 1 exit 0", guest.Status[^1]);
    }

    [SkippableFact]
    public async Task The_end_waits_for_a_reader_that_is_late()
    {
        // The pipe holds 64 KiB, the rest stands in the guest's own buffer when the command is gone.
        await using var guest = await BootAsync(1, holdConsole: true, "sh", "-c", "printf %067000d 7");
        var started = Stopwatch.StartNew();
        TimeSpan? ready = null;
        while (ready is null || started.Elapsed - ready < TimeSpan.FromSeconds(4))
        {
            Assert.True(started.Elapsed < TimeSpan.FromSeconds(90), "the guest was never ready");
            if (guest.Status.Count > 0) ready ??= started.Elapsed;
            Assert.True(guest.Status.Count < 2, "the end was reported before the output was out");
            await Task.Delay(50);
        }
        guest.ReleaseConsole();
        await guest.EndAsync();
        Assert.Equal(67000, guest.Console.Length);
        Assert.Equal(["FLEET 1 ready", "FLEET 1 exit 0"], guest.Status);
    }

    [SkippableFact]
    public async Task The_machine_is_one_a_program_can_live_in()
    {
        const string script =
            """
            set -e
            hostname; echo $HOME $TERM; cat /proc/sys/kernel/printk
            for at in /proc /sys /dev /dev/pts /dev/shm /run /tmp; do grep -q " $at " /proc/mounts || echo no $at; done
            echo x > /tmp/x; echo x > /dev/shm/x; ls /dev/fd/0 > /dev/null; test -c /dev/ptmx
            ping -c 1 -q 127.0.0.1 > /dev/null && echo loopback
            modprobe overlay && grep -c overlay /proc/filesystems
            sh -c 'sh -c "exit 1" & exec sleep 0.2' & wait
            sh -c '(sleep 0.1; exit 3) &'; sleep 0.5
            ps -o stat | grep -c Z || true
            test -t 0 && test "$(tty)" = /dev/ttyS0 && echo terminal
            """;
        await using var guest = await BootAsync(1, "sh", "-c", script);
        await guest.EndAsync();
        Assert.Equal(["boot-test", "/root vt220", "1\t4\t1\t7", "loopback", "1", "0", "terminal"],
            guest.Console.Split("\r\n", StringSplitOptions.RemoveEmptyEntries));
        Assert.Equal("FLEET 1 exit 0", guest.Status[^1]);
    }

    [SkippableFact]
    public async Task Without_a_command_there_is_a_shell_with_job_control()
    {
        await using var guest = await BootAsync(1);
        await guest.UntilConsoleShowsAsync("/ #");
        // Only when the command itself has spoken is it certainly in the foreground.
        await guest.TypeAsync("sh -c 'echo as\"\"leep; exec sleep 100'\n");
        await guest.UntilConsoleShowsAsync("asleep");
        await guest.TypeAsync("\u001A");
        await guest.UntilConsoleShowsAsync("Stopped");
        // ash waits for no stopped job, and lets nobody go who has one until it is asked again: it may not have seen yet that the job is dead.
        await guest.TypeAsync("echo $((6 * 7)) jobs; kill -9 %1; exit 3; exit 3\n");
        await guest.EndAsync();
        Assert.Contains("42 jobs\r\n", guest.Console, StringComparison.Ordinal);
        Assert.Equal(["FLEET 1 ready", "FLEET 1 exit 3"], guest.Status);
    }

    [SkippableFact]
    public async Task Ctrl_alt_delete_lets_the_command_end_in_order()
    {
        await using var guest = await BootAsync(1, "sh", "-c", "trap 'echo ending; exit 5' TERM; echo up; while :; do sleep 0.1; done");
        await guest.UntilConsoleShowsAsync("up\r\n");
        await guest.PressCtrlAltDeleteAsync();
        await guest.EndAsync();
        Assert.Contains("ending\r\n", guest.Console, StringComparison.Ordinal);
        Assert.Equal(["FLEET 1 ready", "FLEET 1 exit 5"], guest.Status);
    }

    [SkippableFact]
    public async Task A_command_that_will_not_end_is_killed()
    {
        await using var guest = await BootAsync(1, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done");
        await guest.UntilConsoleShowsAsync("up\r\n");
        await guest.PressCtrlAltDeleteAsync();
        await guest.EndAsync();
        Assert.Equal(["FLEET 1 ready", "FLEET 1 killed", "FLEET 1 exit 137"], guest.Status);
    }

    [SkippableFact]
    public async Task Output_held_back_by_ctrl_s_does_not_hold_the_end()
    {
        await using var guest = await BootAsync(1, "sh", "-c", "echo up; read line; echo held back");
        await guest.UntilConsoleShowsAsync("up\r\n");
        await guest.TypeAsync("\u0013go\n");
        await guest.EndAsync();
        Assert.EndsWith("held back\r\n", guest.Console, StringComparison.Ordinal);
        Assert.Equal(["FLEET 1 ready", "FLEET 1 exit 0"], guest.Status);
    }

    [SkippableFact]
    public async Task A_missing_or_broken_configuration_is_reported()
    {
        Skip.IfNot(RealImage.CanBoot, $"{GuestMachine.Qemu} is not installed");
        await using var without = GuestMachine.Start(real.Folder, real.Image.KernelPath, real.Image.InitrdPath);
        await without.EndAsync();
        Assert.Equal(["FLEET 1 error bad_config /fleet/run.json can't be read: No such file or directory"], without.Status);

        var initrd = real.Folder.At("broken");
        await File.WriteAllBytesAsync(initrd,
            [.. await File.ReadAllBytesAsync(real.Image.InitrdPath), .. new CpioWriter().AddFile("fleet/run.json", "{\"argv\": 1}"u8.ToArray()).ToArray()]);
        await using var broken = GuestMachine.Start(real.Folder, real.Image.KernelPath, initrd);
        await broken.EndAsync();
        Assert.Equal(["FLEET 1 error bad_config 'argv' is not an array"], broken.Status);
        Assert.Equal("fleet-init: 'argv' is not an array\r\n", broken.Console);
    }

    private Task<GuestMachine> BootAsync(int cpus, params string[] argv) => BootAsync(cpus, holdConsole: false, argv);

    private async Task<GuestMachine> BootAsync(int cpus, bool holdConsole, params string[] argv)
    {
        Skip.IfNot(RealImage.CanBoot, $"{GuestMachine.Qemu} is not installed");
        var initrd = real.Folder.At(Guid.NewGuid().ToString("N") + ".initrd");
        await real.Store.WriteInitrdAsync(real.Image, new GuestRun(argv, new Dictionary<string, string> { ["GREETING"] = "a b=ç" }, "boot-test"), initrd, default);
        return GuestMachine.Start(real.Folder, real.Image.KernelPath, initrd, cpus, holdConsole);
    }
}
