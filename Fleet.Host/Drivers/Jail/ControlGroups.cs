using System.Globalization;
using Fleet.Host.Pressure;

namespace Fleet.Host.Drivers.Jail;

/// <summary>
/// The control groups of a host's microVMs: which of the kernel's two versions has the controllers, what a microVM may use, and
/// the removal of groups whose microVM is gone. The jail makes the groups; they outlive the VMM.
/// </summary>
/// <param name="parent">Below which all groups of this agent stand, relative to the hierarchies' roots.</param>
/// <param name="mounts">Text of /proc/self/mounts.</param>
/// <param name="readFile">Reads a small file.</param>
internal sealed class ControlGroups(string parent, string mounts, Func<string, string> readFile)
{
    /// <summary>The kernel's default, in microseconds; a quota counts per such a period.</summary>
    private const int Period = 100_000;

    /// <summary>For the VMM's own thread: console, API, devices.</summary>
    private const int OwnQuota = Period / 2;

    /// <summary>The kernel takes no less.</summary>
    private const int LeastQuota = 1000;

    /// <summary>For the VMM itself (its heap may grow to 32 MiB), its sockets, and what the kernel keeps for it.</summary>
    private const long OwnMemory = 64L << 20;

    /// <summary>For the page tables that map the guest's memory, twice: the VMM's and KVM's.</summary>
    private const int PageTableShare = 64;

    /// <summary>Threads: at most 32 vCPUs, loop, finalizer, workers of io_uring.</summary>
    private const int MostThreads = 64;

    private static readonly string[] Needed = ["memory", "cpu", "pids"];

    private readonly (int Version, string MountPoint, string[] Controllers)[] _hierarchies = Find(mounts, readFile);

    /// <summary>The control groups of this machine.</summary>
    public static ControlGroups OfThisMachine(string parent) => new(parent, File.ReadAllText("/proc/self/mounts"), File.ReadAllText);

    /// <summary>2 where one hierarchy of version 2 has every controller, else 1; 0 when there is none at all.</summary>
    public int Version => Missing(2).Length == 0 ? 2 : Missing(1).Length < Needed.Length ? 1 : Missing(2).Length < Needed.Length ? 2 : 0;

    public string Parent => parent;

    /// <summary>Controllers that no hierarchy of <see cref="Version"/> has: what they would limit is not limited.</summary>
    public IReadOnlyList<string> NotEnforced => Version == 0 ? Needed : Missing(Version);

    /// <summary>A microVM's settings, as <c>file=value</c>.</summary>
    public IReadOnlyList<string> Settings(uint cpus, uint memoryMib)
    {
        long memory = ((long)memoryMib << 20) + OwnMemory + (((long)memoryMib << 20) / PageTableShare);
        var cpu = CpuSettings(new CpuShare(cpus, null, cpus)).Select(setting => ("cpu", $"{setting.File}={setting.Value}"));
        var missing = NotEnforced;
        (string Controller, string Setting)[] all = Version == 2
            ?
            [
                ("memory", Text($"memory.max={memory}")),
                .. cpu,
                ("pids", Text($"pids.max={MostThreads}")),
            ]
            :
            [
                ("memory", Text($"memory.limit_in_bytes={memory}")),
                .. cpu,
                ("pids", Text($"pids.max={MostThreads}")),
            ];
        return [.. all.Where(one => !missing.Contains(one.Controller)).Select(one => one.Setting)];
    }

    /// <summary>Sets what a microVM may use of the CPUs; nothing where no controller limits that.</summary>
    /// <exception cref="IOException">It has no group, or the kernel refuses a value.</exception>
    public void ShareCpu(string vmId, CpuShare share)
    {
        if (NotEnforced.Contains("cpu")) return;
        foreach (var (file, value) in CpuSettings(share)) File.WriteAllText(Path.Combine(MountOf("cpu")!, parent, vmId, file), value);
    }

    /// <summary>How long a microVM stood still for want of something. Groups of version 1 do not tell.</summary>
    public Stalls StallsOf(string vmId) => Version == 2 && MountOf("cpu") is { } mount ? Stalls.OfGroup(Path.Combine(mount, parent, vmId)) : default;

    /// <summary>Removes a microVM's groups; false when one is still in use.</summary>
    public bool TryRemove(string vmId)
    {
        bool removed = true;
        foreach (var hierarchy in _hierarchies) removed &= TryRemoveFolder(Path.Combine(hierarchy.MountPoint, parent, vmId));
        return removed;
    }

    /// <summary>Removes the group of all, when nothing is left in it.</summary>
    public void TryRemoveParent()
    {
        foreach (var hierarchy in _hierarchies) TryRemoveFolder(Path.Combine(hierarchy.MountPoint, parent));
    }

    /// <summary>Removes every group of this agent's that nothing runs in; to be called before anything is started.</summary>
    public void Sweep()
    {
        foreach (var hierarchy in _hierarchies)
        {
            string folder = Path.Combine(hierarchy.MountPoint, parent);
            if (!Directory.Exists(folder)) continue;
            foreach (string group in Directory.GetDirectories(folder)) TryRemoveFolder(group);
        }
    }

    // rmdir is all it takes, and all that a control group allows: .NET would look for files in it first.
    private static bool TryRemoveFolder(string folder)
    {
        try
        {
            Directory.Delete(folder);
            return true;
        }
        catch (DirectoryNotFoundException)
        {
            return true;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    // One that is held back shares that with its VMM, or it would get half a CPU more than it is held to.
    private (string File, string Value)[] CpuSettings(CpuShare share)
    {
        long quota = share.HeldTo is { } held ? Math.Max(LeastQuota, (long)(held * Period)) : (share.Cpus * (long)Period) + OwnQuota;
        return Version == 2
            ? [("cpu.max", Text($"{quota} {Period}")), ("cpu.weight", Text($"{Math.Clamp((long)(100 * share.Weight), 1, 10_000)}"))]
            : [("cpu.cfs_period_us", Text($"{Period}")), ("cpu.cfs_quota_us", Text($"{quota}")), ("cpu.shares", Text($"{Math.Clamp((long)(1024 * share.Weight), 2, 262_144)}"))];
    }

    // Where that controller's groups are; null: nowhere.
    private string? MountOf(string controller) => _hierarchies.FirstOrDefault(one => one.Version == Version && one.Controllers.Contains(controller)).MountPoint;

    private string[] Missing(int version) =>
        [.. Needed.Where(controller => !_hierarchies.Any(one => one.Version == version && one.Controllers.Contains(controller)))];

    private static (int, string, string[])[] Find(string mounts, Func<string, string> readFile)
    {
        var found = new List<(int, string, string[])>();
        foreach (string line in mounts.Split('\n'))
        {
            var fields = line.Split(' ');
            if (fields.Length < 4) continue;
            if (fields[2] == "cgroup2") found.Add((2, fields[1], readFile(Path.Combine(fields[1], "cgroup.controllers")).Split([' ', '\n'], StringSplitOptions.RemoveEmptyEntries)));
            if (fields[2] == "cgroup") found.Add((1, fields[1], fields[3].Split(',')));
        }
        return [.. found];
    }

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
