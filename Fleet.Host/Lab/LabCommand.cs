using System.Text;

namespace Fleet.Host.Lab;

/// <summary>
/// A command for a lab node. It runs as root, sees the outer machine's files at their own paths, and gets its words as
/// they are, without a shell between.
/// </summary>
public sealed record LabCommand
{
    /// <summary>A command of these words; the first is the program.</summary>
    public LabCommand(params IReadOnlyList<string> argv)
    {
        ArgumentNullException.ThrowIfNull(argv);
        if (argv.Count == 0)
            throw new LabException("invalid_lab_option", "A command for a lab node needs at least the program's name.");
        Argv = argv;
    }

    /// <summary>Program and arguments.</summary>
    public IReadOnlyList<string> Argv { get; }

    /// <summary>Added to the small fixed environment: PATH, HOME, LANG.</summary>
    public IReadOnlyDictionary<string, string> Environment { get; init; } = new Dictionary<string, string>();

    /// <summary>Where it starts.</summary>
    public string WorkingDirectory { get; init; } = "/";

    /// <summary>A line or a whole script for the node's <c>sh</c>.</summary>
    public static LabCommand Shell(string script) => new("sh", "-c", script);

    /// <summary>The script that the node's control service runs; every word is quoted.</summary>
    internal string ToScript()
    {
        var script = new StringBuilder();
        script.Append("export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8\n");
        script.Append("export DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1\n");
        foreach (var (name, value) in Environment)
        {
            if (name.Length == 0 || char.IsAsciiDigit(name[0]) || !name.All(c => char.IsAsciiLetterOrDigit(c) || c == '_'))
                throw new LabException("invalid_lab_option", $"'{name}' can't be the name of an environment variable: letters, digits and _ only.");
            script.Append("export ").Append(name).Append('=').Append(Quote(value)).Append('\n');
        }
        script.Append("cd ").Append(Quote(WorkingDirectory)).Append(" || exit 126\n");
        script.Append("exec").Append(string.Concat(Argv.Select(word => " " + Quote(word)))).Append('\n');
        return script.ToString();
    }

    /// <summary>One word for a shell, whatever is in it.</summary>
    internal static string Quote(string word) => word.Contains('\0', StringComparison.Ordinal)
        ? throw new LabException("invalid_lab_option", "A word of a command can't contain a NUL.")
        : $"'{word.Replace("'", "'\\''", StringComparison.Ordinal)}'";
}

/// <summary>How a command in a node ended.</summary>
/// <param name="ExitStatus">0–255; 128 + n when signal n ended it.</param>
/// <param name="Output">Standard output, the first 16 MiB.</param>
/// <param name="Errors">Standard error, the first 16 MiB.</param>
/// <param name="Elapsed">Wall time on the outer machine, some 50 ms of it the lab's own.</param>
public sealed record LabResult(int ExitStatus, string Output, string Errors, TimeSpan Elapsed);
