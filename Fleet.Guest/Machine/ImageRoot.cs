using System.Runtime.InteropServices;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Machine;

/// <summary>
/// The root file system of an OCI image: a disk, a squashfs that other microVMs read as well, and over it a layer in memory that takes what is
/// written. It is gone with the microVM.
/// </summary>
internal static unsafe class ImageRoot
{
    private const string Disk = "image", Image = "/fleet/image", Layer = "/fleet/layer", Root = "/fleet/root";
    private const ulong ReadOnly = 1, Move = 8192, NoDev = 4;

    /// <summary>Of the guest's memory: what the layer may take. A full one is an error of the program that writes, and of no other.</summary>
    private const string LayerOptions = "size=50%,mode=755";

    private static readonly string[] Carried = ["/proc", "/sys", "/dev"];

    /// <summary>Makes the image's root this process's, with the mounts of the kernel's own file systems in it. Throws when it can't.</summary>
    public static void Enter(int nullDevice, Action<string> complain)
    {
        VirtioDrivers.Run(["modprobe", "-a", "squashfs", "overlay"], nullDevice, complain);
        Disks.Mount(Disks.Find(Disk), Image, "squashfs", ReadOnly | NoDev, "");
        Disks.Mount("tmpfs", Layer, "tmpfs", NoDev, LayerOptions);
        Files.MakeFolder(Layer + "/upper");
        Files.MakeFolder(Layer + "/work");
        // What is in an overlay's root is of both layers; whose the root itself is, the upper one alone says.
        if (Files.CopyAttributes(Image, Layer + "/upper") is not 0 and var error) complain($"the root has not the image's owner and mode: {Files.Describe(error)}");
        Disks.Mount("overlay", Root, "overlay", NoDev, $"lowerdir={Image},upperdir={Layer}/upper,workdir={Layer}/work");
        foreach (var folder in Carried) Disks.Mount(folder, Root + folder, "", Move, "");
        using var strings = new NativeStrings();
        var here = strings.Add(".");
        // SAFETY: the strings end with NUL and live until the end of this method. The new root is moved over the old one, as switch_root(8) does:
        // the initramfs can't be unmounted.
        if (Libc.chdir(strings.Add(Root)) != 0 || Libc.mount(here, strings.Add("/"), here, Move, here) != 0 || Libc.chroot(here) != 0 || Libc.chdir(strings.Add("/")) != 0)
            throw new InvalidOperationException($"the image's root can't be entered: {Files.Describe(Marshal.GetLastPInvokeError())}");
    }
}
