using System.Net;
using Fleet.Host.Drivers;
using Fleet.Host.Images.Oci;
using Fleet.Host.Link;
using Fleet.Host.Networks;
using Fleet.Host.Pressure;
using Fleet.Host.Volumes;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Serilog;

namespace Fleet.Host.Agent;

/// <summary>What an agent needs to know.</summary>
public sealed record HostAgentOptions
{
    /// <summary><c>[a-z0-9][a-z0-9-]{0,39}</c>, the same over restarts.</summary>
    public required string HostId { get; init; }

    public required string StateDirectory { get; init; }

    /// <summary>Where the nodes of the control plane take agents, for example <c>https://10.0.0.1:7071</c>: one of them at a time, any.</summary>
    public required IReadOnlyList<Uri> SchedulerAddresses { get; init; }

    /// <summary>What the host shows there; <see cref="HostEnrolment"/> gets it.</summary>
    public required LinkCredentials Credentials { get; init; }

    public required IReadOnlyList<IVmmDriver> Drivers { get; init; }

    /// <summary>Which of the probed drivers <c>auto</c> means.</summary>
    public Func<IEnumerable<DriverStatus>, string> AutoDriver { get; init; } = DriverChoice.Auto;

    /// <summary>CPUs offered, at least 1; null: all of the machine.</summary>
    public int? Cpus { get; init; }

    /// <summary>MiB offered, at least 1; null: the machine's less <see cref="ReserveMib"/>.</summary>
    public int? MemoryMib { get; init; }

    /// <summary>MiB of disk offered; null: what is free below the state directory, with what volumes take there already, less <see cref="VolumeStore.KeptFree"/>.</summary>
    public long? DiskMib { get; init; }

    /// <summary>Mbit/s of the link, each way, that are offered; null: what the kernel says of the interface with the default route, if anything.</summary>
    public int? NetworkMbit { get; init; }

    /// <summary>Disk operations a second that are offered; null: nobody knows, and so they are not limited.</summary>
    public long? Iops { get; init; }

    /// <summary>Names of the CPU templates that the driver kvm can give here; at most <see cref="MostCpuTemplates"/>.</summary>
    public IReadOnlyCollection<string> CpuTemplates { get; init; } = [];

    /// <summary>The control plane takes no more.</summary>
    public const int MostCpuTemplates = 64;

    /// <summary>Kept for the machine itself: an eighth of its memory, at least 512 MiB.</summary>
    public static long ReserveMib(long machineMib) => Math.Max(512, machineMib / 8);

    /// <summary>At most 64; keys and values as <see cref="VmSpecRules"/> has them.</summary>
    public IReadOnlyDictionary<string, string> Labels { get; init; } = new Dictionary<string, string>();

    /// <summary>
    /// Whether guests stand still when the control plane is silent for longer than the host's lease, so that it may place them
    /// elsewhere. False only where there is no elsewhere: a fleet in one process.
    /// </summary>
    public bool Fenced { get; init; } = true;

    /// <summary>Whether the host does something about pressure by itself (docs/oversubscription.md). It tells of it in any case.</summary>
    public bool Reacts { get; init; } = true;

    /// <summary>Of every vCPU's CPU credits, under the driver <c>kvm</c>; null: a vCPU may use a whole CPU for ever.</summary>
    public CreditPlan? Credits { get; init; }

    /// <summary>How much the host keeps of OCI images, in a folder of its state directory.</summary>
    public ImageStoreOptions Images { get; init; } = new();

    /// <summary>Where other hosts of the cell fetch the snapshots that they are to go on with; null: nowhere.</summary>
    public IPEndPoint? Transfer { get; init; }

    /// <summary>What the networks of microVMs that want one are cut from.</summary>
    public NetworkOptions Networks { get; init; } = new();

    /// <summary>Where the kernel tells of the machine.</summary>
    internal string Proc { get; init; } = "/proc";

    /// <inheritdoc cref="Proc"/>
    internal string Sys { get; init; } = "/sys";

    public string AgentVersion { get; init; } = "0";

    public TimeProvider Clock { get; init; } = TimeProvider.System;

    public ILogger Log { get; init; } = Serilog.Core.Logger.None;

    /// <summary>More CPUs than any machine has; the control plane takes no more.</summary>
    public const int MostCpus = 65_536;

    /// <summary>MiB that this machine has.</summary>
    /// <exception cref="InvalidDataException">The kernel does not tell.</exception>
    public static long MachineMib() => HostInventory.MemoryMib(File.ReadAllText("/proc/meminfo"));

    /// <summary>What the control plane would not take, as a sentence; null: nothing.</summary>
    internal string? FirstProblem()
    {
        if (!VmSpecRules.IsHostId(HostId))
            return $"A host's id is 1 to 40 of a-z, 0-9 and '-', and does not begin with '-'; '{HostId}' is not.";
        if (SchedulerAddresses.Count == 0)
            return "A host needs the address of a node of the control plane.";
        if (SchedulerAddresses.FirstOrDefault(address => address is not { IsAbsoluteUri: true, Scheme: "https" }) is { } wrong)
            return $"The control plane's address must look like https://10.0.0.1:7071; '{wrong}' does not.";
        if (Credentials.HostId != HostId)
            return $"The host's certificate is of '{Credentials.HostId}', and it is to run as '{HostId}'. Join under that id, or use the one it has.";
        if (Cpus is < 1 or > MostCpus)
            return $"A host offers 1 to {MostCpus} CPUs, and not {Cpus}.";
        if (MemoryMib is < 1 or > 1 << 30)
            return $"A host offers 1 to {1 << 30} MiB of memory, and not {MemoryMib}.";
        if (DiskMib is < 0 or > VmLimits.MaxHostDiskMib)
            return $"A host offers 0 to {VmLimits.MaxHostDiskMib} MiB of disk, and not {DiskMib}.";
        if (NetworkMbit is < 0 or > VmLimits.MaxNetworkMbit)
            return $"A host offers 0 to {VmLimits.MaxNetworkMbit} Mbit/s of its link, and not {NetworkMbit}.";
        if (Iops is < 0 or > VmLimits.MaxIops)
            return $"A host offers 0 to {VmLimits.MaxIops} disk operations a second, and not {Iops}.";
        if (CpuTemplates.Count > MostCpuTemplates || CpuTemplates.FirstOrDefault(name => !VmSpecRules.IsCpuTemplate(name)) is not null)
            return $"A host has at most {MostCpuTemplates} CPU templates, and each a name of 1 to 40 of a-z, 0-9 and '-'.";
        if (Transfer is { Address: var at } && (at.Equals(IPAddress.Any) || at.Equals(IPAddress.IPv6Any)))
            return $"Snapshots are fetched from an address that other hosts can reach; '{Transfer}' names none. Give one of this machine's own.";
        if (Networks.FirstProblem() is { } network)
            return network;
        if (Labels.Count > VmLimits.MaxLabels)
            return $"A host has at most {VmLimits.MaxLabels} labels, and not {Labels.Count}.";
        var label = Labels.FirstOrDefault(label => !VmSpecRules.IsLabelKey(label.Key) || !VmSpecRules.IsLabelValue(label.Value));
        return label.Key is null ? null : $"'{label.Key}={label.Value}' is no label: see the rules for labels of microVMs.";
    }
}
