namespace Fleet.Host.Images;

/// <summary>One module of a kernel.</summary>
/// <param name="Name">With underscores, as <c>lsmod</c> shows it.</param>
/// <param name="GuestPath">Where it belongs in a file system, relative to the root: <c>lib/modules/…/virtio.ko</c>.</param>
/// <param name="FilePath">Where it lies on this host.</param>
public sealed record KernelModule(string Name, string GuestPath, string FilePath);

/// <summary>The modules of one kernel release, unpacked on this host, and what each needs loaded before it.</summary>
public sealed class KernelModules
{
    private readonly Dictionary<string, KernelModule> _modules;
    private readonly Dictionary<string, string[]> _needs;
    private readonly HashSet<string> _builtIn;

    private KernelModules(string release, Dictionary<string, KernelModule> modules, Dictionary<string, string[]> needs, HashSet<string> builtIn)
    {
        Release = release;
        _modules = modules;
        _needs = needs;
        _builtIn = builtIn;
    }

    /// <summary>The kernel release.</summary>
    public string Release { get; }

    /// <summary>
    /// Runs <c>depmod</c> over <c>lib/modules/<paramref name="release"/></c> below <paramref name="root"/> and reads what it found.
    /// </summary>
    public static async Task<KernelModules> IndexAsync(string root, string release, CancellationToken cancellation)
    {
        await ExternalCommand.RunAsync("depmod", ["-b", root, release], root, TimeSpan.FromMinutes(2), cancellation);
        var folder = Path.Combine("lib", "modules", release);
        var builtIn = Path.Combine(root, folder, "modules.builtin");
        return Parse(release, root, folder,
            await File.ReadAllLinesAsync(Path.Combine(root, folder, "modules.dep"), cancellation),
            File.Exists(builtIn) ? await File.ReadAllLinesAsync(builtIn, cancellation) : []);
    }

    /// <summary>
    /// The named modules and everything they need, each behind what it needs, none twice. Names may be written with
    /// <c>-</c> or <c>_</c>; what is built into the kernel is left out.
    /// </summary>
    public IReadOnlyList<KernelModule> InLoadOrder(params IEnumerable<string> names)
    {
        ArgumentNullException.ThrowIfNull(names);
        var order = new List<KernelModule>();
        var visited = new HashSet<string>(StringComparer.Ordinal);
        foreach (var name in names) Visit(Normal(name), order, visited);
        return order;
    }

    private void Visit(string name, List<KernelModule> order, HashSet<string> visited)
    {
        if (_builtIn.Contains(name) || !visited.Add(name)) return;
        if (!_modules.TryGetValue(name, out var module))
            throw ImageUnavailable.Because($"Kernel {Release} has no module {name}, neither built in nor as a file.");
        foreach (var needed in _needs[name]) Visit(needed, order, visited);
        order.Add(module);
    }

    internal static KernelModules Parse(string release, string root, string folder, IEnumerable<string> dependencies, IEnumerable<string> builtIn)
    {
        var modules = new Dictionary<string, KernelModule>(StringComparer.Ordinal);
        var needs = new Dictionary<string, string[]>(StringComparer.Ordinal);
        foreach (var line in dependencies)
        {
            var colon = line.IndexOf(':', StringComparison.Ordinal);
            if (colon <= 0) continue;
            var path = line[..colon];
            var name = NameOf(path);
            modules[name] = new KernelModule(name, $"{folder}/{path}", Path.Combine(root, folder, path));
            needs[name] = [.. line[(colon + 1)..].Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(NameOf)];
        }
        return new KernelModules(release, modules, needs, [.. builtIn.Where(line => line.Length > 0).Select(NameOf)]);
    }

    private static string NameOf(string path)
    {
        var file = Path.GetFileName(path);
        var dot = file.IndexOf(".ko", StringComparison.Ordinal);
        return Normal(dot > 0 ? file[..dot] : file);
    }

    private static string Normal(string name) => name.Replace('-', '_');
}
