using System.Reflection;
using System.Security.Cryptography;
using System.Text;
using Fleet.Host.Images;
using Serilog;

namespace Fleet.Host.Lab;

/// <summary>
/// What a lab node boots: Debian's generic kernel (it has KVM and 9p), and an initramfs of busybox, the modules a node
/// needs, and its init.
/// </summary>
/// <param name="KernelPath">For QEMU's <c>-kernel</c>.</param>
/// <param name="InitrdPath">An uncompressed cpio: emulated CPUs unpack slowly.</param>
public sealed record NodeImage(string KernelPath, string InitrdPath)
{
    /// <summary>
    /// Loaded in this order, each behind what it needs; those of networks because a node has no modules of its kernel to load later. Polling for wake-ups inside KVM would only burn the outer machine's
    /// CPU time; nested guests of nested guests are not wanted.
    /// </summary>
    private static readonly (string Module, string Options)[] Modules =
    [
        ("virtio_pci", ""), ("9pnet_virtio", ""), ("9p", ""), ("overlay", ""), ("virtio_net", ""), ("virtio_rng", ""), ("tun", ""),
        ("veth", ""), ("bridge", ""), ("crc32c_generic", ""), ("nf_tables", ""), ("nft_chain_nat", ""), ("nft_ct", ""), ("nft_nat", ""), ("nft_masq", ""), ("nft_fib_inet", ""), ("nft_limit", ""), ("nft_connlimit", ""), ("nft_meta_bridge", ""),
        ("kvm", "halt_poll_ns=0"), ("kvm_amd", "nested=0 npt=1"),
    ];

    /// <summary>Counts changes of how an image is made; what it is made of is in its name anyway.</summary>
    private const int Recipe = 2;

    private static readonly TimeSpan LockLimit = TimeSpan.FromMinutes(10);

    /// <summary>
    /// The image for today's Debian kernel; made on first use (some 10 s and a download of 70 MB) and kept below
    /// <paramref name="cacheDirectory"/>. Safe among processes. Throws
    /// <see cref="Drivers.LaunchFailedException"/> with <c>image_unavailable</c>.
    /// </summary>
    public static async Task<NodeImage> GetAsync(string cacheDirectory, ILogger log, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(log);
        var packages = new PackageSource(Path.Combine(cacheDirectory, "packages"), log);
        var kernel = await packages.LookUpKernelAsync(KernelPackage.GenericMetaPackage, cancellation);
        var busybox = await packages.LookUpAsync("busybox-static", cancellation);
        var images = Path.Combine(cacheDirectory, "lab");
        Directory.CreateDirectory(images);
        var finished = Path.Combine(images, Key(kernel, busybox));
        var image = new NodeImage(Path.Combine(finished, "kernel"), Path.Combine(finished, "initrd"));
        if (Directory.Exists(finished)) return image;

        using var held = await FileLock.AcquireAsync(Path.Combine(images, "lock"), LockLimit, log, cancellation);
        if (Directory.Exists(finished)) return image;
        // The lock is held: whatever else lies here is a killed process's leftover or made of older packages.
        // A node that runs has read its image long since.
        foreach (var old in Directory.GetDirectories(images)) Directory.Delete(old, recursive: true);
        log.Information("Making the lab's image from {Kernel} {Version}", kernel.Name, kernel.Version);
        var making = finished + ".making";
        try
        {
            Directory.CreateDirectory(making);
            await MakeAsync(packages, kernel, busybox, making, log, cancellation);
            Directory.Move(making, finished);
        }
        finally
        {
            if (Directory.Exists(making)) Directory.Delete(making, recursive: true);
        }
        return image;
    }

    private static async Task MakeAsync(
        PackageSource packages, IndexedPackage kernel, IndexedPackage busybox, string directory, ILogger log, CancellationToken cancellation)
    {
        var unpacked = Path.Combine(directory, "unpacked");
        var kernelPackage = await KernelPackage.UnpackAsync(await packages.FetchAsync(kernel, cancellation), unpacked, cancellation);
        var busyboxPackage = await packages.FetchAsync(busybox, cancellation);
        var busyboxPath = Path.Combine(unpacked, "busybox");
        await new DebPackage(busyboxPackage.FilePath).ExtractAsync(
            unpacked, path => path is "bin/busybox" or "usr/bin/busybox" ? "busybox" : null, cancellation);
        if (!File.Exists(busyboxPath))
            throw ImageUnavailable.Because($"The package {busybox.Name} {busybox.Version} has no bin/busybox.");
        await using (var initrd = File.Create(Path.Combine(directory, "initrd")))
            Initramfs(busyboxPath, kernelPackage.Modules).WriteTo(initrd);
        await NodeKernel.PlaceAsync(kernelPackage.KernelPath, unpacked, Path.Combine(directory, "kernel"), log, cancellation);
        Directory.Delete(unpacked, recursive: true);
    }

    /// <summary>The node's initramfs; <c>/fleet/modules</c> says what its init loads, in order, with options.</summary>
    internal static CpioWriter Initramfs(string busyboxPath, KernelModules modules)
    {
        var archive = new CpioWriter()
            .AddFile("init", InitScript(), 0x1ED)
            .AddFileFrom("bin/busybox", busyboxPath, 0x1ED)
            .AddDirectory("dev").AddDirectory("proc").AddDirectory("sys").AddDirectory("etc").AddDirectory("mnt")
            // The kernel opens it before init has mounted anything.
            .AddCharacterDevice("dev/console", 5, 1);
        var options = Modules.ToDictionary(module => module.Module, module => module.Options, StringComparer.Ordinal);
        var list = new StringBuilder();
        foreach (var module in modules.InLoadOrder(Modules.Select(module => module.Module)))
        {
            archive.AddFileFrom(module.GuestPath, module.FilePath);
            list.Append(module.GuestPath).Append(' ').Append(options.GetValueOrDefault(module.Name, "")).Append('\n');
        }
        return archive.AddFile("fleet/modules", Encoding.UTF8.GetBytes(list.ToString()));
    }

    internal static byte[] InitScript()
    {
        using var resource = Assembly.GetExecutingAssembly().GetManifestResourceStream("Fleet.Host.Lab.node-init.sh")
            ?? throw new InvalidOperationException("This build of Fleet.Host lacks its resource node-init.sh.");
        using var bytes = new MemoryStream();
        resource.CopyTo(bytes);
        return bytes.ToArray();
    }

    /// <summary>Everything that goes into the image: other packages, modules or init give another name.</summary>
    private static string Key(IndexedPackage kernel, IndexedPackage busybox)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(Encoding.UTF8.GetBytes($"{Recipe} {kernel.Sha256} {busybox.Sha256} {string.Join(' ', Modules)} "));
        hash.AppendData(InitScript());
        return Convert.ToHexStringLower(hash.GetHashAndReset())[..16];
    }
}
