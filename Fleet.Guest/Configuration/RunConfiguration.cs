using System.Text;
using System.Text.Json;
using Fleet.Guest.Health;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Configuration;

/// <summary>What this microVM is to run: <c>/fleet/run.json</c> (docs/guest-protocol.md).</summary>
/// <param name="Argv">Program and arguments; empty means a shell on the console.</param>
/// <param name="Env">Added to the image's environment, name and value.</param>
/// <param name="Hostname">Empty leaves the kernel's.</param>
/// <param name="Image">The OCI image whose root file system it runs in; null: the initramfs.</param>
internal sealed record RunConfiguration(IReadOnlyList<string> Argv, IReadOnlyList<KeyValuePair<string, string>> Env, string Hostname, ImageConfiguration? Image = null)
{
    /// <summary>What the network interface is to be set to; null: there is none.</summary>
    public NetworkConfiguration? Network { get; init; }

    /// <summary>How the command is looked after; null: not at all.</summary>
    public HealthCheck? Health { get; init; }

    /// <summary>Disks by their serial numbers, and where they belong.</summary>
    public IReadOnlyList<(string Disk, string Path)> Volumes { get; init; } = [];

    /// <summary>The console is the command's terminal; else its two outputs are kept apart, and what they say is in the log too.</summary>
    public bool Terminal { get; init; }

    /// <summary>How long the command may take to end where whoever asks says nothing else.</summary>
    public TimeSpan StopLimit { get; init; } = TimeSpan.FromSeconds(8);

    public const string Path = "/fleet/run.json";

    /// <summary>The file is written by the host from an API request of at most 1 MiB; JSON may escape each byte as six.</summary>
    public const int LargestFile = 8 << 20;

    /// <summary>The kernel's __NEW_UTS_LEN.</summary>
    private const int LongestHostname = 64;

    private const int LongestSeconds = 3600;

    /// <summary>
    /// Reads the file's bytes. Anything that is not exactly the contract is a <see cref="BadConfigurationException"/>:
    /// an unknown or repeated member, a wrong type, a NUL, invalid UTF-8.
    /// </summary>
    public static RunConfiguration Parse(ReadOnlySpan<byte> json)
    {
        try
        {
            return ParseObject(json);
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            // InvalidOperationException: a string that is not valid UTF-8 or UTF-16.
            throw new BadConfigurationException("run.json is not valid JSON in UTF-8");
        }
    }

    private static RunConfiguration ParseObject(ReadOnlySpan<byte> json)
    {
        var reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = 4 });
        List<string>? argv = null;
        List<KeyValuePair<string, string>>? env = null;
        string? hostname = null;
        HealthCheck? health = null;
        ImageConfiguration? image = null;
        NetworkConfiguration? network = null;
        List<(string, string)>? volumes = null;
        bool? terminal = null;
        int? stop = null;
        if (!reader.Read() || reader.TokenType != JsonTokenType.StartObject)
            throw new BadConfigurationException("run.json is not an object");
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            var member = reader.GetString()!;
            reader.Read();
            switch (member)
            {
                case "argv" when argv is null: argv = ReadArgv(ref reader); break;
                case "env" when env is null: env = ReadEnv(ref reader); break;
                case "hostname" when hostname is null: hostname = ReadString(ref reader, member); break;
                case "image" when image is null: image = ReadImage(ref reader); break;
                case "health" when health is null: health = ReadHealth(ref reader); break;
                case "network" when network is null: network = NetworkConfiguration.Read(ref reader); break;
                case "volumes" when volumes is null: volumes = ReadVolumes(ref reader); break;
                case "terminal" when terminal is null: terminal = reader.GetBoolean(); break;
                case "stop_ms" when stop is null: stop = ReadNumber(ref reader, member, 0, LongestSeconds * 1000); break;
                case "argv" or "env" or "hostname" or "image" or "network" or "health" or "volumes" or "terminal" or "stop_ms": throw new BadConfigurationException($"run.json has '{member}' twice");
                default: throw new BadConfigurationException($"run.json has an unknown member '{member}'");
            }
        }
        if (reader.Read()) throw new BadConfigurationException("run.json goes on after its object");
        if (argv is null) throw new BadConfigurationException("run.json has no 'argv'");
        if (argv.Count > 0 && argv[0].Length == 0) throw new BadConfigurationException("the first element of 'argv' is empty");
        if (Encoding.UTF8.GetByteCount(hostname ?? "") > LongestHostname)
            throw new BadConfigurationException($"'hostname' is longer than {LongestHostname} bytes");
        var run = new RunConfiguration(argv, env ?? [], hostname ?? "", image) { Health = health, Network = network, Volumes = volumes ?? [], Terminal = terminal ?? false };
        return stop is { } limit ? run with { StopLimit = TimeSpan.FromMilliseconds(limit) } : run;
    }

    private static HealthCheck ReadHealth(ref Utf8JsonReader reader)
    {
        if (reader.TokenType != JsonTokenType.StartObject) throw new BadConfigurationException("'health' is not an object");
        List<string> argv = [];
        var path = "";
        int port = 0, interval = 30, timeout = 5, failures = 3, startPeriod = 0;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            var member = reader.GetString()!;
            reader.Read();
            switch (member)
            {
                case "argv": argv = ReadArgv(ref reader); break;
                case "http_path": path = ReadString(ref reader, member); break;
                case "port": port = ReadNumber(ref reader, member, 0, ushort.MaxValue); break;
                case "interval": interval = ReadNumber(ref reader, member, 1, LongestSeconds); break;
                case "timeout": timeout = ReadNumber(ref reader, member, 1, LongestSeconds); break;
                case "failures": failures = ReadNumber(ref reader, member, 1, LongestSeconds); break;
                case "start_period": startPeriod = ReadNumber(ref reader, member, 0, LongestSeconds); break;
                default: throw new BadConfigurationException($"'health' has an unknown member '{member}'");
            }
        }
        if (argv.Count > 0 == port > 0) throw new BadConfigurationException("'health' needs either 'argv' or 'port'");
        return new HealthCheck(
            argv, (ushort)port, path, TimeSpan.FromSeconds(interval), TimeSpan.FromSeconds(timeout), failures, TimeSpan.FromSeconds(startPeriod));
    }

    private static int ReadNumber(ref Utf8JsonReader reader, string member, int least, int most) =>
        reader.TokenType == JsonTokenType.Number && reader.TryGetInt32(out var number) && number >= least && number <= most
            ? number
            : throw new BadConfigurationException($"'{member}' is no number from {least} to {most}");

    internal static List<string> ReadArgv(ref Utf8JsonReader reader)
    {
        if (reader.TokenType != JsonTokenType.StartArray) throw new BadConfigurationException("'argv' is not an array");
        var argv = new List<string>();
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray) argv.Add(ReadString(ref reader, "argv"));
        return argv;
    }

    internal static List<KeyValuePair<string, string>> ReadEnv(ref Utf8JsonReader reader)
    {
        if (reader.TokenType != JsonTokenType.StartObject) throw new BadConfigurationException("'env' is not an object");
        var env = new List<KeyValuePair<string, string>>();
        var seen = new HashSet<string>(StringComparer.Ordinal);
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            var name = reader.GetString()!;
            if (name.Length == 0 || name.Contains('=') || name.Contains('\0') || !seen.Add(name))
                throw new BadConfigurationException("'env' has a name that is empty, repeated, or contains '=' or NUL");
            reader.Read();
            env.Add(new(name, ReadString(ref reader, "env")));
        }
        return env;
    }

    private static ImageConfiguration ReadImage(ref Utf8JsonReader reader)
    {
        if (reader.TokenType != JsonTokenType.StartObject) throw new BadConfigurationException("'image' is not an object");
        string? user = null, workdir = null;
        int? signal = null;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            var member = reader.GetString()!;
            reader.Read();
            switch (member)
            {
                case "user" when user is null: user = ReadString(ref reader, member); break;
                case "workdir" when workdir is null: workdir = ReadString(ref reader, member); break;
                case "stop_signal" when signal is null && reader.TokenType == JsonTokenType.Number && reader.TryGetInt32(out var number) && number is >= 1 and <= 64:
                    signal = number;
                    break;
                default: throw new BadConfigurationException($"'image' has a member '{member}' that is unknown, repeated or out of its range");
            }
        }
        return new ImageConfiguration(user ?? "", workdir ?? "", signal ?? Libc.SIGTERM);
    }

    private static List<(string Disk, string Path)> ReadVolumes(ref Utf8JsonReader reader)
    {
        if (reader.TokenType != JsonTokenType.StartArray) throw new BadConfigurationException("'volumes' is not an array");
        var volumes = new List<(string, string)>();
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            if (reader.TokenType != JsonTokenType.StartObject) throw new BadConfigurationException("'volumes' holds something that is not an object");
            string? disk = null, path = null;
            while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
            {
                var member = reader.GetString()!;
                reader.Read();
                switch (member)
                {
                    case "disk" when disk is null: disk = ReadString(ref reader, member); break;
                    case "path" when path is null: path = ReadString(ref reader, member); break;
                    default: throw new BadConfigurationException($"'volumes' has a member '{member}' that is unknown or repeated");
                }
            }
            if (disk is null or "" || path is null || !path.StartsWith('/')) throw new BadConfigurationException("'volumes' has an entry without a disk or an absolute path");
            volumes.Add((disk, path));
        }
        return volumes;
    }

    internal static string ReadString(ref Utf8JsonReader reader, string member)
    {
        if (reader.TokenType != JsonTokenType.String) throw new BadConfigurationException($"'{member}' holds something that is not a string");
        var text = reader.GetString()!;
        return text.Contains('\0') ? throw new BadConfigurationException($"'{member}' holds a string with a NUL") : text;
    }
}

/// <summary>How an OCI image wants its command to be run.</summary>
/// <param name="User">Name or number, perhaps with a colon and a group; empty: root.</param>
/// <param name="WorkingDirectory">Empty: the root.</param>
/// <param name="StopSignal">What asks the command to end.</param>
internal sealed record ImageConfiguration(string User, string WorkingDirectory, int StopSignal);

/// <summary>fleet-init was told something it can't follow; reported as <c>bad_config</c>.</summary>
internal sealed class BadConfigurationException(string message) : Exception(message);
