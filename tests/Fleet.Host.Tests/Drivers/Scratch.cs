using System.Diagnostics;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Jail;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Images;
using Fleet.Shared.Contracts;
using Fleet.Tests;
using Serilog.Core;
using Xunit;

namespace Fleet.Host.Tests.Drivers;

/// <summary>A folder for one test; VMMs started through it are gone with it.</summary>
internal sealed class Scratch : IAsyncDisposable
{
    private const string VmId = "vm-01test";

    private readonly List<string> _directories = [];

    public string Folder { get; } = ForEverybody(Directory.CreateTempSubdirectory("fleet-drivers-"));

    // Kernels of a spec's own are opened only where everybody may read them.
    private static string ForEverybody(DirectoryInfo folder)
    {
        folder.UnixFileMode = (UnixFileMode)0x1ed; // 0755
        return folder.FullName;
    }

    public VmmLaunch Launch(byte[] kernel, uint cpus = 1, uint memoryMib = 64, string name = "vm-test")
    {
        var spec = new VmSpec { Name = name, Cpus = cpus, MemoryMib = memoryMib };
        spec.Boot = new BootSource { KernelPath = TinyKernel.Write(Folder, kernel) };
        return Launch(spec);
    }

    public VmmLaunch Launch(VmSpec spec)
    {
        string directory = Path.Combine(Folder, $"vm-{_directories.Count}");
        _directories.Add(directory);
        return new VmmLaunch(VmId, 1, spec, directory);
    }

    public static DriverOptions Options(IImageSource? images = null) =>
        new("/nonexistent/fleet-vmm", DriverOptions.DefaultQemu, images ?? new NoImage());

    /// <summary>The default image, from packages that all tests share; skips the test where fleet-init is not built.</summary>
    public static DefaultImageStore Images()
    {
        string init = Path.Combine(Checkout.Artifacts, "guest", "fleet-init");
        Skip.IfNot(File.Exists(init), $"{init} is not built; run ./fleet build");
        return new DefaultImageStore(new ImageOptions(Path.Combine(Checkout.Artifacts, "test-images"), init), Logger.None);
    }

    /// <summary>Waits for something that must come true soon.</summary>
    public static async Task Until(Func<bool> condition, string what, int seconds = 30)
    {
        var watch = Stopwatch.StartNew();
        while (!condition())
        {
            if (watch.Elapsed > TimeSpan.FromSeconds(seconds)) Assert.Fail($"not within {seconds} s: {what}");
            await Task.Delay(10);
        }
    }

    public async ValueTask DisposeAsync()
    {
        foreach (string directory in _directories)
        {
            if (VmmProcess.TryAdopt(directory, out _) is { } left)
            {
                left.Signal(Posix.SigKill);
                await left.Gone.WaitAsync(TimeSpan.FromSeconds(10));
            }
            if (Directory.Exists(directory)) await new JailKeeper(Options()).RemoveAsync(new VmmLaunch(VmId, 1, new VmSpec(), directory));
        }
        Directory.Delete(Folder, recursive: true);
    }

    internal sealed class NoImage : IImageSource
    {
        public Task<BootImage> GetDefaultAsync(CancellationToken cancellation) =>
            throw new LaunchFailedException("image_unavailable", "no image in this test");

        public Task WriteInitrdAsync(BootImage image, GuestRun run, string path, CancellationToken cancellation) =>
            throw new LaunchFailedException("image_unavailable", "no image in this test");
    }
}
