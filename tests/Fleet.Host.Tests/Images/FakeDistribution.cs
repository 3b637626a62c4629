using System.Diagnostics;
using System.Globalization;
using System.Security.Cryptography;
using Fleet.Host.Images;

namespace Fleet.Host.Tests.Images;

/// <summary>
/// A package index and archive in a folder, behind scripts that take the place of apt's two programs: downloads can be
/// counted and made to fail. The packages are real ones, with a kernel of no use.
/// </summary>
internal sealed class FakeDistribution
{
    public const string KernelName = "linux-image-6.1.0-test";

    private readonly TestFolder _folder;

    public FakeDistribution(TestFolder folder)
    {
        _folder = folder;
        Directory.CreateDirectory(folder.At("archive"));
        Script("apt-cache", "exec cat \"$archive/$3.show\"");
        Script("apt-get",
            """
            for package; do :; done
            echo "$package" >> "$archive/downloads"
            read failures < "$archive/failures"
            if [ "$failures" -gt 0 ]; then
                echo $((failures - 1)) > "$archive/failures"
                echo "E: the mirror is on fire" >&2
                exit 100
            fi
            cp "$archive/${package%%=*}.deb" .
            """);
        FailNextDownloads(0);
        Publish(KernelPackage.CloudMetaPackage, "1", KernelName, tar => { });
        PublishKernel("1");
        Publish("busybox-static", "1:1.0", "", tar => Debs.Add(tar, "./bin/busybox", "#!/bin/sh\necho bin/busybox\necho bin/sh\necho sbin/init\necho usr/bin/awk\n", (UnixFileMode)0x1ED));
    }

    public AptCommands Commands => new(_folder.At("archive", "apt-cache"), _folder.At("archive", "apt-get"), TimeSpan.FromMilliseconds(1));

    /// <summary>What was asked to be downloaded, in order, failures included.</summary>
    public IReadOnlyList<string> Downloads =>
        File.Exists(_folder.At("archive", "downloads")) ? File.ReadAllLines(_folder.At("archive", "downloads")) : [];

    public void FailNextDownloads(int count) => File.WriteAllText(_folder.At("archive", "failures"), count.ToString(CultureInfo.InvariantCulture) + "\n");

    public void PublishKernel(string version) => Publish(KernelName, version, "kmod, linux-base (>= 4.3~), initramfs-tools | linux-initramfs-tool", tar =>
    {
        Debs.Add(tar, "./boot/vmlinuz-6.1.0-test", "kernel " + version);
        Debs.Add(tar, "./lib/modules/6.1.0-test/modules.order", "");
        Debs.Add(tar, "./lib/modules/6.1.0-test/modules.builtin", string.Concat(((string[])
            ["virtio_mmio", "virtio_blk", "virtio_net", "virtio-rng", "virtio_balloon", "virtio_console", "vmw_vsock_virtio_transport", "overlay", "squashfs"]).Select(name => $"kernel/{name}.ko\n")));
    });

    /// <summary>As after the mirror dropped its index.</summary>
    public void ForgetIndex()
    {
        foreach (var file in Directory.GetFiles(_folder.At("archive"), "*.show")) File.Delete(file);
    }

    /// <summary>The archive holds other bytes than the index says.</summary>
    public void Tamper(string name) => File.AppendAllText(_folder.At("archive", name + ".deb"), "more");

    private void Publish(string name, string version, string depends, Action<System.Formats.Tar.TarWriter> fill)
    {
        var deb = _folder.At("archive", name + ".deb");
        Debs.Write(deb, fill);
        var hash = Convert.ToHexStringLower(SHA256.HashData(File.ReadAllBytes(deb)));
        File.WriteAllText(_folder.At("archive", name + ".show"),
            $"Package: {name}\nVersion: {version}\nDepends: {depends}\nDescription: a test\n with: two lines\nSHA256: {hash}\n\nPackage: other\n");
    }

    private void Script(string name, string body)
    {
        var path = _folder.At("archive", name);
        File.WriteAllText(path, $"#!/bin/sh\narchive='{_folder.At("archive")}'\n{body}\n");
        using var chmod = Process.Start("/bin/chmod", ["755", path]);
        chmod.WaitForExit();
    }
}
