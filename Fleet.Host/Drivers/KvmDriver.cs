using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Host.Drivers.Jail;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Snapshots;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Drivers;

/// <summary>microVMs under fleet-vmm, Fleet's own monitor, on this machine's KVM.</summary>
/// <remarks>Every one is jailed (docs/jail.md); there is no way to start one without.</remarks>
public sealed class KvmDriver(DriverOptions options) : IVmmDriver
{
    private const string NeedsRoot = "every microVM is jailed, and only root can build a jail: run the agent as root";

    private static readonly TimeSpan GivingUp = TimeSpan.FromSeconds(1);

    private readonly KvmProbe _kvm = new();
    private readonly JailKeeper _jails = new(options);

    public string Name => "kvm";

    public Task<DriverStatus> ProbeAsync(CancellationToken cancellation)
    {
        var finding = _kvm.Look();
        var status = new DriverStatus { Name = Name, Detail = finding.Detail };
        if (!File.Exists(options.VmmPath))
        {
            status.Detail = $"{options.VmmPath} is missing; build it with: ./fleet build";
            return Task.FromResult(status);
        }
        if (!Environment.IsPrivilegedProcess)
        {
            status.Detail = NeedsRoot;
            return Task.FromResult(status);
        }
        status.Usable = finding.Kind != KvmKind.None;
        if (_jails.NotEnforced is { Length: > 0 } gap) status.Detail += "; " + gap;
        status.StockKernels = finding.Kind == KvmKind.Hardware;
        return Task.FromResult(status);
    }

    public async Task<IVmm> LaunchAsync(VmmLaunch launch, CancellationToken cancellation)
    {
        var finding = _kvm.Look();
        if (finding.Kind == KvmKind.None) throw Unusable(finding.Detail);
        if (!File.Exists(options.VmmPath)) throw Unusable($"{options.VmmPath} is missing; build it with: ./fleet build");
        if (!Environment.IsPrivilegedProcess) throw Unusable(NeedsRoot);
        if (launch.SnapshotEpoch > 0) return await ResumeAsync(launch, cancellation).ConfigureAwait(false);
        if (launch.Spec.Boot is null && finding.Kind == KvmKind.Interpreting)
        {
            throw Unusable($"the default image has a stock kernel, and this is {finding.Detail}. Use the driver qemu");
        }

        VmmDirectory.Prepare(launch.Directory);
        using var boot = await BootFiles.PrepareAsync(launch, options.Images, "", cancellation).ConfigureAwait(false);
        WriteConfiguration(launch, boot, CpuTemplate(launch));
        cancellation.ThrowIfCancellationRequested();
        // A file and not requests: the guest runs as soon as the process can, and an agent that dies here has left
        // nothing half done.
        var process = await _jails.StartAsync(launch, boot).ConfigureAwait(false);
        return await BeginAsync(launch, process, static (vmm, limit) => vmm.BeginAsync(limit), cancellation).ConfigureAwait(false);
    }

    private async Task<IVmm> ResumeAsync(VmmLaunch launch, CancellationToken cancellation)
    {
        try
        {
            if (SnapshotFiles.Find(launch.Directory, launch.SnapshotEpoch) is null)
            {
                throw new LaunchFailedException("snapshot_lost", $"What the microVM was saved in under epoch {launch.SnapshotEpoch} is not on this host any more.");
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new LaunchFailedException("launch_failed", $"The directory {launch.Directory} can't be read: {e.Message}", e);
        }
        VmmDirectory.Prepare(launch.Directory, launch.SnapshotEpoch);
        cancellation.ThrowIfCancellationRequested();
        var process = await _jails.StartAsync(launch, null).ConfigureAwait(false);
        return await BeginAsync(launch, process, static (vmm, limit) => vmm.LoadAsync(limit), cancellation).ConfigureAwait(false);
    }

    private async Task<IVmm> BeginAsync(VmmLaunch launch, VmmProcess process, Func<KvmVmm, CancellationToken, Task<bool>> begin, CancellationToken cancellation)
    {
        var vmm = new KvmVmm(launch, process, options, _jails);
        try
        {
            using var time = new CancellationTokenSource(options.StartTimeout, options.Clock);
            using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation, time.Token);
            if (await begin(vmm, limit.Token).ConfigureAwait(false)) return vmm;
            throw EndedAtOnce(launch, process);
        }
        catch (Exception e)
        {
            // A VMM that gives up closes its socket a little before it is gone.
            if (e is HttpRequestException or IOException or VmmRefusedException)
            {
                await process.Gone.WaitAsync(GivingUp, options.Clock, CancellationToken.None).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }
            bool ended = process.Ended.IsCompleted;
            // A guest that was over before it could be asked for has run all the same.
            if (ended && FleetVmmExit.Read(launch.Directory) is { GuestEnded: true })
            {
                vmm.Attend();
                return vmm;
            }
            await vmm.DestroyAsync().ConfigureAwait(false);
            if (e is LaunchFailedException || cancellation.IsCancellationRequested) throw;
            if (ended) throw EndedAtOnce(launch, process);
            throw new LaunchFailedException("vmm_failed", $"fleet-vmm started but could not be spoken to: {e.Message}", e);
        }
    }

    public async Task<IVmm?> AdoptAsync(VmmLaunch launch, CancellationToken cancellation)
    {
        var (process, absence) = await VmmProcess.AdoptAsync(launch.Directory, options.Clock, cancellation).ConfigureAwait(false);
        // It was saved, or had not begun to run what it was to go on from: whatever is left of its VMM never runs again.
        bool saved = SnapshotFiles.Find(launch.Directory, launch.Epoch) is not null;
        if (saved || SnapshotFiles.Find(launch.Directory, launch.SnapshotEpoch) is not null)
        {
            if (process is not null) await new KvmVmm(launch, process, options, _jails).DestroyAsync().ConfigureAwait(false);
            await _jails.RemoveAsync(launch).ConfigureAwait(false);
            return saved ? EndedVmm.OfSaved() : null;
        }
        if (process is null)
        {
            await _jails.RemoveAsync(launch).ConfigureAwait(false);
            return EndedVmm.Of(launch, absence, options, () => FleetVmmExit.Read(launch.Directory)?.AsEnd());
        }
        _jails.Hold(launch);
        var vmm = new KvmVmm(launch, process, options, _jails);
        vmm.Attend();
        return vmm;
    }

    private JsonNode? CpuTemplate(VmmLaunch launch)
    {
        if (launch.Spec.CpuTemplate.Length == 0) return null;
        return options.CpuTemplates.TryGetValue(launch.Spec.CpuTemplate, out var template)
            ? JsonNode.Parse(template)
            : throw Unusable($"it has no CPU template {launch.Spec.CpuTemplate}");
    }

    private static void WriteConfiguration(VmmLaunch launch, BootFiles boot, JsonNode? cpuTemplate)
    {
        var source = new JsonObject { ["kernel_image_path"] = JailCommand.Kernel, ["boot_args"] = boot.Arguments };
        if (boot.InitrdPath.Length > 0) source["initrd_path"] = JailCommand.Initrd;
        var configuration = new JsonObject
        {
            ["boot-source"] = source,
            ["machine-config"] = new JsonObject { ["vcpu_count"] = launch.Spec.Cpus, ["mem_size_mib"] = launch.Spec.MemoryMib },
            ["entropy"] = new JsonObject { ["rate_limiter"] = VmmLimiters.Write(launch.Spec.RateLimits.TryGetValue("entropy", out var entropy) ? entropy : null) },
            ["balloon"] = VmmBalloon.Configuration(),
            ["fleet-status-port"] = new JsonObject { ["output_path"] = JailCommand.Status },
        };
        if (cpuTemplate is not null) configuration["cpu-config"] = cpuTemplate;
        var drives = new JsonArray();
        if (boot.HasRoot) drives.Add(Drive(BootFiles.RootSerial, JailCommand.Root, isReadOnly: true));
        for (int i = 0; i < launch.VolumeDisks.Count; i++)
        {
            var drive = Drive(VmmLaunch.VolumeSerial(i), JailCommand.Volume(i), isReadOnly: false);
            // What the guest has flushed survives the host's power loss.
            drive["cache_type"] = "Writeback";
            drives.Add(drive);
        }
        if (drives.Count > 0) configuration["drives"] = drives;
        // The way to fleet-init, which a kernel of the user's own does not have.
        if (launch.Spec.Boot is null) configuration["vsock"] = new JsonObject { ["guest_cid"] = KvmVmm.GuestContext, ["uds_path"] = JailCommand.Guest };
        if (launch.Lease is { } lease) configuration["fleet-lease"] = KvmVmm.LeaseBody(lease);
        if (launch.Link is { } link)
        {
            configuration["network-interfaces"] = new JsonArray { VmmNetwork.Configuration(launch.Spec, link, JailCommand.Tap) };
            configuration["mmds-config"] = VmmNetwork.MetadataConfiguration();
        }
        try
        {
            if (launch.Link is not null) File.WriteAllText(Path.Combine(launch.Directory, VmmFiles.Metadata), VmmNetwork.Metadata(launch).ToJsonString());
            File.WriteAllText(Path.Combine(launch.Directory, VmmFiles.Configuration), configuration.ToJsonString());
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new LaunchFailedException("launch_failed", $"The directory {launch.Directory} can't be written: {e.Message}", e);
        }
    }

    private static JsonObject Drive(string id, string path, bool isReadOnly) =>
        new() { ["drive_id"] = id, ["path_on_host"] = path, ["is_root_device"] = false, ["is_read_only"] = isReadOnly };

    private static LaunchFailedException EndedAtOnce(VmmLaunch launch, VmmProcess process)
    {
        if (FleetVmmExit.Read(launch.Directory) is { } exit) return new LaunchFailedException(exit.Code, exit.Message);
        return process.Ended.IsCompletedSuccessfully && KvmVmm.Forbidden(process.Ended.Result, process.Pid) is { } why
            ? new LaunchFailedException(why.Code, why.Message)
            : VmmDirectory.EndedAtOnce("fleet-vmm", launch.Directory);
    }

    private static LaunchFailedException Unusable(string why) =>
        new("driver_unusable", $"The driver kvm can't be used on this host: {why}.");
}
