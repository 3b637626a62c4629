namespace Fleet.Host.Lab;

/// <summary>What lab nodes are made of. Checked by <see cref="Validate"/> before anything is started.</summary>
public sealed record LabOptions
{
    /// <summary>Holds one folder per node; made when it is missing, gone after <see cref="Lab.DownAsync"/>.</summary>
    public required string StateDirectory { get; init; }

    /// <summary>Packages, and the node's kernel and initramfs made from them (150 MB in all); kept.</summary>
    public required string CacheDirectory { get; init; }

    /// <summary>The host agent that every node runs; null for nodes that only carry out commands.</summary>
    public LabAgent? Agent { get; init; }

    /// <summary>
    /// Memory of a node. Half of it can hold files that are written in the node. QEMU takes it from the outer machine as
    /// it is used, plus 256 MiB for translated code.
    /// </summary>
    public int MemoryMib { get; init; } = 3072;

    /// <summary>CPUs of a node; each is a thread of QEMU. More than the outer machine has make a node slower, not faster.</summary>
    public int Cpus { get; init; } = 2;

    /// <summary>
    /// From power-on to ready. Takes 3–6 s on an idle machine of 2 cores; a node that needs longer than this has hung,
    /// which emulation does now and then (a CPU that the kernel's watchdog reports as stuck; see node-init.sh).
    /// </summary>
    public TimeSpan BootTimeout { get; init; } = TimeSpan.FromSeconds(90);

    /// <summary>How often a node that does not get ready is started in all.</summary>
    public int BootAttempts { get; init; } = 3;

    /// <summary>The emulator: a path, or a name that is looked up in PATH.</summary>
    public string Qemu { get; init; } = "qemu-system-x86_64";

    /// <summary>Throws <see cref="LabException"/> with <c>invalid_lab_option</c> or <c>qemu_missing</c>.</summary>
    public void Validate()
    {
        Require(Path.IsPathRooted(StateDirectory), $"The lab's state directory must be an absolute path, not '{StateDirectory}'.");
        Require(Path.IsPathRooted(CacheDirectory), $"The lab's cache directory must be an absolute path, not '{CacheDirectory}'.");
        // QEMU's option syntax separates by commas.
        Require(!StateDirectory.Contains(',', StringComparison.Ordinal), $"The lab's state directory '{StateDirectory}' must not contain a comma.");
        Require(MemoryMib is >= 512 and <= 65536, $"A node's memory must be 512 to 65536 MiB, not {MemoryMib}.");
        Require(Cpus is >= 1 and <= 16, $"A node's CPUs must be 1 to 16, not {Cpus}.");
        Require(BootTimeout >= TimeSpan.FromSeconds(1) && BootTimeout <= TimeSpan.FromMinutes(10), $"The boot time-out must be 1 s to 10 min, not {BootTimeout}.");
        Require(BootAttempts is >= 1 and <= 10, $"The boot attempts must be 1 to 10, not {BootAttempts}.");
        Agent?.Validate();
        _ = QemuPath();
    }

    /// <summary>The emulator's file.</summary>
    internal string QemuPath()
    {
        var folders = (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':', StringSplitOptions.RemoveEmptyEntries);
        return folders.Prepend("/").Select(folder => Path.Combine(folder, Qemu)).FirstOrDefault(File.Exists)
            ?? throw new LabException("qemu_missing", $"{Qemu} is not on this machine. Install it: apt-get install --no-install-recommends qemu-system-x86");
    }

    internal static void Require(bool met, string message)
    {
        if (!met) throw new LabException("invalid_lab_option", message);
    }
}

/// <summary>
/// The host agent of a node. Its files are copied into the node's memory before it starts, so that a new build on the
/// outer machine does not change a program that runs.
/// </summary>
/// <param name="BuildDirectory">The outer folder that holds <paramref name="Folders"/>.</param>
/// <param name="Folders">Folders below it that are copied.</param>
/// <param name="Command">
/// What the node runs: program and arguments, where <c>{build}</c>, <c>{node}</c>, <c>{data}</c> and <c>{token}</c> become the copied build,
/// the node's name, the agent's data directory and the node's token. Started again whenever it ends.
/// </param>
/// <param name="CacheDirectory">Outer cache that the agent finds as <c>{data}/cache</c>: default images made before, so that a node needs no packages.</param>
public sealed record LabAgent(string BuildDirectory, IReadOnlyList<string> Folders, IReadOnlyList<string> Command, string CacheDirectory)
{
    /// <summary>What each node joins by: one made for it, since a node that was off knows nothing of its earlier life.</summary>
    public IReadOnlyDictionary<string, string> Tokens { get; init; } = new Dictionary<string, string>();

    /// <summary>Where a node sees the outer machine's loopback.</summary>
    public const string OuterLoopback = "10.0.2.2";

    private const string Build = "/run/fleet-lab/build", Data = "/run/fleet";

    /// <summary>
    /// <c>fleet host --join</c> out of a build's <c>cli/</c>, <c>vmm/</c> and <c>guest/</c>.
    /// </summary>
    /// <param name="buildDirectory">Where <c>./fleet build</c> puts what it builds.</param>
    /// <param name="dotnet">The runtime's program on the outer machine, an absolute path.</param>
    /// <param name="schedulerLink">The scheduler's link as the outer machine reaches it; loopback is what nodes can reach.</param>
    /// <param name="cacheDirectory">The outer machine's image cache.</param>
    public static LabAgent Fleet(string buildDirectory, string dotnet, Uri schedulerLink, string cacheDirectory)
    {
        ArgumentNullException.ThrowIfNull(schedulerLink);
        // On loopback the scheduler is behind QEMU's gateway; any other address is reached as it is.
        var link = schedulerLink.IsLoopback ? new UriBuilder(schedulerLink) { Host = OuterLoopback }.Uri : schedulerLink;
        return new LabAgent(
            buildDirectory,
            ["cli", "vmm", "guest"],
            [dotnet, "{build}/cli/fleet.dll", "host", "--join", link.GetLeftPart(UriPartial.Authority), "--id", "{node}", "--data", "{data}", "--token", "{token}"],
            cacheDirectory);
    }

    internal void Validate()
    {
        LabOptions.Require(Command.Count > 0, "The lab's agent has no command.");
        LabOptions.Require(Path.IsPathRooted(CacheDirectory), $"The agent's cache must be an absolute path, not '{CacheDirectory}'.");
        foreach (var folder in Folders)
        {
            var path = Path.Combine(BuildDirectory, folder);
            LabOptions.Require(Directory.Exists(path), $"There is no folder {path}, which lab nodes run the agent from. Build first: ./fleet build");
        }
    }

    /// <summary>The script that a node's init keeps running. Files are copied once, not at each restart of the agent.</summary>
    internal string ToScript(string node)
    {
        var copies = string.Concat(Folders.Select(folder =>
            $"  cp -a {LabCommand.Quote(Path.Combine(BuildDirectory, folder))} {LabCommand.Quote($"{Build}.new/{folder}")} || exit 1\n"));
        var words = Command.Select(word => word
            .Replace("{build}", Build, StringComparison.Ordinal)
            .Replace("{node}", node, StringComparison.Ordinal)
            .Replace("{data}", Data, StringComparison.Ordinal)
            .Replace("{token}", Tokens.GetValueOrDefault(node, ""), StringComparison.Ordinal));
        return $"""
            if [ ! -d {Build} ]; then
              rm -rf {Build}.new
              mkdir -p {Build}.new {Data}
            {copies}  mv {Build}.new {Build}
              ln -sfn {LabCommand.Quote(CacheDirectory)} {Data}/cache
              # Asking the package index takes 5 s and more on an emulated CPU: without it the agent uses the images of the cache.
              rm -f /usr/bin/apt-cache
            fi

            """ + new LabCommand([.. words]).ToScript();
    }
}
