using System.Text;
using Fleet.Shared.Contracts;

namespace Fleet.Shared.Vms;

/// <summary>The rules of volumes and of how microVMs name them.</summary>
public static class VolumeRules
{
    /// <summary>Volumes of one host that its agent tells of; of more the smallest are not counted against its disk.</summary>
    public const int MostTold = 2048;

    // What fleet-init mounts there itself, or needs.
    private static readonly string[] Taken = ["/proc", "/sys", "/dev", "/fleet"];

    /// <summary>Whether the text is a volume's name: <c>[a-z0-9][a-z0-9-]{0,39}</c>.</summary>
    public static bool IsName(string? text) => VmSpecRules.IsHostId(text);

    /// <summary>Whether the text is what tells volumes of one name apart: 32 hex digits, or nothing for one that is older than such ids.</summary>
    public static bool IsId(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        return text.Length is 0 or 32 && text.All(char.IsAsciiHexDigitLower);
    }

    /// <summary>A volume among those of all tenants.</summary>
    public static string Key(string tenant, string name) => $"{tenant}/{name}";

    /// <summary>Why the text is no volume's name; null: it is one.</summary>
    public static SpecProblem? Name(string field, string name) => IsName(name)
        ? null
        : new(field, "A volume's name must be 1 to 40 of the characters a-z, 0-9 and '-', and begin with a letter or a digit.");

    /// <summary>The first rule that the volumes of a spec break, or null.</summary>
    public static SpecProblem? FirstProblem(VmSpec spec)
    {
        ArgumentNullException.ThrowIfNull(spec);
        if (spec.Volumes.Count == 0)
            return null;
        if (spec.Volumes.Count > VmLimits.MaxVolumes)
            return new("volumes", $"volumes has {spec.Volumes.Count} entries; at most {VmLimits.MaxVolumes} are allowed.");
        if (spec.Gang is not null)
            return new("volumes", "A member of a gang can have no volumes: room is held for it before it is known where they are.");
        var names = new HashSet<string>(StringComparer.Ordinal);
        var paths = new HashSet<string>(StringComparer.Ordinal);
        for (var i = 0; i < spec.Volumes.Count; i++)
        {
            var (volume, field) = (spec.Volumes[i], $"volumes[{i}]");
            if ((Name($"{field}.name", volume.Name)
                ?? VmSpecRules.Range($"{field}.size_mib", (long)Math.Min(volume.SizeMib, long.MaxValue), VmLimits.MinVolumeMib, VmLimits.MaxVolumeMib)
                ?? Path($"{field}.path", volume.Path, ownKernel: spec.Boot is not null)) is { } problem)
                return problem;
            if (!names.Add(volume.Name))
                return new($"{field}.name", $"The volume {volume.Name} is named twice.");
            if (volume.Path.Length > 0 && !paths.Add(volume.Path))
                return new($"{field}.path", $"{volume.Path} is named twice.");
        }
        return null;
    }

    private static SpecProblem? Path(string field, string path, bool ownKernel)
    {
        if (ownKernel)
            return path.Length == 0 ? null : new(field, "With boot a volume is a disk for your own kernel, and nobody mounts it; leave path out.");
        if (!path.StartsWith('/') || path.EndsWith('/') || path.Any(char.IsControl) || path.Split('/').Skip(1).Any(part => part is "" or "." or ".."))
            return new(field, $"{field} must be an absolute path of a folder in the guest, other than /, without '.', '..' and empty parts.");
        if (Encoding.UTF8.GetByteCount(path) > VmLimits.MaxVolumePathBytes)
            return new(field, $"{field} is longer than {VmLimits.MaxVolumePathBytes} bytes.");
        return Taken.Any(taken => path == taken || path.StartsWith(taken + '/', StringComparison.Ordinal))
            ? new(field, $"{field} must not be in {string.Join(", ", Taken)}.")
            : null;
    }
}
