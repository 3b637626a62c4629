using System.Text;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Images;

namespace Fleet.Host.Drivers;

/// <summary>What a VMM is to boot, on this host, checked.</summary>
/// <param name="InitrdPath">Empty: none.</param>
/// <param name="Arguments">The kernel's command line.</param>
internal sealed record BootFiles(string KernelPath, string InitrdPath, string Arguments, KernelFile? Own) : IDisposable
{
    // The user's own files: their paths here lead to what is held, and to nothing else.
    private IReadOnlyList<FileStream> _held = [];

    /// <summary>There is a <see cref="VmmFiles.Root"/>, to be the guest's first disk, read-only.</summary>
    public bool HasRoot { get; private init; }

    /// <summary>By which the guest knows that disk.</summary>
    public const string RootSerial = "image";

    /// <summary>
    /// For the default image, and for a kernel of the user's own without arguments. <c>reboot=k</c> resets through the
    /// keyboard controller, which ends the VMM on every driver; <c>quiet</c> saves most of the exits of a boot.
    /// </summary>
    public const string DefaultArguments = "console=ttyS0 reboot=k panic=1 quiet loglevel=1 pci=off 8250.nr_uarts=2 cryptomgr.notests";

    // Linux on x86-64 takes 2048 bytes with the terminator.
    private const int MaxArgumentBytes = 2047;

    /// <summary>Finds, checks or makes what a launch boots from.</summary>
    /// <param name="extraArguments">Goes before the user's own, so that theirs count.</param>
    /// <exception cref="LaunchFailedException">A file is missing or wrong, or the image can't be made.</exception>
    public static async Task<BootFiles> PrepareAsync(
        VmmLaunch launch, IImageSource images, string extraArguments, CancellationToken cancellation)
    {
        if (launch.Spec.Boot is { } own)
        {
            string arguments = Join(extraArguments, own.BootArgs.Length > 0 ? own.BootArgs : DefaultArguments);
            if (Encoding.UTF8.GetByteCount(arguments) > MaxArgumentBytes || arguments.AsSpan().ContainsAny('\0', '\n', '\r'))
            {
                throw new LaunchFailedException("kernel_invalid",
                    $"The kernel's arguments are longer than {MaxArgumentBytes} bytes or hold a line break; shorten boot_args.");
            }
            List<FileStream> held = [PublicFile.Open(own.KernelPath, "kernel", "kernel_missing")];
            try
            {
                if (own.InitrdPath.Length > 0) held.Add(PublicFile.Open(own.InitrdPath, "initrd", "initrd_missing"));
                var kernel = KernelFile.Check(own.KernelPath, held[0], held.Count > 1 ? held[1].Length : 0, launch.Spec.MemoryMib);
                return new BootFiles(PublicFile.PathOf(held[0]), held.Count > 1 ? PublicFile.PathOf(held[1]) : "", arguments, kernel) { _held = held };
            }
            catch
            {
                held.ForEach(file => file.Dispose());
                throw;
            }
        }

        var image = await images.GetDefaultAsync(cancellation).ConfigureAwait(false);
        string initrd = Path.Combine(launch.Directory, VmmFiles.Initrd);
        if (launch.Image is { } oci) LinkRoot(oci.RootPath, Path.Combine(launch.Directory, VmmFiles.Root));
        var run = GuestRun.Of(launch.Spec, launch.Image?.Run) with { Network = launch.Link?.Place };
        await images.WriteInitrdAsync(image, run, initrd, cancellation).ConfigureAwait(false);
        // A kernel that has too little room dies without a word, or hangs.
        KernelFile.Check(image.KernelPath, initrd, launch.Spec.MemoryMib);
        return new BootFiles(image.KernelPath, VmmFiles.Initrd, Join(extraArguments, DefaultArguments), null) { HasRoot = launch.Image is not null };
    }

    private static void LinkRoot(string root, string name)
    {
        try
        {
            Posix.Link(root, name);
        }
        catch (IOException e)
        {
            throw ImageUnavailable.Because($"The image's root file system can't be given to the microVM: {e.Message}", e);
        }
    }

    /// <summary>To be called when the VMM has opened what it boots.</summary>
    public void Dispose()
    {
        foreach (var file in _held) file.Dispose();
    }

    private static string Join(string first, string second) => first.Length == 0 ? second : $"{first} {second}";
}
