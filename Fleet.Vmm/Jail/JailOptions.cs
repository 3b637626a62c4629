using System.Globalization;
using Fleet.Vmm.Api;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Jail;

/// <summary>What a passed descriptor is for.</summary>
internal enum PassedKind
{
    /// <summary>A regular file, to be read.</summary>
    Read,

    /// <summary>A regular file, to be read and written: a disk.</summary>
    Edit,

    /// <summary>A file that is made or emptied, to be written.</summary>
    Write,

    /// <summary>A file that is made if it is missing, to be written at its end.</summary>
    Append,

    /// <summary>A Unix socket that is made and listens.</summary>
    Listen,

    /// <summary>A tap interface, by its name.</summary>
    Tap,
}

/// <summary><c>--fd N=kind:path</c>.</summary>
internal sealed record PassedFile(int Number, PassedKind Kind, string Path);

/// <summary><c>--bind SOURCE=PATH</c> and <c>--bind-ro</c>: a file or folder of the host that the jail shows.</summary>
internal sealed record BoundPath(string Source, string Path, bool ReadOnly);

/// <summary>The command line of <c>fleet-vmm jail</c>: that of Firecracker's jailer, and ours.</summary>
internal sealed class JailOptions
{
    /// <summary>What of descriptors may be passed: below it they are ours to give, above it the jail keeps its own.</summary>
    public const int PassedLimit = 32;

    private const int MostNames = 64;

    /// <summary>Our names of RLIMIT_*, and the kernel's numbers; asm-generic/resource.h.</summary>
    internal static readonly (string Name, int Number)[] Resources =
        [("no-file", 7), ("fsize", 1), ("nproc", 6), ("memlock", 8), ("as", 9), ("cpu", 0), ("core", 4), ("sigpending", 11), ("msgqueue", 12)];

    private static readonly string[] ResourceNames = Array.ConvertAll(Resources, static resource => resource.Name);

    private static readonly string[] Switches = ["new-pid-ns", "daemonize", "version", "help"];

    private static readonly string[] DeviceNames = ["net/tun", "userfaultfd"];

    private readonly Dictionary<string, string> _single = [];

    private JailOptions()
    {
    }

    public bool WantsHelp => _single.ContainsKey("help");

    public bool WantsVersion => _single.ContainsKey("version");

    public string Id => _single["id"];

    public uint User { get; private set; }

    public uint Group { get; private set; }

    /// <summary>Null: this program itself.</summary>
    public string? Program => _single.GetValueOrDefault("exec-file");

    /// <summary>Null: the root is an empty file system that nobody else sees.</summary>
    public string? BaseDirectory => _single.GetValueOrDefault("chroot-base-dir");

    /// <summary>Null: a new, empty one.</summary>
    public string? NetworkNamespace => _single.GetValueOrDefault("netns");

    public string? PidFile => _single.GetValueOrDefault("pid-file");

    public bool Daemonize => _single.ContainsKey("daemonize");

    /// <summary>1 or 2; 0: where the controller is.</summary>
    public int ControlGroupVersion { get; private set; }

    public string ParentControlGroup => _single.GetValueOrDefault("parent-cgroup") ?? "fleet";

    public List<(string File, string Value)> ControlGroupValues { get; } = [];

    public List<(int Resource, ulong Limit)> Limits { get; } = [];

    public List<PassedFile> Passed { get; } = [];

    public List<BoundPath> Bound { get; } = [];

    /// <summary>Below /dev, beside kvm and urandom.</summary>
    public List<string> Devices { get; } = [];

    /// <summary>For the program in the jail.</summary>
    public string[] Arguments { get; private set; } = [];

    /// <summary>Throws <see cref="ArgumentFaultException"/>.</summary>
    public static JailOptions Parse(ReadOnlySpan<string> arguments)
    {
        var options = new JailOptions();
        for (var i = 0; i < arguments.Length; i++)
        {
            if (arguments[i] == "--")
            {
                options.Arguments = arguments[(i + 1)..].ToArray();
                break;
            }

            var name = arguments[i].StartsWith("--", StringComparison.Ordinal) ? arguments[i][2..] : "";
            if (name is "help" or "version")
            {
                options._single[name] = "";
                return options;
            }

            if (Array.IndexOf(Switches, name) >= 0)
            {
                options._single[name] = "";
                continue;
            }

            i++;
            var value = i < arguments.Length ? arguments[i] : "";
            if (value.Length == 0 || value == "--" || value.Contains('\0'))
            {
                throw new ArgumentFaultException($"The argument '{(name.Length > 0 ? name : arguments[i - 1])}' is unknown or requires a value, and none was supplied.");
            }

            options.Take(name, value);
        }

        options.Check();
        return options;
    }

    public static string Help(string version) => $"""
        fleet-vmm v{version} jail: builds walls around a VMM, then starts it. Options before '--' are the jail's, those after it the VMM's.

          --id <id>                  Name of the microVM: 1 to 64 letters, digits or hyphens. Required.
          --uid <uid> --gid <gid>    Whom the VMM runs as; not 0. One of its own for each microVM. Required.
          --exec-file <path>         Another static program in place of fleet-vmm.
          --chroot-base-dir <path>   The VMM's root is <path>/<program>/<id>/root. [default: an empty root, read-only, seen by nobody else]
          --netns <path>             A network namespace that is there already. [default: a new, empty one]
          --cgroup <file>=<value>    A setting of its control group. May be repeated.
          --cgroup-version <1|2>     [default: where the controller is]
          --parent-cgroup <path>     [default: fleet]
          --resource-limit <name>=<n>  {string.Join(", ", ResourceNames)}. May be repeated. [defaults: no-file=2048, core=0, nproc=64, memlock=8388608, msgqueue=0]
          --fd <n>=<kind>:<path>     The VMM gets a file as descriptor n, and names it /dev/fd/n. Kinds: read, edit, write, append, listen, tap.
          --bind <source>=<path>     A file or folder of the host that the jail shows at <path>. May be repeated.
          --bind-ro <source>=<path>  The same, read-only.
          --device <name>            {string.Join(" or ", DeviceNames)}, beside kvm and urandom. May be repeated.
          --pid-file <path>          Takes the boot's id and the VMM's line of /proc/<pid>/stat before the VMM begins.
          --daemonize                The VMM leads a session of its own; its standard streams are /dev/null.
          --new-pid-ns               Accepted for Firecracker's callers: the VMM always has a pid namespace of its own.

        """;

    private void Take(string name, string value)
    {
        switch (name)
        {
            case "id" or "exec-file" or "chroot-base-dir" or "netns" or "pid-file" or "parent-cgroup" or "uid" or "gid" or "cgroup-version":
                if (!_single.TryAdd(name, value))
                {
                    throw new ArgumentFaultException($"The argument '{name}' was provided more than once.");
                }

                break;
            case "cgroup":
                ControlGroupValues.Add(Pair(name, value));
                break;
            case "resource-limit":
                Limits.Add(Limit(name, value));
                break;
            case "fd":
                Passed.Add(Pass(name, value));
                break;
            case "bind" or "bind-ro":
                var (source, path) = Pair(name, value);
                if (path[0] != '/' || path.Trim('/').Length == 0 || Array.IndexOf(path.Split('/'), "..") >= 0)
                {
                    throw new ArgumentFaultException($"The argument '{name}' takes an absolute path in the jail, not '{path}'.");
                }

                Bound.Add(new BoundPath(source, path, name == "bind-ro"));
                break;
            case "device":
                Devices.Add(Array.IndexOf(DeviceNames, value) >= 0 ? value : throw new ArgumentFaultException($"The argument '{name}' takes {string.Join(" or ", DeviceNames)}, not '{value}'."));
                break;
            default:
                throw new ArgumentFaultException($"Found argument '{(name.Length > 0 ? name : value)}' which wasn't expected, or isn't valid in this context.");
        }
    }

    private void Check()
    {
        foreach (var required in (string[])["id", "uid", "gid"])
        {
            if (!_single.ContainsKey(required))
            {
                throw new ArgumentFaultException($"Argument '{required}' required, but not found.");
            }
        }

        if (Id.Length > MostNames || Id.AsSpan().ContainsAnyExcept(System.Buffers.SearchValues.Create("0123456789-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")))
        {
            throw new ArgumentFaultException($"Invalid instance ID '{Id}': it has 1 to 64 letters, digits or hyphens.");
        }

        User = UserOrGroup("uid");
        Group = UserOrGroup("gid");
        ControlGroupVersion = _single.GetValueOrDefault("cgroup-version") switch
        {
            null => 0,
            "1" => 1,
            "2" => 2,
            var other => throw new ArgumentFaultException($"The argument 'cgroup-version' takes 1 or 2, not '{other}'."),
        };
        if (ParentControlGroup.Split('/') is var parts && (Array.IndexOf(parts, "..") >= 0 || ParentControlGroup[0] == '/'))
        {
            throw new ArgumentFaultException($"The argument 'parent-cgroup' takes a relative path without '..', not '{ParentControlGroup}'.");
        }

        foreach (var (file, _) in ControlGroupValues)
        {
            if (file.Contains('/') || file.IndexOf('.') <= 0)
            {
                throw new ArgumentFaultException($"The argument 'cgroup' takes the name of a control group's file, such as memory.max, not '{file}'.");
            }
        }
    }

    private uint UserOrGroup(string name)
    {
        var text = _single[name];

        // As root the walls would have doors: files of root's, and capabilities that come back with an exec. The last number means "no change".
        return uint.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number is > 0 and < uint.MaxValue
            ? number
            : throw new ArgumentFaultException($"The argument '{name}' takes a number from 1 to {uint.MaxValue - 1}, not '{text}'.");
    }

    private static (string Left, string Right) Pair(string name, string value)
    {
        var at = value.IndexOf('=');
        return at > 0 && at < value.Length - 1
            ? (value[..at], value[(at + 1)..])
            : throw new ArgumentFaultException($"The argument '{name}' takes two parts with '=' between them, not '{value}'.");
    }

    private static (int, ulong) Limit(string name, string value)
    {
        var (resource, text) = Pair(name, value);
        var known = Array.FindIndex(Resources, known => known.Name == resource);
        return known >= 0 && ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var limit)
            ? (Resources[known].Number, limit)
            : throw new ArgumentFaultException($"The argument '{name}' takes one of {string.Join(", ", ResourceNames)} and a number, not '{value}'.");
    }

    private PassedFile Pass(string name, string value)
    {
        var (number, rest) = Pair(name, value);
        var colon = rest.IndexOf(':');
        PassedKind? kind = colon < 0 ? null : rest[..colon] switch
        {
            "read" => PassedKind.Read,
            "edit" => PassedKind.Edit,
            "write" => PassedKind.Write,
            "append" => PassedKind.Append,
            "listen" => PassedKind.Listen,
            "tap" => PassedKind.Tap,
            _ => null,
        };
        if (kind is null || colon == rest.Length - 1
            || !int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out var fd) || fd is < 3 or >= PassedLimit || Passed.Exists(passed => passed.Number == fd))
        {
            throw new ArgumentFaultException($"The argument '{name}' takes N=KIND:PATH with a number from 3 to {PassedLimit - 1}, each once, and read, edit, write, append, listen or tap, not '{value}'.");
        }

        return kind == PassedKind.Listen && System.Text.Encoding.UTF8.GetByteCount(rest) - colon - 1 > Sockets.LongestPath
            ? throw new ArgumentFaultException($"A socket's path has at most {Sockets.LongestPath} bytes: '{rest[(colon + 1)..]}' has more.")
            : new PassedFile(fd, kind.Value, rest[(colon + 1)..]);
    }
}
