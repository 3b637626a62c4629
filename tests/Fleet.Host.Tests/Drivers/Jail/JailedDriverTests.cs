using System.Diagnostics;
using System.Globalization;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Jail;
using Fleet.Host.Drivers.Processes;
using Fleet.Tests;

namespace Fleet.Host.Tests.Drivers.Jail;

/// <summary>What the driver kvm makes of jails, with the real fleet-vmm.</summary>
public sealed class JailedDriverTests
{
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(30);

    private static DriverOptions Options(string? vmm = null) =>
        new(vmm ?? Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm"), DriverOptions.DefaultQemu, new Scratch.NoImage());

    private static async Task<KvmDriver> DriverAsync()
    {
        var driver = new KvmDriver(Options());
        var status = await driver.ProbeAsync(default);
        Skip.IfNot(status.Usable, "kvm: " + status.Detail);
        return driver;
    }

    private static Dictionary<string, string> StatusOf(int pid) =>
        File.ReadAllLines($"/proc/{pid}/status").Select(line => line.Split('\t', 2)).ToDictionary(pair => pair[0].TrimEnd(':'), pair => pair[1]);

    private static string[] GroupsOf(int pid) =>
        [.. File.ReadAllLines($"/proc/{pid}/cgroup").Select(line => line.Split(':')[2]).Where(group => group.StartsWith("/fleet/", StringComparison.Ordinal)).Distinct()];

    private static string[] Hierarchies() => Directory.Exists("/sys/fs/cgroup") ? ["/sys/fs/cgroup", .. Directory.GetDirectories("/sys/fs/cgroup")] : [];

    [SkippableFact]
    public async Task Should_jail_every_microVM_and_leave_nothing_of_it()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var (one, other) = (scratch.Launch(TinyKernel.Spinning()), scratch.Launch(TinyKernel.Spinning()) with { VmId = "vm-02other" });
        string[] groups = [];
        await using (var first = await driver.LaunchAsync(one, default))
        await using (var second = await driver.LaunchAsync(other, default))
        {
            var (status, theirs) = (StatusOf(first.Pid), StatusOf(second.Pid));
            Assert.Equal(("2", "1", "0000000000000000"), (status["Seccomp"], status["NoNewPrivs"], status["CapBnd"]));
            Assert.NotEqual(status["Uid"], theirs["Uid"]);
            Assert.DoesNotContain("0", status["Uid"].Split('\t'));
            Assert.Equal("1", status["NSpid"].Split('\t')[^1]);
            Assert.Empty(Directory.GetFiles($"/proc/{first.Pid}/root"));
            if (ControlGroups.OfThisMachine("fleet").Version > 0)
            {
                groups = [.. GroupsOf(first.Pid), .. GroupsOf(second.Pid)];
                Assert.Equal(2, groups.Length);
            }
            await first.StopAsync(TimeSpan.Zero).WaitAsync(Soon);
            await second.StopAsync(TimeSpan.Zero).WaitAsync(Soon);
        }
        Assert.All(groups, group => Assert.DoesNotContain(Hierarchies(), hierarchy => Directory.Exists(hierarchy + group)));
        Assert.False(File.Exists(Path.Combine(one.Directory, VmmFiles.User)));
        Assert.False(File.Exists(Path.Combine(other.Directory, VmmFiles.User)));
    }

    /// <summary>By the kernel's own account, with a guest that wants all of a CPU.</summary>
    [SkippableFact]
    public async Task Should_hold_a_microVM_to_its_share_of_CPU_and_let_it_go_again()
    {
        var driver = await DriverAsync();
        var groups = ControlGroups.OfThisMachine("fleet");
        Skip.If(groups.NotEnforced.Contains("cpu"), "no control group of this machine limits CPU");
        await using var scratch = new Scratch();
        await using var vmm = await driver.LaunchAsync(scratch.Launch(TinyKernel.Spinning()), default);
        var group = Assert.Single(Hierarchies().Select(hierarchy => hierarchy + GroupsOf(vmm.Pid).Single()), folder => File.Exists(Path.Combine(folder, "cpu.stat")) && Directory.GetFiles(folder, "cpu.*").Length > 3);
        long Throttled() => long.Parse(File.ReadAllLines(Path.Combine(group, "cpu.stat")).Single(line => line.StartsWith("nr_throttled ", StringComparison.Ordinal)).Split(' ')[1], CultureInfo.InvariantCulture);

        vmm.ShareCpu(new CpuShare(1, 0.1, 0.25));
        var (before, began) = (vmm.ReadUse()!.Cpu, Stopwatch.GetTimestamp());
        await Scratch.Until(() => Throttled() > 10, "the guest is held back");
        // And what is at the edges: of periods, and of the hundredths of a second that the kernel counts in.
        Assert.InRange(vmm.ReadUse()!.Cpu - before, TimeSpan.Zero, (Stopwatch.GetElapsedTime(began) * 0.1) + TimeSpan.FromMilliseconds(60));

        vmm.ShareCpu(new CpuShare(1, null, 1));
        Assert.Equal("150000", groups.Version == 2
            ? File.ReadAllText(Path.Combine(group, "cpu.max")).Split(' ')[0]
            : File.ReadAllText(Path.Combine(group, "cpu.cfs_quota_us")).Trim());
        Assert.Equal(groups.Version == 2 ? "100" : "1024", File.ReadAllText(Path.Combine(group, groups.Version == 2 ? "cpu.weight" : "cpu.shares")).Trim());
    }

    [SkippableFact]
    public async Task Should_clean_up_after_a_VMM_that_ended_while_no_agent_watched()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Ready());
        var first = await driver.LaunchAsync(launch, default);
        var groups = GroupsOf(first.Pid);
        await first.DisposeAsync();
        var left = VmmProcess.TryAdopt(launch.Directory, out _)!;
        left.Signal(Posix.SigKill);
        await left.Gone.WaitAsync(Soon);
        Assert.True(File.Exists(Path.Combine(launch.Directory, VmmFiles.User)));

        await using var ended = await new KvmDriver(Options()).AdoptAsync(launch, default);
        Assert.Equal("vmm_killed", (await ended!.Completion).Reason.Code);
        Assert.False(File.Exists(Path.Combine(launch.Directory, VmmFiles.User)));
        Assert.All(groups, group => Assert.DoesNotContain(Hierarchies(), hierarchy => Directory.Exists(hierarchy + group)));
    }

    [SkippableFact]
    public async Task Should_start_nothing_when_the_jail_can_not_be_built()
    {
        await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Spinning());
        // A control group where the jail would make one.
        var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => new KvmDriver(Options() with { ControlGroup = "fleet/../x" }).LaunchAsync(launch, default));
        Assert.Equal("vmm_failed", refused.Code);
        Assert.Contains("parent-cgroup", refused.Message, StringComparison.Ordinal);
        Assert.Null(VmmProcess.TryAdopt(launch.Directory, out _));
        Assert.False(File.Exists(Path.Combine(launch.Directory, VmmFiles.User)));
    }

    [SkippableFact]
    public async Task Should_name_a_forbidden_system_call()
    {
        await DriverAsync();
        await using var scratch = new Scratch();
        // As the jailer does: a sibling that becomes the VMM, and who it is in the pid file. This one then breaks its filter.
        string program = Path.Combine(scratch.Folder, "jailer");
        Build("""
            #define _GNU_SOURCE
            #include <fcntl.h>
            #include <sched.h>
            #include <signal.h>
            #include <stdio.h>
            #include <sys/syscall.h>
            #include <unistd.h>
            int main(void)
            {
                char path[64], text[1024];
                int go[2];
                pipe(go);
                long child = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
                if (!child) { read(go[0], text, 1); kill(getpid(), SIGSYS); pause(); }
                int out = open("vmm.pid", O_WRONLY | O_CREAT, 0600), boot = open("/proc/sys/kernel/random/boot_id", O_RDONLY);
                write(out, text, read(boot, text, sizeof text));
                snprintf(path, sizeof path, "/proc/%ld/stat", child);
                int stat = open(path, O_RDONLY);
                write(out, text, read(stat, text, sizeof text));
                write(go[1], "", 1);
                return 0;
            }
            """, program);
        var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => new KvmDriver(Options(program)).LaunchAsync(scratch.Launch(TinyKernel.Spinning()), default));
        Assert.Equal("seccomp", refused.Code);
        Assert.Contains("type=1326", refused.Message, StringComparison.Ordinal);
    }

    private static void Build(string source, string program)
    {
        Skip.IfNot(File.Exists("/usr/bin/gcc"), "no C compiler");
        using var compiler = Process.Start(new ProcessStartInfo("/usr/bin/gcc", ["-x", "c", "-w", "-o", program, "-"]) { RedirectStandardInput = true })!;
        compiler.StandardInput.Write(source);
        compiler.StandardInput.Close();
        compiler.WaitForExit();
        Assert.Equal(0, compiler.ExitCode);
    }
}
