using System.Diagnostics;
using System.Net.Sockets;
using Fleet.Vmm.Jail;
using Xunit;

namespace Fleet.Vmm.Tests.Jail;

/// <summary>What an attacker who has taken over a VMM tries, from inside the jail and without the filters: each wall holds by itself.</summary>
public sealed class JailedProcessTests
{
    private const int Denied = 0;
    private const int OutOfMemory = 128 + 9;

    private static string Limits(string name, int value) => $"{name}={value}";

    private static void AssertDenied(string attempt, params string[] options)
    {
        using var jail = new JailRun(JailAttacker.Source);
        var code = jail.Try(attempt, options);
        Assert.True(code == Denied, $"{attempt}: exit code {code}");
    }

    [SkippableTheory]
    [InlineData("open:/etc/passwd")]
    [InlineData("open:/../../etc/passwd")]
    [InlineData("open:/proc/1/root/etc/passwd")]
    [InlineData("open:/.old/etc/passwd")]
    [InlineData("open:/dev/mem")]
    [InlineData("climb")]
    [InlineData("handle")]
    [InlineData("create:/file")]
    [InlineData("create:/dev/file")]
    [InlineData("chroot")]
    public void Should_hide_the_hosts_files(string attempt) => AssertDenied(attempt);

    [SkippableTheory]
    [InlineData("mount")]
    [InlineData("umount")]
    [InlineData("remount")]
    [InlineData("mknod")]
    public void Should_let_nothing_be_mounted(string attempt) => AssertDenied(attempt);

    [SkippableFact]
    public void Should_hide_other_processes_and_their_memory()
    {
        using var victim = new JailRun(JailAttacker.Source);
        Assert.Equal((0, ""), victim.Start([], "sleep"));
        foreach (var pid in (int[])[victim.Pid, Environment.ProcessId])
        {
            foreach (var attempt in (string[])["signal", "ptrace", "readmemory", "procmemory", "pidfd"])
            {
                AssertDenied($"{attempt}:{pid}");
            }
        }
    }

    [SkippableTheory]
    [InlineData("socket:2:3:1")] // IPv4, raw, ICMP
    [InlineData("socket:17:3:768")] // packets
    [InlineData("connect")]
    [InlineData("tap")]
    public void Should_have_no_network(string attempt) => AssertDenied(attempt);

    [SkippableFact]
    public void Should_not_reach_the_hosts_abstract_sockets()
    {
        var name = $"fleet-jail-test-{Environment.ProcessId}";
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint("\0" + name));
        listener.Listen();
        AssertDenied("abstract:" + name);
    }

    [SkippableTheory]
    [InlineData("setuid")]
    [InlineData("capabilities")]
    [InlineData("newprivs")]
    [InlineData("sethostname")]
    [InlineData("priority")]
    public void Should_have_no_privileges(string attempt) => AssertDenied(attempt);

    [SkippableFact]
    public void Should_inherit_nothing()
    {
        AssertDenied("environment");
        AssertDenied("descriptors");
    }

    [SkippableFact]
    public void Should_get_no_more_processes_than_allowed() => AssertDenied("processes:20", "--resource-limit", Limits("nproc", 20));

    [SkippableFact]
    public void Should_get_no_more_files_than_allowed() => AssertDenied("files:40", "--resource-limit", Limits("no-file", 40));

    [SkippableFact]
    public void Should_write_no_larger_files_than_allowed()
    {
        using var jail = new JailRun(JailAttacker.Source);
        Assert.Equal(Denied, jail.Try("filesize:65536", "--resource-limit", Limits("fsize", 65536), "--fd", "3=write:out"));
        Assert.Equal(65536, new FileInfo(jail.Files.File("out")).Length);
    }

    [SkippableFact]
    public void Should_get_no_more_memory_than_allowed()
    {
        var version = Version("memory");
        using var jail = new JailRun(JailAttacker.Source);
        Assert.Equal(OutOfMemory, jail.Try("memory:96", "--cgroup", (version == 2 ? "memory.max" : "memory.limit_in_bytes") + "=33554432"));
        Assert.Equal(Denied, jail.Try("environment", "--cgroup", (version == 2 ? "memory.max" : "memory.limit_in_bytes") + "=33554432"));
    }

    [SkippableFact]
    public void Should_get_no_more_threads_than_its_control_group_allows()
    {
        _ = Version("pids");
        AssertDenied("processes:10", "--cgroup", "pids.max=10");
    }

    [SkippableFact]
    public void Should_get_no_more_CPU_than_allowed()
    {
        var setting = Version("cpu") == 2 ? "cpu.max=10000 100000" : "cpu.cfs_quota_us=10000";
        using var jail = new JailRun(JailAttacker.Source);
        Assert.Equal((0, ""), jail.Start(["--cgroup", setting], "sleep"));

        // What the group says is what the kernel keeps to; measuring it would need a quiet machine.
        var groups = File.ReadAllLines($"/proc/{jail.Pid}/cgroup").Where(line => line.Contains(jail.Id, StringComparison.Ordinal));
        Assert.Single(groups);
    }

    [SkippableFact]
    public void Should_end_by_SIGKILL_from_outside_and_leave_no_mount()
    {
        var before = File.ReadAllText("/proc/self/mountinfo");
        using var jail = new JailRun(JailAttacker.Source);
        Assert.Equal((0, ""), jail.Start([], "sleep"));
        Assert.Equal(before, File.ReadAllText("/proc/self/mountinfo"));
        Assert.NotEqual(File.ReadAllText("/proc/self/mountinfo"), File.ReadAllText($"/proc/{jail.Pid}/mountinfo"));
        foreach (var kind in (string[])["mnt", "pid", "net", "ipc", "uts", "cgroup"])
        {
            Assert.NotEqual(File.ResolveLinkTarget($"/proc/self/ns/{kind}", false)!.Name, File.ResolveLinkTarget($"/proc/{jail.Pid}/ns/{kind}", false)!.Name);
        }

        Assert.Equal(0, Api.Native.kill(jail.Pid, 9));
        Assert.Equal(128 + 9, jail.Wait());
    }

    private static int Version(string controller)
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "a jail is built by root");
        var hierarchies = ControlGroups.Find(File.ReadAllText("/proc/self/mounts"), File.ReadAllText);
        var found = hierarchies.Find(one => one.Controllers.Contains(controller));
        Skip.If(found is null, $"no control group has the controller {controller}");
        return found!.Version;
    }
}
