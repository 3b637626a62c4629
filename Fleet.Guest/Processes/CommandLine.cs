using Fleet.Guest.Configuration;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Processes;

/// <summary>The command as it will be executed.</summary>
/// <param name="Path">Program file; null when no such program exists.</param>
/// <param name="Argv">With the name it was called by.</param>
/// <param name="Environment"><c>NAME=value</c>.</param>
/// <param name="IsShell">The image's shell on the console, because no command was given.</param>
internal sealed record CommandLine(string? Path, IReadOnlyList<string> Argv, IReadOnlyList<string> Environment, bool IsShell)
{
    private const string Shell = "/bin/sh";
    private const string DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

    /// <summary>Puts the image's environment under the spec's and finds the program by the resulting PATH.</summary>
    /// <param name="configuration">What is wanted.</param>
    /// <param name="user">Whom an image's command runs as; null: there is no image, and all is root's.</param>
    /// <param name="probe">What lies at a path.</param>
    public static CommandLine From(RunConfiguration configuration, UserAccount? user, Func<string, FoundFile> probe)
    {
        var environment = new Dictionary<string, string>(StringComparer.Ordinal)
        {
            ["PATH"] = DefaultPath,
            ["HOME"] = user?.Home ?? "/root",
            ["TERM"] = "vt220",
        };
        if (user is null)
        {
            environment["USER"] = "root";
            environment["SHELL"] = Shell;
        }
        if (configuration.Hostname.Length > 0) environment["HOSTNAME"] = configuration.Hostname;
        foreach (var (name, value) in configuration.Env) environment[name] = value;
        var lines = new List<string>(environment.Count);
        foreach (var (name, value) in environment) lines.Add($"{name}={value}");

        return configuration.Argv.Count == 0
            ? new CommandLine(Shell, ["sh"], lines, IsShell: true)
            : new CommandLine(PathLookup.Find(configuration.Argv[0], environment["PATH"], probe), configuration.Argv, lines, IsShell: false);
    }

    /// <summary>What lies at a path of this machine.</summary>
    public static unsafe FoundFile Probe(string path)
    {
        if (!File.Exists(path)) return FoundFile.Nothing;
        using var strings = new NativeStrings();
        // SAFETY: the string ends with NUL and lives until the end of this method.
        return Libc.access(strings.Add(path), Libc.X_OK) == 0 ? FoundFile.Executable : FoundFile.Forbidden;
    }

    /// <summary>What a shell would say of a command that can't be executed, and its exit status; null for faults of another kind.</summary>
    public static (int Status, string Message)? Refusal(string name, int error) => error switch
    {
        Libc.ENOENT or Libc.ENOTDIR => (ExitStatus.NotFound, $"{name}: not found"),
        Libc.EACCES or Libc.EISDIR or Libc.E2BIG or Libc.ELOOP or Libc.ENAMETOOLONG or Libc.ENOEXEC =>
            (ExitStatus.NotExecutable, $"{name}: {Files.Describe(error)}"),
        _ => null,
    };
}
