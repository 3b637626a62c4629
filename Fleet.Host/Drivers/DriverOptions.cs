using Fleet.Host.Fencing;
using Fleet.Host.Images;
using Serilog;

namespace Fleet.Host.Drivers;

/// <summary>What the drivers <c>kvm</c> and <c>qemu</c> need to know of this host.</summary>
/// <param name="VmmPath">The program <c>fleet-vmm</c>: an absolute path.</param>
/// <param name="QemuPath">QEMU's program for this architecture: an absolute path, or a name that is looked up in PATH.</param>
/// <param name="Images">Where the default image comes from.</param>
public sealed record DriverOptions(string VmmPath, string QemuPath, IImageSource Images)
{
    /// <summary>QEMU's program as Debian's package qemu-system-x86 installs it.</summary>
    public const string DefaultQemu = "qemu-system-x86_64";

    internal const string DefaultControlGroup = "fleet";

    /// <summary>
    /// Control group, relative to the hierarchies' roots, below which the driver kvm puts its microVMs: a group per agent, and
    /// one per microVM in it.
    /// </summary>
    public string ControlGroup { get; init; } = DefaultControlGroup;

    /// <summary>The clock that time-outs and polls go by.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;

    /// <summary>Where drivers tell what they do.</summary>
    public ILogger Log { get; init; } = Serilog.Core.Logger.None;

    /// <summary>CPU templates by name, each a JSON object as <c>PUT /cpu-config</c> of fleet-vmm takes it. Of the driver kvm.</summary>
    public IReadOnlyDictionary<string, string> CpuTemplates { get; init; } = new Dictionary<string, string>();

    /// <summary>Takes when guests run; null: nobody wants to know.</summary>
    public RunLogs? Runs { get; init; }

    /// <summary>How long a VMM may take from its start until it answers on its socket.</summary>
    public TimeSpan StartTimeout { get; init; } = TimeSpan.FromSeconds(30);
}
