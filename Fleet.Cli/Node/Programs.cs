namespace Fleet.Cli.Node;

/// <summary>Where the other programs of the same build lie: beside the folder of this one.</summary>
internal static class Programs
{
    public static string Vmm => Path.Combine(Build, "vmm", "fleet-vmm");

    public static string Init => Path.Combine(Build, "guest", "fleet-init");

    public static string Cli => Path.Combine(AppContext.BaseDirectory, "fleet.dll");

    public static string Qemu => "qemu-system-x86_64";

    /// <summary>The folder that holds <c>cli/</c>, <c>vmm/</c> and <c>guest/</c>.</summary>
    public static string Build => Path.GetDirectoryName(AppContext.BaseDirectory.TrimEnd('/'))!;
}
