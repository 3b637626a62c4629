using System.Runtime.InteropServices;
using System.Text;
using Fleet.Guest.Linux;
using Fleet.Guest.Processes;

namespace Fleet.Guest.Machine;

/// <summary>The disks that the VMM gave this machine, by their serial numbers: their order is another one on each VMM.</summary>
internal static unsafe class Disks
{
    /// <summary>The kernel makes a disk's node when it has looked at the disk, a moment after the driver is there.</summary>
    private const int LimitMs = 5000, PauseMs = 5;

    /// <summary>virtio's serial number has at most 20 bytes.</summary>
    private const int MaxSerial = 64;

    private const ulong NoDev = 4;

    /// <summary>The node of the disk with that serial number. Throws when there is none.</summary>
    public static string Find(string serial)
    {
        for (var waited = 0; waited < LimitMs; waited += PauseMs)
        {
            foreach (var disk in Files.List("/sys/block"))
            {
                if (disk.StartsWith("vd", StringComparison.Ordinal) && Files.Read($"/sys/block/{disk}/serial", MaxSerial, out _) is { } read
                    && Encoding.ASCII.GetString(read).TrimEnd('\n', '\0') == serial && System.IO.File.Exists($"/dev/{disk}"))
                    return $"/dev/{disk}";
            }
            Thread.Sleep(PauseMs);
        }
        throw new InvalidOperationException($"the machine has no disk '{serial}'");
    }

    /// <summary>
    /// Mounts each volume where it belongs; a folder that is missing is made. One that nothing was written to yet becomes the user's own. Throws when
    /// one can't be mounted: what was to be kept must not be written to memory.
    /// </summary>
    /// <param name="volumes">Serial number and path of each.</param>
    /// <param name="user">Whom the command runs as; null: root.</param>
    public static void MountVolumes(IReadOnlyList<(string Disk, string Path)> volumes, UserAccount? user)
    {
        foreach (var (disk, path) in volumes)
        {
            Files.MakeFolders(path);
            Mount(Find(disk), path, "ext4", NoDev, "");
            if (user is null or { Uid: 0 } || Files.List(path).Any(name => name != "lost+found")) continue;
            var folder = Files.Open(path, Libc.O_RDONLY, out var error);
            if (folder < 0) throw new InvalidOperationException($"{path} can't be opened: {Files.Describe(error)}");
            Libc.fchown(folder, user.Uid, user.Gid);
            Libc.close(folder);
        }
    }

    /// <summary>Mounts; a folder that is missing is made. Throws when it can't.</summary>
    public static void Mount(string source, string target, string type, ulong flags, string options)
    {
        Files.MakeFolder(target);
        using var strings = new NativeStrings();
        // SAFETY: the strings end with NUL and live until the end of this method; the kernel copies them.
        if (Libc.mount(strings.Add(source), strings.Add(target), strings.Add(type), flags, strings.Add(options)) != 0)
            throw new InvalidOperationException($"{source} can't be mounted on {target}: {Files.Describe(Marshal.GetLastPInvokeError())}");
    }
}
