using System.Text.Json;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Api;

/// <summary>A request that can't be carried out, with the sentence that goes into <c>fault_message</c>.</summary>
internal sealed class ApiFaultException(string message, string code = "bad_configuration", Exception? inner = null) : Exception(message, inner)
{
    /// <summary>Stable code for the exit report, should this fault end the process.</summary>
    public string Code { get; } = code;
}

/// <summary>What <c>PUT /boot-source</c> says.</summary>
internal sealed record BootSource(string KernelImagePath, string? InitrdPath, string? BootArgs)
{
    private static readonly string[] Fields = ["kernel_image_path", "initrd_path", "boot_args"];

    public static BootSource Read(ref JsonBody body)
    {
        body.ExpectObject("struct BootSourceConfig");
        string kernel = "";
        string? initrd = null, arguments = null;
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            switch (field)
            {
                case 0: kernel = body.String(); break;
                case 1: initrd = body.OptionalString(); break;
                default: arguments = body.OptionalString(); break;
            }
        }

        body.Require(Fields, seen, 0);
        return new BootSource(kernel, initrd, arguments);
    }

    public static void Write(Utf8JsonWriter json, BootSource? source)
    {
        json.WriteStartObject();
        json.WriteString("kernel_image_path", source?.KernelImagePath ?? "");
        json.WriteString("initrd_path", source?.InitrdPath);
        json.WriteString("boot_args", source?.BootArgs);
        json.WriteEndObject();
    }
}

/// <summary>What <c>PUT</c> and <c>PATCH /machine-config</c> say; null is "not said".</summary>
internal sealed record MachineConfigUpdate(
    ulong? VcpuCount, ulong? MemSizeMib, bool? Smt, int? CpuTemplate, bool? TrackDirtyPages, int? HugePages)
{
    private static readonly string[] Fields =
        ["vcpu_count", "mem_size_mib", "smt", "cpu_template", "track_dirty_pages", "huge_pages"];

    private static readonly string[] Templates = ["C3", "T2", "T2S", "T2CL", "T2A", "V1N1", "None"];
    private static readonly string[] PageSizes = ["None", "Transparent", "2M"];

    public const int NoTemplate = 6;
    public const int SmallPages = 0;

    public bool IsEmpty => this == new MachineConfigUpdate(null, null, null, null, null, null);

    /// <param name="body">Stands on the object.</param>
    /// <param name="complete">PUT: both sizes have to be said. PATCH: neither has to.</param>
    public static MachineConfigUpdate Read(ref JsonBody body, bool complete)
    {
        body.ExpectObject(complete ? "struct MachineConfig" : "struct MachineConfigUpdate");
        var update = new MachineConfigUpdate(null, null, null, null, null, null);
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            if (body.IsNull && (!complete || field == 3))
            {
                continue;
            }

            update = field switch
            {
                0 => update with { VcpuCount = body.Unsigned(byte.MaxValue, "u8") },
                1 => update with { MemSizeMib = body.Unsigned(ulong.MaxValue, "usize") },
                2 => update with { Smt = body.Boolean() },
                3 => update with { CpuTemplate = body.Variant(Templates) },
                4 => update with { TrackDirtyPages = body.Boolean() },
                _ => update with { HugePages = body.Variant(PageSizes) },
            };
        }

        if (complete)
        {
            body.Require(Fields, seen, 0);
            body.Require(Fields, seen, 1);
        }

        return update;
    }
}

/// <summary>The machine's size as it is configured now.</summary>
internal sealed record MachineConfig(int VcpuCount = 1, int MemSizeMib = 128, bool Smt = false, bool TrackDirtyPages = false)
{
    public const int MostVcpus = 32;

    /// <summary>1 TiB: far above any host this runs on, and small enough that no size in bytes overflows.</summary>
    public const int MostMemoryMib = 1 << 20;

    /// <summary>This configuration with the update in it. Throws when the result can't be run.</summary>
    public MachineConfig With(MachineConfigUpdate update)
    {
        var vcpus = update.VcpuCount ?? (ulong)VcpuCount;
        var memory = update.MemSizeMib ?? (ulong)MemSizeMib;
        var smt = update.Smt ?? Smt;
        if (vcpus is 0 or > MostVcpus || (smt && vcpus > 1 && vcpus % 2 == 1))
        {
            throw Invalid("The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.");
        }

        if (memory == 0)
        {
            throw Invalid("The memory size (MiB) is either 0, or not a multiple of the configured page size.");
        }

        if (memory > MostMemoryMib)
        {
            throw Invalid($"The memory size (MiB) is larger than {MostMemoryMib}.");
        }

        // Said and not done would be worse than refused: the caller would count on it.
        if (smt)
        {
            throw Invalid("smt is not supported by fleet-vmm: every vCPU is a core of its own. Leave it out or say false.");
        }

        if (update.CpuTemplate is not (null or MachineConfigUpdate.NoTemplate))
        {
            throw Invalid("cpu_template is not supported by fleet-vmm. Leave it out or say None.");
        }

        if (update.HugePages is not (null or MachineConfigUpdate.SmallPages))
        {
            throw Invalid("huge_pages is not supported by fleet-vmm. Leave it out or say None.");
        }

        return new MachineConfig((int)vcpus, (int)memory, smt, update.TrackDirtyPages ?? TrackDirtyPages);
    }

    public void Write(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        json.WriteNumber("vcpu_count", VcpuCount);
        json.WriteNumber("mem_size_mib", MemSizeMib);
        json.WriteBoolean("smt", Smt);
        json.WriteBoolean("track_dirty_pages", TrackDirtyPages);
        json.WriteString("huge_pages", "None");
        json.WriteEndObject();
    }

    private static ApiFaultException Invalid(string message) => new("Machine config error: " + message);
}

/// <summary>What <c>PUT /logger</c> and the command line say about the log; null is "not said".</summary>
internal sealed record LoggerConfig(string? LogPath, LogLevel? Level, bool? ShowLevel, bool? ShowLogOrigin)
{
    private static readonly string[] Fields = ["log_path", "level", "show_level", "show_log_origin", "module"];

    public static LoggerConfig Read(ref JsonBody body)
    {
        body.ExpectObject("struct LoggerConfig");
        var config = new LoggerConfig(null, null, null, null);
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            if (body.IsNull)
            {
                continue;
            }

            config = field switch
            {
                0 => config with { LogPath = body.String() },
                1 => config with { Level = LogLevels.FromIndex(body.Variant(LogLevels.Names, anyCase: true)) },
                2 => config with { ShowLevel = body.Boolean() },
                3 => config with { ShowLogOrigin = body.Boolean() },
                _ => throw body.Fault("the log of fleet-vmm has no modules, leave out `module`"),
            };
        }

        return config;
    }

    public void Write(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        json.WriteString("log_path", LogPath);
        json.WriteString("level", Level is { } level ? LogLevels.Name(level) : null);
        WriteOptional(json, "show_level", ShowLevel);
        WriteOptional(json, "show_log_origin", ShowLogOrigin);
        json.WriteEndObject();
    }

    private static void WriteOptional(Utf8JsonWriter json, string name, bool? value)
    {
        if (value is { } known)
        {
            json.WriteBoolean(name, known);
        }
        else
        {
            json.WriteNull(name);
        }
    }
}

/// <summary>What <c>PUT /metrics</c> says.</summary>
internal sealed record MetricsConfig(string MetricsPath, bool EmitId, IReadOnlyList<KeyValuePair<string, string>> Properties)
{
    /// <summary>They are written with every line; a handful of labels is what they are for.</summary>
    private const int MostProperties = 16;

    private static readonly string[] Fields = ["metrics_path", "emit_id", "properties"];

    public static MetricsConfig Read(ref JsonBody body)
    {
        body.ExpectObject("struct MetricsConfig");
        string path = "";
        var emitId = false;
        List<KeyValuePair<string, string>> properties = [];
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            switch (field)
            {
                case 0:
                    path = body.String();
                    break;
                case 1:
                    emitId = !body.IsNull && body.Boolean();
                    break;
                case 2 when !body.IsNull:
                    body.ExpectObject("a map");
                    while (body.NextFreeField(out var name))
                    {
                        properties.Add(new(name, body.String()));
                        if (properties.Count > MostProperties)
                        {
                            throw body.Fault($"more than {MostProperties} properties");
                        }
                    }

                    break;
                default:
                    break;
            }
        }

        body.Require(Fields, seen, 0);
        return new MetricsConfig(path, emitId, properties);
    }

    public void Write(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        json.WriteString("metrics_path", MetricsPath);
        json.WriteBoolean("emit_id", EmitId);
        json.WriteStartObject("properties");
        foreach (var property in Properties)
        {
            json.WriteString(property.Key, property.Value);
        }

        json.WriteEndObject();
        json.WriteEndObject();
    }
}

/// <summary>What <c>PUT</c> and our own <c>PATCH /entropy</c> say.</summary>
internal static class EntropyConfig
{
    private static readonly string[] Fields = ["rate_limiter"];

    public static LimiterSettings Read(ref JsonBody body)
    {
        body.ExpectObject("struct EntropyDeviceConfig");
        var limits = LimiterConfig.Unlimited;
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out _))
        {
            limits = LimiterConfig.Read(ref body);
        }

        return limits;
    }
}

/// <summary>Bodies with one required field.</summary>
internal static class SingleFieldBody
{
    private static readonly string[] ActionFields = ["action_type"];
    private static readonly string[] StateFields = ["state"];
    private static readonly string[] StatusPortFields = ["output_path"];
    private static readonly string[] Actions = ["FlushMetrics", "InstanceStart", "SendCtrlAltDel"];
    private static readonly string[] States = ["Paused", "Resumed"];

    public static ApiAction ReadAction(ref JsonBody body)
    {
        body.ExpectObject("struct ActionBody");
        var action = 0;
        uint seen = 0;
        while (body.NextField(ActionFields, ref seen, out _))
        {
            action = body.Variant(Actions);
        }

        body.Require(ActionFields, seen, 0);
        return (ApiAction)action;
    }

    /// <summary>True for Paused, false for Resumed.</summary>
    public static bool ReadWantsPause(ref JsonBody body)
    {
        body.ExpectObject("struct Vm");
        var state = 0;
        uint seen = 0;
        while (body.NextField(StateFields, ref seen, out _))
        {
            state = body.Variant(States);
        }

        body.Require(StateFields, seen, 0);
        return state == 0;
    }

    /// <summary>Body of <c>PUT /fleet/status-port</c>.</summary>
    public static string ReadStatusPort(ref JsonBody body)
    {
        body.ExpectObject("struct StatusPort");
        var path = "";
        uint seen = 0;
        while (body.NextField(StatusPortFields, ref seen, out _))
        {
            path = body.String();
        }

        body.Require(StatusPortFields, seen, 0);
        return path;
    }
}

/// <summary>What <c>PUT /actions</c> can ask for, in the order Firecracker lists them.</summary>
internal enum ApiAction
{
    FlushMetrics,
    InstanceStart,
    SendCtrlAltDel,
}
