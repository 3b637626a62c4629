using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Jail;

namespace Fleet.Host.Tests.Drivers.Jail;

/// <summary>What the agent knows of jails, without one.</summary>
public sealed class JailPartsTests
{
    private const string Hybrid = "cgroup /c/cpu cgroup rw,cpu,cpuacct 0 0\ncgroup /c/memory cgroup rw,memory 0 0\ncgroup /c/pids cgroup rw,pids 0 0\ncgroup2 /c/unified cgroup2 rw 0 0\n";

    private static ControlGroups Groups(string mounts, string controllers = "", string parent = "fleet/x") => new(parent, mounts, _ => controllers);

    [Fact]
    public void Should_use_version_2_where_it_has_the_controllers()
    {
        var groups = Groups("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", "cpuset cpu io memory pids\n");
        Assert.Equal(2, groups.Version);
        Assert.Empty(groups.NotEnforced);
        Assert.Equal(["memory.max=203423744", "cpu.max=250000 100000", "cpu.weight=200", "pids.max=64"], groups.Settings(2, 128));
    }

    [Fact]
    public void Should_use_version_1_where_version_2_has_none()
    {
        var groups = Groups(Hybrid);
        Assert.Equal(1, groups.Version);
        Assert.Empty(groups.NotEnforced);
        Assert.Equal(
            ["memory.limit_in_bytes=203423744", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=150000", "cpu.shares=1024", "pids.max=64"], groups.Settings(1, 128));
    }

    [Theory]
    [InlineData(2, "cpu.max=65000 100000 cpu.weight=50", "cpu.max=250000 100000 cpu.weight=200", "cpu.max=1000 100000 cpu.weight=1")]
    [InlineData(1, "cpu.cfs_period_us=100000 cpu.cfs_quota_us=65000 cpu.shares=512", "cpu.cfs_period_us=100000 cpu.cfs_quota_us=250000 cpu.shares=2048",
        "cpu.cfs_period_us=100000 cpu.cfs_quota_us=1000 cpu.shares=2")]
    public async Task Should_set_the_share_of_CPU_in_the_groups_files(int version, string held, string free, string least)
    {
        await using var scratch = new Scratch();
        var group = Path.Combine(scratch.Folder, "fleet/x/vm-1");
        Directory.CreateDirectory(group);
        var groups = Groups(version == 2 ? $"cgroup2 {scratch.Folder} cgroup2 rw 0 0" : $"cgroup {scratch.Folder} cgroup rw,cpu,memory,pids 0 0", "memory cpu pids");
        string Set(CpuShare share)
        {
            groups.ShareCpu("vm-1", share);
            return string.Join(' ', Directory.GetFiles(group).Order(StringComparer.Ordinal).Select(file => $"{Path.GetFileName(file)}={File.ReadAllText(file)}"));
        }

        Assert.Equal(held, Set(new CpuShare(2, 0.65, 0.5)));
        Assert.Equal(free, Set(new CpuShare(2, null, 2)));
        Assert.Equal(least, Set(new CpuShare(2, 0, 0)));
        Assert.Throws<DirectoryNotFoundException>(() => groups.ShareCpu("vm-2", new CpuShare(1, null, 1)));
        Groups($"cgroup2 {scratch.Folder} cgroup2 rw 0 0", "memory pids").ShareCpu("vm-2", new CpuShare(1, null, 1)); // nothing to set
    }

    [Fact]
    public void Should_say_what_is_not_enforced()
    {
        var none = Groups("proc /proc proc rw 0 0");
        Assert.Equal((0, "memory cpu pids"), (none.Version, string.Join(' ', none.NotEnforced)));
        Assert.Empty(none.Settings(1, 128));

        var some = Groups("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", "memory pids");
        Assert.Equal((2, "cpu"), (some.Version, string.Join(' ', some.NotEnforced)));
        Assert.DoesNotContain(some.Settings(1, 128), setting => setting.StartsWith("cpu", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Should_remove_groups_that_nothing_runs_in_and_no_others()
    {
        await using var scratch = new Scratch();
        string agent = Path.Combine(scratch.Folder, "fleet/x");
        Directory.CreateDirectory(Path.Combine(agent, "vm-1"));
        Directory.CreateDirectory(Path.Combine(agent, "vm-2"));
        // A folder with something in it is what a group in use looks like to rmdir.
        Directory.CreateDirectory(Path.Combine(agent, "vm-3/busy"));
        var groups = Groups($"cgroup2 {scratch.Folder} cgroup2 rw 0 0", "memory cpu pids");
        Assert.True(groups.TryRemove("vm-1"));
        Assert.True(groups.TryRemove("vm-1"));
        Assert.False(groups.TryRemove("vm-3"));
        groups.Sweep();
        groups.TryRemoveParent();
        Assert.Equal(["vm-3"], Directory.GetDirectories(agent).Select(Path.GetFileName));
    }

    [Fact]
    public async Task Should_give_each_microVM_a_user_of_its_own_and_remember_it()
    {
        await using var scratch = new Scratch();
        var folders = Enumerable.Range(0, 4).Select(i => Directory.CreateDirectory(Path.Combine(scratch.Folder, $"vm-{i}")).FullName).ToArray();
        var pool = new UserPool();
        uint first = pool.Take(folders[0]), second = pool.Take(folders[1]);
        Assert.NotEqual(first, second);
        Assert.All((uint[])[first, second], user => Assert.InRange(user, 0x70000000u, 0x7fffffffu));

        var next = new UserPool();
        uint third = next.Take(folders[2]);
        Assert.DoesNotContain(third, (uint[])[first, second]);
        next.Return(folders[0]);
        next.Return(folders[0]);
        Assert.Equal(first, next.Take(folders[3]));
    }

    [Fact]
    public void Should_know_threads_by_the_hosts_numbers()
    {
        // Without a namespace of its own a process's numbers are the host's.
        Assert.Equal([Environment.ProcessId], InnerThreads.ToOuter(Environment.ProcessId, [Environment.ProcessId]));
        Assert.Throws<IOException>(() => InnerThreads.ToOuter(Environment.ProcessId, [int.MaxValue]));
        Assert.ThrowsAny<IOException>(() => InnerThreads.ToOuter(int.MaxValue, [1]));
    }
}
