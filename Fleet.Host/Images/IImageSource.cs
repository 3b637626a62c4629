using Fleet.Host.Images.Oci;
using Fleet.Host.Networks;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Host.Images;

/// <summary>Where drivers get what the default image boots from.</summary>
public interface IImageSource
{
    /// <summary>
    /// The default image; made on first use, at most once at a time, and kept.
    /// Throws <see cref="Drivers.LaunchFailedException"/> with <c>image_unavailable</c>.
    /// </summary>
    Task<BootImage> GetDefaultAsync(CancellationToken cancellation);

    /// <summary>
    /// Writes the initrd of one microVM: the image's initramfs followed by a cpio with <c>/fleet/run.json</c>
    /// (docs/guest-protocol.md).
    /// </summary>
    Task WriteInitrdAsync(BootImage image, GuestRun run, string path, CancellationToken cancellation);
}

/// <summary>Files on this host that boot; never written to again once returned.</summary>
/// <param name="KernelPath">A bzImage.</param>
/// <param name="InitrdPath">The initramfs that every microVM of the image shares.</param>
public sealed record BootImage(string KernelPath, string InitrdPath);

/// <summary>What fleet-init is to do.</summary>
/// <param name="Argv">Run as given; empty means the image's shell on the console.</param>
/// <param name="Env">Added to the image's environment.</param>
/// <param name="Hostname">The microVM's name.</param>
public sealed record GuestRun(IReadOnlyList<string> Argv, IReadOnlyDictionary<string, string> Env, string Hostname)
{
    /// <summary>What its interface is to be set to; null: it has none.</summary>
    public Attachment? Network { get; init; }

    /// <summary>In whose root file system, and how; null: in the initramfs.</summary>
    public ImageRun? Image { get; init; }

    /// <summary>How the command is looked after; null: not at all.</summary>
    public HealthCheck? Health { get; init; }

    /// <summary>The console is its terminal.</summary>
    public bool Terminal { get; init; }

    /// <summary>Disks by their serial numbers, and where they are to be mounted.</summary>
    public IReadOnlyList<(string Serial, string Path)> Volumes { get; init; } = [];

    /// <summary>How long its command may take to end when it is asked to.</summary>
    public TimeSpan StopLimit { get; init; } = CommandLimit(TimeSpan.FromSeconds(VmLimits.DefaultGraceSeconds));

    /// <summary>What a command gets of the grace of a stop: fleet-init kills it then, and still has time to end in order.</summary>
    public static TimeSpan CommandLimit(TimeSpan grace) => grace > TimeSpan.FromSeconds(4) ? grace - TimeSpan.FromSeconds(2) : grace / 2;

    /// <summary>What a spec asks for, of its image if it names one: a command goes behind the image's entrypoint, in the place of its own.</summary>
    public static GuestRun Of(VmSpec spec, ImageRun? image)
    {
        ArgumentNullException.ThrowIfNull(spec);
        (string, string)[] volumes = [.. spec.Volumes.Select((volume, i) => (Drivers.VmmLaunch.VolumeSerial(i), volume.Path))];
        var limit = CommandLimit(TimeSpan.FromSeconds(VmLimits.GraceSecondsOf(spec)));
        if (image is null) return new GuestRun(spec.Command, spec.Env, spec.Name) { Health = spec.Health, Volumes = volumes, Terminal = spec.Terminal, StopLimit = limit };
        var env = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var pair in image.Env)
        {
            var equals = pair.IndexOf('=', StringComparison.Ordinal);
            env[pair[..equals]] = pair[(equals + 1)..];
        }
        foreach (var (name, value) in spec.Env) env[name] = value;
        return new GuestRun([.. image.Entrypoint, .. spec.Command.Count > 0 ? spec.Command : image.Cmd], env, spec.Name) { Image = image, Health = spec.Health, Volumes = volumes, Terminal = spec.Terminal, StopLimit = limit };
    }
}
