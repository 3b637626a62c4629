using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Jail;

/// <summary>
/// The root that the VMM sees. By default an empty file system in memory that belongs to this jail alone, is read-only and is
/// gone with the VMM; or a folder of the host, as Firecracker's jailer has it.
/// </summary>
internal sealed class JailRoot(JailOptions options)
{
    /// <summary>Where an empty root is mounted before it becomes the root: a folder that every Linux has, hidden in this namespace only.</summary>
    private const string Place = "/dev";

    private const string OldRoot = ".old";
    private const nuint Harmless = JailCalls.NoSetUid | JailCalls.NoExec;
    private const int FolderOnly = JailCalls.PathOnly | Descriptors.OnlyDirectory | Descriptors.NoFollow | JailCalls.CloseOnExec;
    private const int AnyPath = JailCalls.PathOnly | Descriptors.NoFollow | JailCalls.CloseOnExec;
    private const uint Everyone = 0x1ed; // 0755
    private const uint OwnerOnly = 0x1c0; // 0700
    private const uint OwnerReadWrite = 0x180; // 0600

    private int _root = -1;

    private bool IsPrivate => options.BaseDirectory is null;

    /// <summary>Replaces this process's root, in a mount namespace of its own. The working directory stays what it was.</summary>
    /// <remarks>
    /// A folder of the host may hold what a VMM of an earlier life left, and we are root still: below the root everything is reached
    /// from its descriptor, name by name, and a link is never followed.
    /// </remarks>
    /// <exception cref="JailException">What could not be mounted or made.</exception>
    public void Enter()
    {
        try
        {
            // Before the place of the devices is covered.
            var devices = Devices();
            var sources = Sources();
            _ = JailCalls.umask(0);
            JailCalls.Check(JailCalls.mount("none", "/", null, JailCalls.Recursive | JailCalls.Private, null), "mount /, private");
            var place = IsPrivate ? MountEmpty() : MountFolder(options.BaseDirectory!.TrimEnd('/'));
            MakeDevices(devices);
            Bind(sources);
            _ = Descriptors.close(MakeFolder(_root, OldRoot, OwnerOnly));
            JailCalls.Check(JailCalls.syscall(JailCalls.PivotRootCall, place, $"{place}/{OldRoot}"), "pivot_root");
            JailCalls.Check(JailCalls.umount2("/" + OldRoot, JailCalls.Detach | JailCalls.NoFollowUnmount), "umount the host's root");
            JailCalls.Check(JailCalls.rmdir("/" + OldRoot), "rmdir");
            if (IsPrivate)
            {
                JailCalls.Check(JailCalls.mount("none", "/", null, JailCalls.Remount | JailCalls.Bind | JailCalls.ReadOnly | Harmless, null), "mount /, read-only");
            }

            _ = Descriptors.close(_root);
            _ = JailCalls.umask(0x3f);
        }
        catch (SystemCallException failure)
        {
            throw new JailException($"The root of {options.Id} could not be made", failure);
        }
    }

    private static string NameOf(string? program) => program is null ? "fleet-vmm" : program[(program.LastIndexOf('/') + 1)..];

    private string MountEmpty()
    {
        // Room for device nodes and the places of what is bound, and nothing else.
        var inodes = 16 + (4 * options.Bound.Count);
        JailCalls.Check(JailCalls.mount("jail", Place, "tmpfs", Harmless, $"size=64k,nr_inodes={inodes},mode=755"), "mount tmpfs");
        _root = (int)JailCalls.Check(JailCalls.open(Place, FolderOnly, 0), "open " + Place);
        return Place;
    }

    private string MountFolder(string parent)
    {
        for (var slash = parent.IndexOf('/', 1); slash > 0; slash = parent.IndexOf('/', slash + 1))
        {
            MakeParent(parent[..slash]);
        }

        MakeParent(parent);
        var at = (int)JailCalls.Check(JailCalls.open(parent, JailCalls.PathOnly | Descriptors.OnlyDirectory | JailCalls.CloseOnExec, 0), "open " + parent);
        foreach (var name in (string[])[NameOf(options.Program), options.Id])
        {
            var below = MakeFolder(at, name, Everyone);
            _ = Descriptors.close(at);
            at = below;
            if (JailCalls.OwnerOf(at) != 0)
            {
                throw new JailException($"{name} in {parent} belongs to somebody else than root, who could put another folder in the place of the jail. Choose another --chroot-base-dir.");
            }
        }

        var place = $"{parent}/{NameOf(options.Program)}/{options.Id}/root";
        var root = MakeFolder(at, "root", OwnerOnly);
        _ = Descriptors.close(at);
        JailCalls.Check(JailCalls.mount($"/proc/self/fd/{root}", place, null, JailCalls.Bind, null), "mount --bind " + place);
        JailCalls.Check(JailCalls.mount("none", place, null, JailCalls.Remount | JailCalls.Bind | Harmless, null), "mount " + place);
        _ = Descriptors.close(root);
        _root = (int)JailCalls.Check(JailCalls.open(place, FolderOnly, 0), "open " + place);
        Give(_root, "", place);
        var run = MakeFolder(_root, "run", OwnerOnly);
        Give(run, "", place + "/run");
        _ = Descriptors.close(run);
        return place;
    }

    private List<(string Name, ulong Number)> Devices()
    {
        var devices = new List<(string, ulong)>();
        foreach (var name in (string[])["kvm", "urandom", .. options.Devices])
        {
            if (JailCalls.Look("/dev/" + name) is not { Type: JailCalls.CharacterDevice } device)
            {
                throw new JailException($"The host has no device /dev/{name}, which the VMM shall have. Load its module, or leave it out.");
            }

            devices.Add((name, device.Device));
        }

        return devices;
    }

    private void MakeDevices(List<(string Name, ulong Number)> devices)
    {
        foreach (var (name, number) in devices)
        {
            var path = "dev/" + name;
            var folder = FolderOf(path, out var last);

            // There may be one of an earlier life.
            _ = JailCalls.unlinkat(folder, last, 0);
            JailCalls.Check(JailCalls.mknodat(folder, last, JailCalls.CharacterDevice | OwnerReadWrite, number), "mknod " + path);
            Give(folder, last, path);
            _ = Descriptors.close(folder);
        }
    }

    // By descriptor: the sources' paths may lie where the root is mounted over.
    private List<(BoundPath Bound, int Fd, bool IsFolder)> Sources()
    {
        var sources = new List<(BoundPath, int, bool)>();
        foreach (var bound in options.Bound)
        {
            var isFolder = JailCalls.Look(bound.Source) is { Type: JailCalls.DirectoryType };
            var fd = JailCalls.open(bound.Source, JailCalls.PathOnly | JailCalls.CloseOnExec, 0);
            sources.Add((bound, (int)JailCalls.Check(fd, "open " + bound.Source), isFolder));
        }

        return sources;
    }

    private void Bind(List<(BoundPath Bound, int Fd, bool IsFolder)> sources)
    {
        foreach (var (bound, fd, isFolder) in sources)
        {
            var folder = FolderOf(bound.Path.TrimStart('/'), out var last);
            if (isFolder)
            {
                _ = Descriptors.close(MakeFolder(folder, last, Everyone));
            }
            else
            {
                var made = (int)JailCalls.Check(JailCalls.openat(folder, last, Descriptors.WriteOnly | Descriptors.Create | Descriptors.NoFollow | Descriptors.NonBlocking | Descriptors.CloseOnExec, 0x124), "open " + bound.Path);
                _ = Descriptors.close(made);
            }

            var place = (int)JailCalls.Check(JailCalls.openat(folder, last, AnyPath, 0), "open " + bound.Path);
            JailCalls.Check(JailCalls.mount($"/proc/self/fd/{fd}", $"/proc/self/fd/{place}", null, JailCalls.Bind, null), $"mount --bind {bound.Source}");

            // By its name again: what is mounted there now.
            var mounted = (int)JailCalls.Check(JailCalls.openat(folder, last, AnyPath, 0), "open " + bound.Path);
            var flags = JailCalls.Remount | JailCalls.Bind | Harmless | JailCalls.NoDevices | (bound.ReadOnly ? JailCalls.ReadOnly : 0);
            JailCalls.Check(JailCalls.mount("none", $"/proc/self/fd/{mounted}", null, flags, null), $"mount {bound.Path}");
            foreach (var done in (int[])[fd, folder, place, mounted])
            {
                _ = Descriptors.close(done);
            }
        }
    }

    /// <summary>The folder that a path below the root lies in, made where it is missing; to be closed.</summary>
    private int FolderOf(string path, out string last)
    {
        var at = (int)JailCalls.Check(JailCalls.openat(_root, ".", FolderOnly, 0), "open /");
        var names = path.Split('/', StringSplitOptions.RemoveEmptyEntries);
        foreach (var name in names.AsSpan(..^1))
        {
            var below = MakeFolder(at, name, Everyone);
            _ = Descriptors.close(at);
            at = below;
        }

        last = names[^1];
        return at;
    }

    /// <summary>Opens a folder, which is made where it is missing. A link in its place is refused.</summary>
    private static int MakeFolder(int parent, string name, uint mode)
    {
        if (JailCalls.mkdirat(parent, name, mode) < 0 && System.Runtime.InteropServices.Marshal.GetLastPInvokeError() != SystemCallException.Exists)
        {
            throw SystemCallException.Last("mkdir " + name);
        }

        return (int)JailCalls.Check(JailCalls.openat(parent, name, FolderOnly, 0), "open " + name);
    }

    // The folders of the caller's own, above the jails.
    private static void MakeParent(string path)
    {
        if (JailCalls.mkdir(path, Everyone) < 0 && System.Runtime.InteropServices.Marshal.GetLastPInvokeError() != SystemCallException.Exists)
        {
            throw SystemCallException.Last("mkdir " + path);
        }
    }

    private void Give(int folder, string name, string what) =>
        JailCalls.Check(JailCalls.fchownat(folder, name, options.User, options.Group, JailCalls.NoLink | JailCalls.EmptyPath), "chown " + what);
}
