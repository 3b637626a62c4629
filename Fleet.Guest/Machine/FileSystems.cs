using System.Runtime.InteropServices;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Machine;

/// <summary>The mounts that a Linux program expects to find.</summary>
internal static unsafe class FileSystems
{
    private const ulong NoSuid = 2, NoDev = 4, NoExec = 8;

    private readonly record struct Mount(string Type, string Target, ulong Flags, string Options);

    /// <summary>What the kernel shows of itself; needed before anything else, the serial ports included.</summary>
    private static readonly Mount[] OfKernel =
    [
        new("proc", "/proc", NoSuid | NoDev | NoExec, ""),
        new("sysfs", "/sys", NoSuid | NoDev | NoExec, ""),
        new("devtmpfs", "/dev", NoSuid, "mode=755"),
    ];

    private static readonly Mount[] OfPrograms =
    [
        new("devpts", "/dev/pts", NoSuid | NoExec, "gid=5,mode=620,ptmxmode=666"),
        new("tmpfs", "/dev/shm", NoSuid | NoDev, "mode=1777"),
    ];

    /// <summary>An image has what it wants in these folders, and they are written to its overlay.</summary>
    private static readonly Mount[] OfInitramfs =
    [
        new("tmpfs", "/run", NoSuid | NoDev, "mode=755"),
        new("tmpfs", "/tmp", NoSuid | NoDev, "mode=1777"),
    ];

    /// <summary>Mounts what the kernel shows of itself. Gives one complaint per mount that failed; there is no console yet to tell.</summary>
    public static List<string> MountForKernel()
    {
        var complaints = new List<string>();
        MountAll(OfKernel, complaints.Add);
        return complaints;
    }

    /// <summary>Mounts and links the rest; what fails is told to <paramref name="complain"/> and left out.</summary>
    /// <param name="inImage">The root is an image's.</param>
    /// <param name="complain">Told what fails.</param>
    public static void MountForPrograms(bool inImage, Action<string> complain)
    {
        MountAll(OfPrograms, complain);
        if (!inImage) MountAll(OfInitramfs, complain);
        // Programs that take "a file" find standard input and output under these names.
        Link("/proc/self/fd", "/dev/fd");
        Link("/proc/self/fd/0", "/dev/stdin");
        Link("/proc/self/fd/1", "/dev/stdout");
        Link("/proc/self/fd/2", "/dev/stderr");
    }

    private static void MountAll(Mount[] mounts, Action<string> complain)
    {
        using var strings = new NativeStrings();
        foreach (var (type, target, flags, options) in mounts)
        {
            // SAFETY: the strings end with NUL and live until the end of this method; the kernel copies them.
            var path = strings.Add(target);
            // SAFETY: every string is kept, null-terminated, until strings is disposed.
            Libc.mkdir(path, 0x1ED);
            if (Libc.mount(strings.Add(type), path, strings.Add(type), flags, strings.Add(options)) == 0) continue;
            var error = Marshal.GetLastPInvokeError();
            if (error != Libc.EBUSY) complain($"{target} can't be mounted: {Files.Describe(error)}");
        }
    }

    private static void Link(string target, string path)
    {
        using var strings = new NativeStrings();
        // SAFETY: as above.
        Libc.symlink(strings.Add(target), strings.Add(path));
    }
}
