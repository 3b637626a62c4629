using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Fleet.Host.Drivers.Processes;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Drivers;

/// <summary>
/// microVMs under QEMU's microvm machine: on hardware KVM where this machine has it, else by emulation, which runs
/// everywhere and boots Linux in a few seconds.
/// </summary>
public sealed class QemuDriver(DriverOptions options) : IVmmDriver
{
    private static readonly TimeSpan ProbeTimeout = TimeSpan.FromSeconds(10);

    private static readonly TimeSpan GivingUp = TimeSpan.FromSeconds(1);

    /// <summary>The name by which fleet-init finds its port.</summary>
    private const string GuestPort = "fleet.channel";

    private readonly KvmProbe _kvm = new();

    public string Name => "qemu";

    public async Task<DriverStatus> ProbeAsync(CancellationToken cancellation)
    {
        if (RuntimeInformation.ProcessArchitecture != Architecture.X64) return Unusable("only x86-64 machines are supported");
        if (FindProgram() is not { } program)
        {
            return Unusable($"{options.QemuPath} is not installed; on Debian: apt-get install qemu-system-x86");
        }
        try
        {
            string version = await VersionAsync(program, cancellation).ConfigureAwait(false);
            string how = HasHardware() ? "hardware KVM" : "emulation";
            return new DriverStatus { Name = Name, Usable = true, StockKernels = true, Detail = $"QEMU {version}, {how}" };
        }
        catch (Exception e) when (e is IOException or Win32Exception or TimeoutException or InvalidOperationException)
        {
            return Unusable($"{program} --version failed: {e.Message}");
        }
    }

    public async Task<IVmm> LaunchAsync(VmmLaunch launch, CancellationToken cancellation)
    {
        string program = FindProgram() ?? throw new LaunchFailedException("driver_unusable",
            $"{options.QemuPath} is not installed on this host; on Debian: apt-get install qemu-system-x86.");
        if (launch.Spec.RateLimits.Count > 0)
        {
            throw new LaunchFailedException("driver_unusable",
                "The microVM has rate limits, and the driver qemu, which this host picked, has none that can be told. Ask for the driver kvm, or lift the limits.");
        }

        bool hardware = HasHardware();
        VmmDirectory.Prepare(launch.Directory);
        string clock = hardware || await TscFrequency.GetKilohertzAsync().ConfigureAwait(false) is not { } khz
            ? ""
            : string.Create(CultureInfo.InvariantCulture, $"tsc_early_khz={khz}");
        using var boot = await BootFiles.PrepareAsync(launch, options.Images, clock, cancellation).ConfigureAwait(false);
        if (boot.Own is { Format: KernelFormat.Elf, HasPvhEntry: false })
        {
            throw new LaunchFailedException("kernel_invalid",
                $"The kernel {launch.Spec.Boot!.KernelPath} is an ELF program without a PVH entry note, which QEMU needs; use its bzImage or the driver kvm.");
        }

        cancellation.ThrowIfCancellationRequested();
        var process = VmmProcess.Start(launch.Directory, program, Arguments(launch, boot, hardware), launch.VolumeDisks);
        var vmm = new QemuVmm(launch, process, options);
        try
        {
            using var time = new CancellationTokenSource(options.StartTimeout, options.Clock);
            using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation, time.Token);
            if (await vmm.BeginAsync(limit.Token).ConfigureAwait(false)) return vmm;
            throw VmmDirectory.EndedAtOnce("QEMU", launch.Directory);
        }
        catch (Exception e)
        {
            // A QEMU that gives up closes its socket a little before it is gone.
            if (e is IOException) await process.Gone.WaitAsync(GivingUp, options.Clock, CancellationToken.None).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            bool ended = process.Ended.IsCompleted;
            await vmm.DestroyAsync().ConfigureAwait(false);
            if (e is LaunchFailedException || cancellation.IsCancellationRequested) throw;
            if (ended) throw VmmDirectory.EndedAtOnce("QEMU", launch.Directory);
            throw new LaunchFailedException("vmm_failed", $"QEMU started but could not be spoken to: {e.Message}", e);
        }
    }

    public async Task<IVmm?> AdoptAsync(VmmLaunch launch, CancellationToken cancellation)
    {
        var (process, absence) = await VmmProcess.AdoptAsync(launch.Directory, options.Clock, cancellation).ConfigureAwait(false);
        if (process is null) return EndedVmm.Of(launch, absence, options);
        var vmm = new QemuVmm(launch, process, options);
        vmm.Attend();
        return vmm;
    }

    private static List<string> Arguments(VmmLaunch launch, BootFiles boot, bool hardware)
    {
        string cpus = launch.Spec.Cpus.ToString(CultureInfo.InvariantCulture);
        List<string> arguments =
        [
            "-name", launch.VmId,
            "-M", "microvm,isa-serial=off,auto-kernel-cmdline=off",
            // Translated code: a boot makes some 40 MiB of it; without a bound a guest can make it 1 GiB of the host's memory.
            "-accel", hardware ? "kvm" : "tcg,thread=multi,tb-size=64",
            // .NET programs need x86-64-v2, which the default model of the emulation lacks. Told that the processor copies fast by bytes (erms, fsrm),
            // Linux copies by bytes, each of which is emulated.
            "-cpu", hardware ? "host" : "max,-erms,-fsrm",
            "-smp", cpus,
            "-m", string.Create(CultureInfo.InvariantCulture, $"{launch.Spec.MemoryMib}M"),
            "-nodefaults", "-no-user-config", "-display", "none",
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-S", "-qmp", $"unix:{VmmFiles.QmpSocket},server=on,wait=off",
            "-action", "reboot=shutdown,shutdown=pause",
            "-d", "cpu_reset", "-D", VmmFiles.ResetLog,
            "-chardev", "stdio,id=console,signal=off",
            "-device", "isa-serial,chardev=console,iobase=0x3f8,irq=4",
            "-chardev", $"file,id=status,path={VmmFiles.Status},append=on",
            "-device", "isa-serial,chardev=status,iobase=0x2f8,irq=3",
            // For reboot=k and for Ctrl-Alt-Del, by which the guest is asked to power down.
            "-device", "i8042",
            "-kernel", boot.KernelPath,
            "-append", boot.Arguments,
        ];
        if (boot.HasRoot)
        {
            arguments.AddRange(["-drive", $"if=none,id=image,format=raw,readonly=on,file.filename={VmmFiles.Root}", "-device", $"virtio-blk-device,drive=image,serial={BootFiles.RootSerial}"]);
        }
        for (int i = 0; i < launch.VolumeDisks.Count; i++)
        {
            string serial = VmmLaunch.VolumeSerial(i);
            // A comma in a value is written twice. A write that the host's disk has no room for fails in the guest; else QEMU would stop the guest for it.
            string path = launch.VolumeDisks[i].Replace(",", ",,", StringComparison.Ordinal);
            arguments.AddRange(["-drive", $"if=none,id={serial},format=raw,cache=writeback,file.filename={path}", "-device", $"virtio-blk-device,drive={serial},serial={serial},werror=report"]);
        }
        if (boot.InitrdPath.Length > 0) arguments.AddRange(["-initrd", boot.InitrdPath]);
        // The way to fleet-init, which a kernel of the user's own does not have.
        if (launch.Spec.Boot is null)
        {
            arguments.AddRange(
            [
                "-global", "virtio-mmio.force-legacy=false",
                "-chardev", $"socket,id=guest,path={VmmFiles.GuestSocket},server=on,wait=off",
                "-device", "virtio-serial-device,max_ports=2",
                "-device", $"virtserialport,chardev=guest,name={GuestPort}",
            ]);
        }
        if (launch.Link is { } link)
        {
            arguments.AddRange(
            [
                "-netdev", $"tap,id=net,ifname={link.Tap},script=no,downscript=no",
                "-device", $"virtio-net-device,netdev=net,mac={link.Place.Mac}",
            ]);
        }
        return arguments;
    }

    private bool HasHardware() => _kvm.Look().Kind == KvmKind.Hardware;

    private string? FindProgram()
    {
        if (Path.IsPathRooted(options.QemuPath)) return File.Exists(options.QemuPath) ? options.QemuPath : null;
        return (Environment.GetEnvironmentVariable("PATH") ?? "/usr/bin:/bin").Split(':', StringSplitOptions.RemoveEmptyEntries)
            .Select(folder => Path.Combine(folder, options.QemuPath))
            .FirstOrDefault(File.Exists);
    }

    private static async Task<string> VersionAsync(string program, CancellationToken cancellation)
    {
        using var process = Process.Start(new ProcessStartInfo(program, "--version")
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        }) ?? throw new InvalidOperationException("it did not start");
        using var time = new CancellationTokenSource(ProbeTimeout);
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation, time.Token);
        try
        {
            string output = await process.StandardOutput.ReadToEndAsync(limit.Token).ConfigureAwait(false);
            await process.WaitForExitAsync(limit.Token).ConfigureAwait(false);
            const string marker = "version ";
            int at = output.IndexOf(marker, StringComparison.Ordinal);
            if (process.ExitCode != 0 || at < 0) throw new InvalidOperationException($"exit code {process.ExitCode}");
            return output[(at + marker.Length)..].Split(' ', '\n')[0];
        }
        catch (OperationCanceledException)
        {
            process.Kill();
            throw new TimeoutException("no answer in time");
        }
    }

    private DriverStatus Unusable(string why) => new() { Name = Name, Detail = why };
}
