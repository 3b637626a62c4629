using System.Text;

namespace Fleet.Host.Images;

/// <summary>
/// The recipe of the default image: Debian's cloud kernel, and an initramfs of busybox, the kernel's virtio modules and
/// fleet-init. Small on purpose: every byte is unpacked into the guest's memory at each boot.
/// </summary>
internal static class DefaultImage
{
    /// <summary>Raise it with every change here, so that hosts make the image anew.</summary>
    public const int RecipeVersion = 4;

    public const string KernelFile = "vmlinuz";
    public const string InitramfsFile = "initramfs.cpio";

    /// <summary>
    /// What a VMM may offer, and what a guest commonly mounts. fleet-init loads those that it finds devices for, the kernel
    /// asks modprobe for the others when they are used.
    /// </summary>
    private static readonly string[] Modules =
    [
        "virtio_mmio", "virtio_blk", "virtio_net", "virtio-rng", "virtio_balloon", "virtio_console", "vmw_vsock_virtio_transport", "overlay", "squashfs",
    ];

    /// <summary>
    /// Writes kernel and initramfs into <paramref name="target"/>. <paramref name="work"/> is an empty folder for what is
    /// unpacked on the way; the caller removes it.
    /// </summary>
    public static async Task MakeAsync(
        FetchedPackage kernelPackage, FetchedPackage busyboxPackage, string fleetInit, string work, string target, CancellationToken cancellation)
    {
        var kernel = await KernelPackage.UnpackAsync(kernelPackage, Path.Combine(work, "kernel"), cancellation);
        var busybox = await UnpackBusyboxAsync(busyboxPackage, Path.Combine(work, "busybox"), cancellation);
        var archive = new CpioWriter();
        AddTree(archive);
        await AddBusyboxAsync(archive, busybox, cancellation);
        await AddModulesAsync(archive, kernel, Path.Combine(work, "modules"), cancellation);
        // Run directly as PID 1. The kernel opens dev/console for it; without that its runtime would not start.
        archive.AddFileFrom("init", fleetInit, Octal("755"));

        await using (var initramfs = File.Create(Path.Combine(target, InitramfsFile)))
        {
            archive.WriteTo(initramfs);
            initramfs.Flush(flushToDisk: true);
        }
        await using var source = File.OpenRead(kernel.KernelPath);
        await using var copy = File.Create(Path.Combine(target, KernelFile));
        await source.CopyToAsync(copy, cancellation);
        copy.Flush(flushToDisk: true);
    }

    private static void AddTree(CpioWriter archive)
    {
        foreach (var directory in (string[])["dev", "etc", "home", "mnt", "proc", "run", "sys", "usr/local/bin", "var/log", "var/tmp"])
            archive.AddDirectory(directory);
        archive.AddDirectory("root", Octal("700"));
        archive.AddDirectory("tmp", Octal("1777"));
        archive.AddDirectory("fleet", Octal("755"));
        archive.AddCharacterDevice("dev/console", 5, 1, Octal("600"));
        archive.AddCharacterDevice("dev/null", 1, 3, Octal("666"));
        AddText(archive, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n");
        AddText(archive, "etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n");
        AddText(archive, "etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n");
        AddText(archive, "etc/os-release", "ID=fleet\nNAME=Fleet\nPRETTY_NAME=\"Fleet default image\"\n");
        archive.AddSymlink("etc/mtab", "/proc/self/mounts");
        archive.AddSymlink("var/run", "/run");
    }

    private static async Task<string> UnpackBusyboxAsync(FetchedPackage package, string directory, CancellationToken cancellation)
    {
        var files = await new DebPackage(package.FilePath).ExtractAsync(
            directory, path => path is "bin/busybox" or "usr/bin/busybox" ? "busybox" : null, cancellation);
        return files.Count == 1
            ? Path.Combine(directory, files[0])
            : throw ImageUnavailable.Because($"The package {package.Name} {package.Version} has no bin/busybox.");
    }

    /// <summary>The program, and a link for every command that it can be.</summary>
    private static async Task AddBusyboxAsync(CpioWriter archive, string busybox, CancellationToken cancellation)
    {
        archive.AddFileFrom("bin/busybox", busybox, Octal("755"));
        var list = await ExternalCommand.RunAsync(busybox, ["--list-full"], null, TimeSpan.FromSeconds(10), cancellation);
        var links = list.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)
            .Where(path => path is not ("bin/busybox" or "linuxrc" or "sbin/init"))
            .Distinct(StringComparer.Ordinal);
        foreach (var path in links) archive.AddSymlink(path, "/bin/busybox");
    }

    /// <summary>A module tree of its own with a fresh index, so that modprobe works in the guest.</summary>
    private static async Task AddModulesAsync(CpioWriter archive, KernelPackage kernel, string directory, CancellationToken cancellation)
    {
        var folder = Path.Combine("lib", "modules", kernel.Release);
        Directory.CreateDirectory(Path.Combine(directory, folder));
        foreach (var module in kernel.Modules.InLoadOrder(Modules))
        {
            var copy = Path.Combine(directory, module.GuestPath);
            Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
            File.Copy(module.FilePath, copy);
            archive.AddFileFrom(module.GuestPath, copy);
        }
        foreach (var list in (string[])["modules.order", "modules.builtin", "modules.builtin.modinfo"])
        {
            var source = Path.Combine(kernel.Directory, folder, list);
            if (File.Exists(source)) File.Copy(source, Path.Combine(directory, folder, list));
        }
        await KernelModules.IndexAsync(directory, kernel.Release, cancellation);
        foreach (var index in (string[])["modules.dep", "modules.alias", "modules.symbols"])
            archive.AddFileFrom($"{folder}/{index}", Path.Combine(directory, folder, index));
    }

    private static void AddText(CpioWriter archive, string path, string text) => archive.AddFile(path, Encoding.UTF8.GetBytes(text), Octal("644"));

    private static int Octal(string digits) => Convert.ToInt32(digits, 8);
}
