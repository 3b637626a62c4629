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

    private const string OldRoot = "/.old";
    private const nuint Harmless = JailCalls.NoSetUid | JailCalls.NoExec;
    private const uint Everyone = 0x1ed; // 0755
    private const uint OwnerOnly = 0x1c0; // 0700
    private const uint OwnerReadWrite = 0x180; // 0600

    private readonly string _root = options.BaseDirectory is { } folder
        ? $"{folder.TrimEnd('/')}/{NameOf(options.Program)}/{options.Id}/root"
        : Place;

    private bool IsPrivate => options.BaseDirectory is null;

    /// <summary>Replaces this process's root, in a mount namespace of its own. The working directory stays what it was.</summary>
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
            Mount();
            MakeDevices(devices);
            Bind(sources);
            MakeFolder(_root + OldRoot, OwnerOnly);
            JailCalls.Check(JailCalls.syscall(JailCalls.PivotRootCall, _root, _root + OldRoot), "pivot_root");
            JailCalls.Check(JailCalls.umount2(OldRoot, JailCalls.Detach), "umount the host's root");
            JailCalls.Check(JailCalls.rmdir(OldRoot), "rmdir");
            if (IsPrivate)
            {
                JailCalls.Check(JailCalls.mount("none", "/", null, JailCalls.Remount | JailCalls.Bind | JailCalls.ReadOnly | Harmless, null), "mount /, read-only");
            }

            _ = JailCalls.umask(0x3f);
        }
        catch (SystemCallException failure)
        {
            throw new JailException($"The root of {options.Id} could not be made", failure);
        }
    }

    private static string NameOf(string? program) => program is null ? "fleet-vmm" : program[(program.LastIndexOf('/') + 1)..];

    private void Mount()
    {
        if (IsPrivate)
        {
            // Room for device nodes and the places of what is bound, and nothing else.
            var inodes = 16 + (4 * options.Bound.Count);
            JailCalls.Check(JailCalls.mount("jail", _root, "tmpfs", Harmless, $"size=64k,nr_inodes={inodes},mode=755"), "mount tmpfs");
            return;
        }

        for (var slash = _root.IndexOf('/', 1); slash > 0; slash = _root.IndexOf('/', slash + 1))
        {
            MakeFolder(_root[..slash], Everyone);
        }

        MakeFolder(_root, OwnerOnly);
        JailCalls.Check(JailCalls.mount(_root, _root, null, JailCalls.Bind, null), "mount --bind " + _root);
        JailCalls.Check(JailCalls.mount("none", _root, null, JailCalls.Remount | JailCalls.Bind | Harmless, null), "mount " + _root);
        JailCalls.Check(JailCalls.chown(_root, options.User, options.Group), "chown " + _root);
        MakeFolder(_root + "/run", OwnerOnly);
        JailCalls.Check(JailCalls.chown(_root + "/run", options.User, options.Group), "chown " + _root + "/run");
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
        MakeFolder(_root + "/dev", Everyone);
        foreach (var (name, number) in devices)
        {
            var path = $"{_root}/dev/{name}";
            if (name.Contains('/'))
            {
                MakeFolder(path[..path.LastIndexOf('/')], Everyone);
            }

            // A folder of the host may hold one of an earlier life.
            _ = Descriptors.unlink(path);
            JailCalls.Check(JailCalls.mknod(path, JailCalls.CharacterDevice | OwnerReadWrite, number), "mknod " + path);
            JailCalls.Check(JailCalls.chown(path, options.User, options.Group), "chown " + path);
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
            var place = _root + bound.Path;
            for (var slash = place.IndexOf('/', _root.Length + 1); slash > 0; slash = place.IndexOf('/', slash + 1))
            {
                MakeFolder(place[..slash], Everyone);
            }

            if (isFolder)
            {
                MakeFolder(place, Everyone);
            }
            else
            {
                var made = (int)JailCalls.Check(JailCalls.open(place, Descriptors.WriteOnly | Descriptors.Create | Descriptors.NoFollow | Descriptors.CloseOnExec, 0x124), "open " + place);
                _ = Descriptors.close(made);
            }

            JailCalls.Check(JailCalls.mount($"/proc/self/fd/{fd}", place, null, JailCalls.Bind, null), $"mount --bind {bound.Source}");
            var flags = JailCalls.Remount | JailCalls.Bind | Harmless | JailCalls.NoDevices | (bound.ReadOnly ? JailCalls.ReadOnly : 0);
            JailCalls.Check(JailCalls.mount("none", place, null, flags, null), $"mount {bound.Path}");
            _ = Descriptors.close(fd);
        }
    }

    private static void MakeFolder(string path, uint mode)
    {
        if (JailCalls.mkdir(path, mode) < 0 && System.Runtime.InteropServices.Marshal.GetLastPInvokeError() != SystemCallException.Exists)
        {
            throw SystemCallException.Last("mkdir " + path);
        }
    }
}
