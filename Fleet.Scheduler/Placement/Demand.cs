using System.Collections.Immutable;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Placement;

/// <summary>A volume that a microVM has, and what it takes of its host's disk, used or not.</summary>
/// <param name="Key">See <see cref="VolumeRules.Key"/>.</param>
/// <param name="SizeMib">MiB.</param>
public readonly record struct VolumeRoom(string Key, long SizeMib);

/// <summary>What a microVM needs of a host.</summary>
/// <param name="Cpus">vCPUs.</param>
/// <param name="MemoryMib">MiB.</param>
/// <param name="Driver"><c>auto</c>, or the driver that it must have.</param>
/// <param name="OwnKernel">It brings a kernel of its own; else the host must boot a stock kernel.</param>
/// <param name="Host">The only host that may carry it; empty: any.</param>
/// <param name="Limited">It has rate limits, which not every driver keeps.</param>
public sealed record Demand(uint Cpus, ulong MemoryMib, string Driver, bool OwnKernel, string Host, bool Limited = false)
{
    public const string AutoDriver = "auto";
    public const string SimulatedDriver = "simulated";

    /// <summary>Alone can give CPU templates.</summary>
    private const string CpuTemplateDriver = "kvm";

    /// <summary>What it takes of a host, with those <see cref="Volumes"/> that are not there yet.</summary>
    public Resources Needs { get; init; } = new(Cpus, checked((long)MemoryMib));

    /// <summary>Volumes that <see cref="Needs"/> has room for.</summary>
    public ImmutableArray<VolumeRoom> Volumes { get; init; } = [];

    /// <summary>What is promised to it: its volumes stay when it goes, and are counted by themselves.</summary>
    public Resources Own => Volumes.IsEmpty ? Needs : Needs with { DiskMib = Needs.DiskMib - Volumes.Sum(volume => volume.SizeMib) };

    /// <summary>Where that volume is already, nothing is needed for it.</summary>
    public Demand Without(string volume) => Volumes.FirstOrDefault(one => one.Key == volume) is { Key: not null } there
        ? this with { Needs = Needs with { DiskMib = Needs.DiskMib - there.SizeMib }, Volumes = Volumes.Remove(there) }
        : this;

    /// <summary>Of its host; empty: any.</summary>
    public string Architecture { get; init; } = "";

    /// <summary>That its host must run, or a newer one; null: any.</summary>
    public KernelVersion? MinKernel { get; init; }

    /// <summary>That its host must be able to give; empty: none.</summary>
    public string CpuTemplate { get; init; } = "";

    /// <summary>What it wants of its place beyond that; null: nothing.</summary>
    public PlacementRules? Rules { get; init; }

    /// <summary>Of its class, see <see cref="PriorityClass"/>.</summary>
    public int Rank { get; init; } = PriorityClass.Rank("");

    /// <summary>The OCI image that it boots, in the one way to write it, as hosts do; empty: none.</summary>
    public string Image { get; init; } = "";

    /// <summary>The groups that it is a member of, see <see cref="GroupNames"/>.</summary>
    public ImmutableArray<string> Groups { get; init; } = [];

    public static Demand Of(VmSpec spec)
    {
        ArgumentNullException.ThrowIfNull(spec);
        return new(
            spec.Cpus,
            spec.MemoryMib,
            spec.Driver.Length == 0 ? AutoDriver : spec.Driver,
            spec.Boot is not null,
            spec.Host,
            spec.RateLimits.Count > 0)
        {
            Needs = new(spec.Cpus, spec.MemoryMib, checked((long)spec.DiskMib + spec.Volumes.Sum(volume => (long)volume.SizeMib)), spec.NetworkMbit, checked((long)spec.Iops)),
            Volumes = [.. spec.Volumes.Select(volume => new VolumeRoom(VolumeRules.Key(spec.Tenant, volume.Name), (long)volume.SizeMib))],
            Architecture = spec.Architecture,
            MinKernel = KernelVersion.TryParse(spec.MinKernel, out var kernel) ? kernel : null,
            CpuTemplate = spec.CpuTemplate,
            Rules = GroupNames.RulesOf(spec),
            Groups = GroupNames.MemberOf(spec),
            Rank = PriorityClass.Rank(spec.Priority),
            Image = spec.Image.Length > 0 && ImageReference.TryParse(spec.Image, out var image, out _) ? image.ToString() : "",
        };
    }

    /// <summary>The first of what a host must be, whatever room it has, that one with this inventory is not: see <see cref="RejectionReason"/>. Null: none.</summary>
    public string? Unfit(Inventory inventory) =>
        !ArchitectureFits(inventory) ? RejectionReason.Architecture
        : !DriverFits(inventory) ? RejectionReason.Driver
        : !KernelFits(inventory) ? RejectionReason.Kernel
        : !CpuTemplateFits(inventory) ? RejectionReason.CpuTemplate
        : Rules?.HasLabels(inventory) == false ? RejectionReason.Labels
        : Rules?.MayBeIn(PlacementRules.ZoneOf(inventory)) == false ? RejectionReason.Zone
        : null;

    internal bool ArchitectureFits(Inventory inventory) => Architecture.Length == 0 || inventory.Architecture == Architecture;

    // Of one whose release says no version nobody knows.
    internal bool KernelFits(Inventory inventory) => MinKernel is not { } least || (KernelVersion.TryParseRelease(inventory.Kernel, out var kernel) && kernel >= least);

    internal bool CpuTemplateFits(Inventory inventory) => CpuTemplate.Length == 0 || inventory.CpuTemplates.Contains(CpuTemplate);

    /// <summary>Whether a host with this inventory has a driver that runs it.</summary>
    public bool DriverFits(Inventory inventory)
    {
        ArgumentNullException.ThrowIfNull(inventory);
        if (Driver == AutoDriver)
            return inventory.AutoDriver.Length > 0 && (CpuTemplate.Length == 0 || inventory.AutoDriver == CpuTemplateDriver) && (!Limited || RateLimitRules.Drivers.Contains(inventory.AutoDriver));
        foreach (var driver in inventory.Drivers)
        {
            // A simulated guest has no kernel; every other needs a driver that boots what it brings or what we bring.
            if (driver.Name == Driver)
                return driver.Usable && (OwnKernel || driver.StockKernels || Driver == SimulatedDriver);
        }
        return false;
    }
}

/// <summary>Why a host can't carry a microVM: the reasons of <see cref="Rejection"/>.</summary>
public static class RejectionReason
{
    public const string Disconnected = "disconnected";
    public const string OtherHost = "host";

    /// <summary>Its operator wants it to take no new microVM.</summary>
    public const string Cordoned = "cordoned";

    /// <summary>Launches failed there.</summary>
    public const string Quarantined = "quarantined";

    /// <summary>Its machine is short of CPU or memory at present.</summary>
    public const string Pressure = "pressure";

    /// <summary>This microVM's own launch failed there.</summary>
    public const string LaunchFailed = "launch_failed";

    public const string Driver = "driver";
    public const string Architecture = "architecture";

    /// <summary>It runs an older kernel than is wanted.</summary>
    public const string Kernel = "kernel";

    /// <summary>It has not the CPU template that is wanted.</summary>
    public const string CpuTemplate = "cpu_template";

    public const string Cpus = "cpus";
    public const string Memory = "memory";
    public const string Disk = "disk";
    public const string Network = "network";
    public const string Iops = "iops";

    /// <summary>It has not the labels that are wanted.</summary>
    public const string Labels = "labels";

    /// <summary>It is in none of the zones that are wanted.</summary>
    public const string Zone = "zone";

    /// <summary>Its zone has more of a group than others already.</summary>
    public const string Spread = "spread";

    /// <summary>A group that the microVM must be apart from is there, or one that it must be with is not.</summary>
    public const string Group = "group";

    /// <summary>Another microVM there has a volume that it wants.</summary>
    public const string VolumeInUse = "volume_in_use";

    /// <summary>The sum of limits has room, what its microVMs are predicted to use has not.</summary>
    public const string CpuPeak = "cpu_peak";
    public const string MemoryPeak = "memory_peak";

    /// <summary>It carries as many microVMs as one agent takes, ended ones included.</summary>
    public const string MicroVms = "microvms";

    /// <summary>The reservation is for an epoch that is over.</summary>
    public const string Stale = "stale";

    /// <summary>The host's actor gave no answer in time.</summary>
    public const string Unreachable = "unreachable";
}
