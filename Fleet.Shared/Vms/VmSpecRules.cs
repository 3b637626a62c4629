using System.Text;
using Fleet.Shared.Contracts;
using Google.Protobuf.Collections;

namespace Fleet.Shared.Vms;

/// <summary>What is wrong with a spec.</summary>
/// <param name="Field">Where, as the API writes it: <c>boot.kernel_path</c>, <c>command[2]</c>.</param>
/// <param name="Message">A sentence that says what is allowed.</param>
public sealed record SpecProblem(string Field, string Message);

/// <summary>The rules that every microVM's spec keeps, wherever it comes from.</summary>
public static class VmSpecRules
{
    /// <summary>Drivers a spec may name.</summary>
    public static readonly IReadOnlyList<string> Drivers = ["auto", "kvm", "qemu", "simulated"];

    /// <summary>Architectures that a spec may want of its host; empty is any.</summary>
    public static readonly IReadOnlyList<string> Architectures = ["", "x86_64", "aarch64"];

    /// <summary>Faults a simulated guest may have; empty is none.</summary>
    public static readonly IReadOnlyList<string> SimulatedFaults = ["", "launch_fails", "never_boots", "vmm_dies"];

    /// <summary>The first rule that a complete spec (defaults filled in) breaks, or null.</summary>
    public static SpecProblem? FirstProblem(VmSpec spec)
    {
        ArgumentNullException.ThrowIfNull(spec);
        return Name(spec.Name)
            ?? Range("cpus", spec.Cpus, 1, VmLimits.MaxCpus)
            ?? Range("memory_mib", spec.MemoryMib, VmLimits.MinMemoryMib, VmLimits.MaxMemoryMib)
            ?? Command("command", spec.Command)
            ?? Env(spec.Env)
            ?? OneOf("driver", spec.Driver, Drivers)
            ?? Boot(spec.Boot)
            ?? Image(spec)
            ?? VolumeRules.FirstProblem(spec)
            ?? Range("boot_timeout_seconds", spec.BootTimeoutSeconds, 0, VmLimits.MaxBootTimeoutSeconds)
            ?? Range("stop_grace_seconds", spec.StopGraceSeconds, 0, VmLimits.MaxGraceSeconds)
            ?? OneOf("restart", spec.Restart.Length == 0 ? RestartPolicy.Never : spec.Restart, RestartPolicy.All)
            ?? OneOf("fencing", spec.Fencing.Length == 0 ? FencingPolicy.Strict : spec.Fencing, FencingPolicy.All)
            ?? OneOf("priority", spec.Priority.Length == 0 ? PriorityClass.Normal : spec.Priority, PriorityClass.All)
            ?? Labels("labels", spec.Labels)
            ?? Labels("host_labels", spec.HostLabels)
            ?? Zones(spec.Zones)
            ?? Range("disk_mib", (long)Math.Min(spec.DiskMib, long.MaxValue), 0, VmLimits.MaxVolumeMib)
            ?? Range("network_mbit", spec.NetworkMbit, 0, VmLimits.MaxNetworkMbit)
            ?? Range("iops", (long)Math.Min(spec.Iops, long.MaxValue), 0, VmLimits.MaxIops)
            ?? OneOf("architecture", spec.Architecture, Architectures)
            ?? MinKernel(spec.MinKernel)
            ?? CpuTemplate(spec)
            ?? PlacementWishRules.FirstProblem("placement", spec.Placement)
            ?? Host(spec.Host)
            ?? Simulated(spec)
            ?? NetworkRules.FirstProblem(spec)
            ?? HealthRules.FirstProblem(spec)
            ?? RateLimits(spec);
    }

    /// <summary>Whether the text is a host's id: <c>[a-z0-9][a-z0-9-]{0,39}</c>.</summary>
    public static bool IsHostId(string? text) =>
        text is { Length: >= 1 and <= 40 } && IsLowerOrDigit(text[0]) && text.All(c => IsLowerOrDigit(c) || c == '-');

    /// <summary>Whether the text is the name of a host's CPU template: <c>[a-z0-9][a-z0-9-]{0,39}</c>.</summary>
    public static bool IsCpuTemplate(string? text) => IsHostId(text);

    /// <summary>Whether the text is a microVM's name: <c>[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?</c>, and not of an id's form.</summary>
    public static bool IsName(string? text) =>
        text is { Length: >= 1 and <= 63 } && IsLowerOrDigit(text[0]) && IsLowerOrDigit(text[^1])
        && text.All(c => IsLowerOrDigit(c) || c == '-') && !VmId.IsValid(text);

    /// <summary>Whether the text is a label's key: 1 to 63 of <c>a-z 0-9 . _ / -</c>, first and last a letter or digit.</summary>
    public static bool IsLabelKey(string? text) =>
        text is { Length: >= 1 and <= VmLimits.MaxLabelKeyLength } && IsLowerOrDigit(text[0]) && IsLowerOrDigit(text[^1])
        && text.All(c => IsLowerOrDigit(c) || c is '.' or '_' or '/' or '-');

    /// <summary>Whether the text is a label's value: at most 63 characters, none of them a control character.</summary>
    public static bool IsLabelValue(string? text) =>
        text is { Length: <= VmLimits.MaxLabelValueLength } && !text.Any(char.IsControl);

    /// <summary>A problem when the number is outside the range; the sentence names the range.</summary>
    public static SpecProblem? Range(string field, long value, long least, long most) =>
        value >= least && value <= most ? null : new(field, $"{field} must be from {least} to {most}, and is {value}.");

    private static SpecProblem? Name(string name) => IsName(name)
        ? null
        : new("name", VmId.IsValid(name)
            ? "name has the form of a microVM's id; choose another."
            : "name must be 1 to 63 of the characters a-z, 0-9 and '-', and begin and end with a letter or a digit.");

    /// <summary>The first rule that a program and its arguments break, or null.</summary>
    internal static SpecProblem? Command(string field, RepeatedField<string> command)
    {
        if (command.Count > VmLimits.MaxCommandArguments)
            return new(field, $"{field} has {command.Count} arguments; at most {VmLimits.MaxCommandArguments} are allowed.");
        var bytes = 0L;
        for (var i = 0; i < command.Count; i++)
        {
            if (command[i].Contains('\0', StringComparison.Ordinal))
                return new($"{field}[{i}]", $"{field}[{i}] contains a zero byte, which no argument can.");
            bytes += Encoding.UTF8.GetByteCount(command[i]) + 1;
        }
        if (command.Count > 0 && command[0].Length == 0)
            return new($"{field}[0]", $"{field}[0], the program, is empty.");
        return bytes <= VmLimits.MaxCommandBytes
            ? null
            : new(field, $"{field} is {bytes} bytes with its separators; at most {VmLimits.MaxCommandBytes} are allowed.");
    }

    private static SpecProblem? Env(MapField<string, string> env)
    {
        if (env.Count > VmLimits.MaxEnvVariables)
            return new("env", $"env has {env.Count} variables; at most {VmLimits.MaxEnvVariables} are allowed.");
        var bytes = 0L;
        foreach (var (name, value) in env)
        {
            if (name.Length is 0 or > VmLimits.MaxEnvNameLength || !(char.IsAsciiLetter(name[0]) || name[0] == '_')
                || !name.All(c => char.IsAsciiLetterOrDigit(c) || c == '_'))
                return new(Member("env", name), $"A variable's name must be 1 to {VmLimits.MaxEnvNameLength} letters, digits and '_', and not begin with a digit.");
            if (value.Contains('\0', StringComparison.Ordinal))
                return new(Member("env", name), $"The value of {name} contains a zero byte, which no variable can.");
            bytes += name.Length + Encoding.UTF8.GetByteCount(value) + 2;
        }
        return bytes <= VmLimits.MaxEnvBytes
            ? null
            : new("env", $"env is {bytes} bytes with its separators; at most {VmLimits.MaxEnvBytes} are allowed.");
    }

    private static SpecProblem? Boot(BootSource? boot)
    {
        if (boot is null)
            return null;
        if (AbsolutePath("boot.kernel_path", boot.KernelPath) is { } kernel)
            return kernel;
        if (boot.InitrdPath.Length > 0 && AbsolutePath("boot.initrd_path", boot.InitrdPath) is { } initrd)
            return initrd;
        if (boot.BootArgs.Length > VmLimits.MaxBootArgsLength)
            return new("boot.boot_args", $"boot.boot_args has {boot.BootArgs.Length} characters; at most {VmLimits.MaxBootArgsLength} are allowed.");
        return boot.BootArgs.All(c => c is >= ' ' and <= '~')
            ? null
            : new("boot.boot_args", "boot.boot_args must be printable ASCII on one line.");
    }

    private static SpecProblem? Image(VmSpec spec)
    {
        if (spec.Image.Length == 0)
            return null;
        if (spec.Boot is not null)
            return new("image", "image does not go with boot: an image is run by Fleet's own kernel. Leave one of them out.");
        return ImageReference.TryParse(spec.Image, out _, out var problem) ? null : new("image", problem);
    }

    private static SpecProblem? AbsolutePath(string field, string path)
    {
        if (!path.StartsWith('/'))
            return new(field, $"{field} must be an absolute path on the host.");
        if (path.Any(char.IsControl))
            return new(field, $"{field} contains a control character.");
        return Encoding.UTF8.GetByteCount(path) <= VmLimits.MaxPathBytes
            ? null
            : new(field, $"{field} is longer than {VmLimits.MaxPathBytes} bytes.");
    }

    private static SpecProblem? Labels(string field, MapField<string, string> labels)
    {
        if (labels.Count > VmLimits.MaxLabels)
            return new(field, $"{field} has {labels.Count} entries; at most {VmLimits.MaxLabels} are allowed.");
        foreach (var (key, value) in labels)
        {
            if (!IsLabelKey(key))
                return new(Member(field, key), $"A label's key must be 1 to {VmLimits.MaxLabelKeyLength} of the characters a-z, 0-9, '.', '_', '/' and '-', and begin and end with a letter or a digit.");
            if (!IsLabelValue(value))
                return new(Member(field, key), $"The label {key} must have a value of at most {VmLimits.MaxLabelValueLength} characters without control characters.");
        }
        return null;
    }

    private static SpecProblem? Zones(RepeatedField<string> zones)
    {
        if (zones.Count > VmLimits.MaxZones)
            return new("zones", $"zones has {zones.Count} entries; at most {VmLimits.MaxZones} are allowed.");
        for (var i = 0; i < zones.Count; i++)
        {
            if (zones[i].Length == 0 || !IsLabelValue(zones[i]))
                return new($"zones[{i}]", $"A zone's name must be 1 to {VmLimits.MaxLabelValueLength} characters without control characters.");
        }
        return null;
    }

    private static SpecProblem? MinKernel(string version) => version.Length == 0 || KernelVersion.TryParse(version, out _)
        ? null
        : new("min_kernel", "min_kernel must be the version of a Linux kernel such as 6.1 or 6.1.50: two or three numbers with dots in between.");

    private static SpecProblem? CpuTemplate(VmSpec spec)
    {
        if (spec.CpuTemplate.Length == 0)
            return null;
        if (!IsCpuTemplate(spec.CpuTemplate))
            return new("cpu_template", "cpu_template must be the name of a host's CPU template: 1 to 40 of the characters a-z, 0-9 and '-', beginning with a letter or a digit.");
        return spec.Driver is "auto" or "kvm" ? null : new("cpu_template", $"cpu_template does not go with the driver {spec.Driver}; kvm alone can give one.");
    }

    private static SpecProblem? Host(string host) => host.Length == 0 || IsHostId(host)
        ? null
        : new("host", "host must be a host's id: 1 to 40 of the characters a-z, 0-9 and '-', beginning with a letter or a digit.");

    private static SpecProblem? Simulated(VmSpec spec)
    {
        if (spec.Simulated is not { } guest)
            return null;
        if (spec.Driver != "simulated")
            return new("simulated", "simulated goes only with the driver simulated.");
        return Range("simulated.boot_ms", guest.BootMs, 0, VmLimits.MaxSimulatedMs)
            ?? Range("simulated.run_ms", guest.RunMs, 0, VmLimits.MaxSimulatedMs)
            ?? Range("simulated.exit_status", guest.ExitStatus, 0, 255)
            ?? OneOf("simulated.fault", guest.Fault, SimulatedFaults)
            ?? Curve("simulated.cpu_percent", guest.CpuPercent)
            ?? Curve("simulated.memory_percent", guest.MemoryPercent)
            ?? (guest.CpuPercent.Count + guest.MemoryPercent.Count > 0 || guest.StepMs > 0
                ? Range("simulated.step_ms", guest.StepMs, VmLimits.MinCurveStepMs, VmLimits.MaxSimulatedMs)
                : null);
    }

    private static SpecProblem? Curve(string field, RepeatedField<uint> percents)
    {
        if (percents.Count > VmLimits.MaxCurveSteps)
            return new(field, $"{field} has {percents.Count} steps; at most {VmLimits.MaxCurveSteps} are allowed.");
        for (var i = 0; i < percents.Count; i++)
        {
            if (Range($"{field}[{i}]", percents[i], 0, 100) is { } problem)
                return problem;
        }
        return null;
    }

    private static SpecProblem? RateLimits(VmSpec spec)
    {
        if (spec.RateLimits.Count > 0 && !RateLimitRules.Drivers.Contains(spec.Driver))
            return new("rate_limits", $"rate_limits do not go with the driver {spec.Driver}, whose VMM has no rate limiters that can be told.");
        return RateLimitRules.FirstProblem("rate_limits", spec.RateLimits);
    }

    private static SpecProblem? OneOf(string field, string value, IReadOnlyList<string> allowed) => allowed.Contains(value)
        ? null
        : new(field, $"{field} must be one of {string.Join(", ", allowed.Where(a => a.Length > 0))}.");

    // A key from outside may be long; the field of an error need not be.
    private static string Member(string parent, string key) => key.Length <= 64 ? $"{parent}.{key}" : $"{parent}.{key[..64]}…";

    internal static bool IsLowerOrDigit(char c) => c is (>= 'a' and <= 'z') or (>= '0' and <= '9');
}
