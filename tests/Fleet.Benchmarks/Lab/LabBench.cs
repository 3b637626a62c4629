using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using Fleet.Host.Images;
using Fleet.Host.Lab;
using Fleet.Tests;
using Serilog.Core;

namespace Fleet.Benchmarks.Lab;

/// <summary>
/// A lab node with the same Linux guest under fleet-vmm and under QEMU's microvm machine, both on the node's KVM: same
/// kernel, same initramfs, same command line, same devices.
/// </summary>
internal sealed class LabBench : IAsyncDisposable
{
    private const int MemoryMib = 256;
    private const string Arguments = "console=ttyS0 reboot=k panic=1 quiet loglevel=1 pci=off cryptomgr.notests";
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    // What boots fastest of what boots: no option ROMs, no legacy timer and interrupt controller, no clock chip.
    private const string FastestQemu =
        "-M microvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on,auto-kernel-cmdline=off -accel kvm -cpu host "
        + "-nodefaults -no-user-config -display none -no-reboot -chardev stdio,id=console,signal=off -serial chardev:console";

    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-bench-").FullName;
    private readonly LabOptions _options;
    private LabMachine _node = null!;
    private BootImage _image = null!;
    private DefaultImageStore _images = null!;

    private LabBench()
    {
        _options = new LabOptions { StateDirectory = Path.Combine(_folder, "lab"), CacheDirectory = Path.Combine(Checkout.Artifacts, "test-images") };
    }

    /// <summary>The load generator, for the node.</summary>
    public string Load => Path.Combine(_folder, "load");

    public static async Task<LabBench> StartAsync()
    {
        var bench = new LabBench();
        try
        {
            bench.CompileLoad();
            bench._images = new DefaultImageStore(
                new ImageOptions(bench._options.CacheDirectory, Path.Combine(Checkout.Artifacts, "guest", "fleet-init")), Logger.None);
            bench._image = await bench._images.GetDefaultAsync(default);
            bench._node = await LabMachine.StartAsync(bench._options, Logger.None, default);
            return bench;
        }
        catch
        {
            await bench.DisposeAsync();
            throw;
        }
    }

    /// <summary>The command line of a VMM with a guest that runs a script; <c>/load</c> is there in it.</summary>
    /// <param name="fleet">A name for this configuration of fleet-vmm; null for QEMU.</param>
    /// <param name="script">What the guest's shell runs.</param>
    /// <param name="devices">Sections of fleet-vmm's configuration file.</param>
    /// <param name="qemuDevices">The same for QEMU.</param>
    public async Task<string> CommandAsync(string? fleet, string script, JsonObject devices, string qemuDevices, int cpus = 1)
    {
        var name = fleet ?? "qemu";
        var initrd = Path.Combine(_folder, $"{name}.initrd");
        await _images.WriteInitrdAsync(_image, new GuestRun(["sh", "-c", script], new Dictionary<string, string>(), "guest"), initrd, default);
        await using (var file = new FileStream(initrd, FileMode.Append, FileAccess.Write))
            new CpioWriter().AddFileFrom("load", Load, 0x1ED).WriteTo(file);
        if (fleet is null)
        {
            return $"{QemuProgram} {FastestQemu} -m {MemoryMib}M -smp {cpus} -kernel {_image.KernelPath} -initrd {initrd} "
                + $"-append '{Arguments}' {qemuDevices}";
        }

        var config = Path.Combine(_folder, $"{name}.json");
        var sections = new JsonObject(devices.Select(section => KeyValuePair.Create(section.Key, section.Value?.DeepClone())))
        {
            ["boot-source"] = new JsonObject { ["kernel_image_path"] = _image.KernelPath, ["initrd_path"] = initrd, ["boot_args"] = Arguments },
            ["machine-config"] = new JsonObject { ["vcpu_count"] = cpus, ["mem_size_mib"] = MemoryMib },
        };
        await File.WriteAllTextAsync(config, sections.ToJsonString());
        return $"{Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm")} --no-api --config-file {config}";
    }

    private static string QemuProgram => new[] { "/usr/bin/qemu-system-x86_64", "/usr/local/bin/qemu-system-x86_64" }.FirstOrDefault(File.Exists)
        ?? throw new BenchmarkException("no qemu-system-x86_64");

    /// <summary>Runs a script in the node; what it printed. Throws <see cref="LabException"/> when it does not end within the limit, of 4 minutes unless told.</summary>
    public async Task<string> RunAsync(string script, TimeSpan? limit = null)
    {
        var result = await _node.RunAsync(LabCommand.Shell(script), limit ?? Limit);
        return result.ExitStatus == 0 ? result.Output : throw new BenchmarkException($"in the lab node: {result.Output} {result.Errors}");
    }

    /// <summary>The numbers behind each <c>RESULT</c> of an output, in order.</summary>
    public static double[][] Results(string output)
    {
        var results = output.Split('\n').Select(line => line.Trim()).Where(line => line.StartsWith("RESULT ", StringComparison.Ordinal))
            .Select(line => line.Split(' ')[1..].Select(word => double.Parse(word, CultureInfo.InvariantCulture)).ToArray()).ToArray();
        return results.Length > 0 ? results : throw new BenchmarkException($"no result in: {output}");
    }

    public static double Median(IEnumerable<double> values)
    {
        var sorted = values.Order().ToArray();
        return sorted.Length % 2 == 1 ? sorted[sorted.Length / 2] : (sorted[(sorted.Length / 2) - 1] + sorted[sorted.Length / 2]) / 2;
    }

    public async ValueTask DisposeAsync()
    {
        if (_node is not null)
            await _node.DisposeAsync();
        _images?.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    private void CompileLoad()
    {
        var source = Path.Combine(Checkout.Root, "tests", "Fleet.Benchmarks", "Lab", "load.c");
        using var compiler = Process.Start("gcc", ["-O2", "-static", "-o", Load, source]);
        compiler.WaitForExit();
        if (compiler.ExitCode != 0)
            throw new BenchmarkException("the load generator could not be compiled: is gcc with libc6-dev installed?");
    }
}
