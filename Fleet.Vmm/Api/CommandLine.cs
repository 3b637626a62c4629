using System.Text;

namespace Fleet.Vmm.Api;

/// <summary>A command line that can't be understood.</summary>
internal sealed class ArgumentFaultException(string message) : Exception(message);

/// <summary>The command line: Firecracker's, without what this VMM does not have, and ours.</summary>
internal sealed class CommandLine
{
    private const string DefaultSocket = "/run/firecracker.socket";
    private const string DefaultId = "anonymous-instance";

    /// <summary>Ten connections with bodies of this size still fit into the managed heap's hard limit (Fleet.Vmm.csproj).</summary>
    private const ulong LargestPayloadLimit = 512 * 1024;

    /// <summary>Name, whether a value follows, help.</summary>
    private static readonly (string Name, bool Value, string Help)[] Known =
    [
        ("api-sock", true, "Path of the API's Unix socket, which must not exist yet. [default: " + DefaultSocket + "]"),
        ("id", true, "Name of the microVM: 1 to 64 letters, digits or hyphens. [default: " + DefaultId + "]"),
        ("config-file", true, "JSON file with the microVM's configuration; the microVM is started at once."),
        ("no-api", false, "No API socket. Needs --config-file."),
        ("exit-file", true, "File that takes how the VMM ended, as JSON, at every orderly end."),
        ("log-path", true, "File or FIFO for the log. [default: standard error]"),
        ("level", true, "Off, Error, Warning, Info, Debug or Trace. [default: Info]"),
        ("show-level", false, "Log lines show their level."),
        ("show-log-origin", false, "Log lines show where in the program they come from."),
        ("metrics-path", true, "File or FIFO for the metrics."),
        ("http-api-max-payload-size", true, "Largest body of a request, in bytes. [default: 51200]"),
        ("run-log", true, "File that takes when the guest runs, as lines of JSON. Needs --run-label."),
        ("run-label", true, "JSON members that each of these lines repeats, without braces."),
        ("metadata", true, "JSON file with the metadata that the guest is told."),
        ("mmds-size-limit", true, "Largest metadata, in bytes. [default: that of a request's body]"),
        ("start-time-us", true, "When the launcher started, monotonic clock, in microseconds."),
        ("start-time-cpu-us", true, "CPU time of this process before its program began, in microseconds."),
        ("parent-cpu-time-us", true, "CPU time the launcher used, in microseconds."),
        ("snapshot-version", false, "Prints the version of the state files that this program writes and reads, and ends."),
        ("describe-snapshot", true, "Prints the version of a state file and ends."),
        ("merge-diff", true, "Memory file of a diff snapshot: puts what it has into --into, and ends."),
        ("into", true, "Memory file of the snapshot before the diff, which becomes the diff's."),
        ("boot-timer", false, "Accepted for Firecracker's callers; there is no boot timer."),
        ("no-seccomp", false, "Lets the process make every system call. For debugging: a guest that breaks out of the VMM is then held by the jail alone."),
        ("version", false, "Prints the version and ends."),
        ("help", false, "Prints this and ends."),
    ];

    private readonly string?[] _values = new string?[Known.Length];

    private CommandLine()
    {
    }

    public bool WantsHelp => Has("help");

    public bool WantsVersion => Has("version");

    public bool NoSeccomp => Has("no-seccomp");

    public bool WantsSnapshotVersion => Has("snapshot-version");

    public string? DescribedSnapshot => Value("describe-snapshot");

    public string? MergedDiff => Value("merge-diff");

    public string? MergeTarget => Value("into");

    /// <summary>No microVM is run.</summary>
    public bool IsAboutSnapshots => WantsSnapshotVersion || DescribedSnapshot is not null || MergedDiff is not null;

    public string Id => Value("id") ?? DefaultId;

    /// <summary>Null with --no-api.</summary>
    public string? ApiSocket => Has("no-api") ? null : Value("api-sock") ?? DefaultSocket;

    public string? ConfigFile => Value("config-file");

    public string? ExitFile => Value("exit-file");

    public string? MetricsPath => Value("metrics-path");

    public string? LogPath => Value("log-path");

    /// <summary>As given; the caller refuses what is no level with an exit code of its own.</summary>
    public string? Level => Value("level");

    public bool? ShowLevel => Has("show-level") ? true : null;

    public bool? ShowLogOrigin => Has("show-log-origin") ? true : null;

    public string? RunLog => Value("run-log");

    public string RunLabel => Value("run-label") ?? "";

    public int LargestBody { get; private set; } = HttpServer.LargestBody;

    public string? MetadataFile => Value("metadata");

    public int MetadataLimit { get; private set; } = HttpServer.LargestBody;

    public ulong? StartTime { get; private set; }

    public ulong StartCpuTime { get; private set; }

    public ulong ParentCpuTime { get; private set; }

    /// <summary>Throws <see cref="ArgumentFaultException"/>.</summary>
    public static CommandLine Parse(ReadOnlySpan<string> arguments)
    {
        var line = new CommandLine();
        foreach (var argument in arguments)
        {
            // As Firecracker: these two win over everything else on the line, wrong or not.
            if (argument is "--help" or "--version")
            {
                line._values[IndexOf(argument[2..])] = "";
                return line;
            }
        }

        for (var i = 0; i < arguments.Length; i++)
        {
            var name = arguments[i].StartsWith("--", StringComparison.Ordinal) ? arguments[i][2..] : "";
            var index = IndexOf(name);
            if (index < 0)
            {
                throw new ArgumentFaultException($"Found argument '{(name.Length > 0 ? name : arguments[i])}' which wasn't expected, or isn't valid in this context.");
            }

            if (line._values[index] is not null)
            {
                throw new ArgumentFaultException($"The argument '{name}' was provided more than once.");
            }

            if (Known[index].Value)
            {
                i++;
                line._values[index] = i < arguments.Length && !arguments[i].StartsWith("--", StringComparison.Ordinal) && arguments[i].Length > 0
                    ? arguments[i]
                    : throw new ArgumentFaultException($"The argument '{name}' requires a value, but none was supplied.");
            }
            else
            {
                line._values[index] = "";
            }
        }

        line.Check();
        return line;
    }

    /// <summary>The value of --exit-file on a line that may be wrong otherwise: also such an end should be told.</summary>
    public static string? FindExitFile(ReadOnlySpan<string> arguments)
    {
        var at = arguments.IndexOf("--exit-file");
        return at >= 0 && at + 1 < arguments.Length ? arguments[at + 1] : null;
    }

    public static string Help(string version)
    {
        var text = new StringBuilder($"fleet-vmm v{version}: runs one microVM under KVM. The API is Firecracker's.\n\n");
        foreach (var (name, value, help) in Known)
        {
            text.Append("  --").Append(name).Append(value ? $" <{name}>" : "").Append("\n      ").Append(help).Append('\n');
        }

        return text.ToString();
    }

    private void Check()
    {
        if (Has("no-api") && !Has("config-file"))
        {
            throw new ArgumentFaultException("Argument 'config-file' required, but not found.");
        }

        if (Has("merge-diff") != Has("into"))
        {
            throw new ArgumentFaultException($"Argument '{(Has("into") ? "merge-diff" : "into")}' required, but not found.");
        }

        if (Has("run-log") != Has("run-label"))
        {
            throw new ArgumentFaultException($"Argument '{(Has("run-log") ? "run-label" : "run-log")}' required, but not found.");
        }

        if (RunLabel.Length > Fencing.RunLog.LongestLabel || RunLabel.AsSpan().ContainsAnyExceptInRange(' ', '~'))
        {
            throw new ArgumentFaultException($"The argument 'run-label' takes at most {Fencing.RunLog.LongestLabel} printable ASCII characters.");
        }

        var id = Id;
        if (id.Length is 0 or > 64)
        {
            throw new ArgumentFaultException($"Invalid instance ID: Invalid len ({id.Length});  the length must be between 1 and 64.");
        }

        for (var i = 0; i < id.Length; i++)
        {
            if (!char.IsAsciiLetterOrDigit(id[i]) && id[i] != '-')
            {
                throw new ArgumentFaultException($"Invalid instance ID: Invalid char ({id[i]}) at position {i}.");
            }
        }

        LargestBody = (int)(Number("http-api-max-payload-size", LargestPayloadLimit) ?? HttpServer.LargestBody);
        MetadataLimit = (int)(Number("mmds-size-limit", LargestPayloadLimit) ?? (ulong)LargestBody);
        StartTime = Number("start-time-us", ulong.MaxValue);
        StartCpuTime = Number("start-time-cpu-us", ulong.MaxValue) ?? 0;
        ParentCpuTime = Number("parent-cpu-time-us", ulong.MaxValue) ?? 0;
    }

    private ulong? Number(string name, ulong largest)
    {
        var text = Value(name);
        if (text is null)
        {
            return null;
        }

        ulong number = 0;
        foreach (var c in text)
        {
            if (!char.IsAsciiDigit(c) || number > (ulong.MaxValue - 9) / 10)
            {
                throw NotANumber(name, text, largest);
            }

            number = number * 10 + (ulong)(c - '0');
        }

        return number <= largest ? number : throw NotANumber(name, text, largest);
    }

    private static ArgumentFaultException NotANumber(string name, string text, ulong largest) =>
        new($"The argument '{name}' takes a whole number from 0 to {largest}, not '{text}'.");

    private bool Has(string name) => _values[IndexOf(name)] is not null;

    private string? Value(string name) => _values[IndexOf(name)];

    private static int IndexOf(string name)
    {
        for (var i = 0; i < Known.Length; i++)
        {
            if (Known[i].Name == name)
            {
                return i;
            }
        }

        return -1;
    }
}
