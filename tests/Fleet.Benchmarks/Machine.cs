namespace Fleet.Benchmarks;

/// <summary>The machine a figure was taken on, in a line.</summary>
internal static class Machine
{
    public static string Describe()
    {
        var cpu = First("/proc/cpuinfo", "model name") ?? "unknown CPU";
        var memory = long.TryParse(First("/proc/meminfo", "MemTotal")?.Split(' ')[0], out var kib) ? $"{kib / 1048576.0:0} GiB" : "unknown memory";
        return $"{Environment.ProcessorCount} CPUs ({cpu}), {memory}, Linux {File.ReadAllText("/proc/sys/kernel/osrelease").Trim()}, {Kvm()}";
    }

    private static string Kvm() =>
        Directory.Exists("/sys/module/kvm_pvm") ? "KVM: PVM (software)"
        : Directory.Exists("/sys/module/kvm_intel") ? "KVM: Intel VMX"
        : Directory.Exists("/sys/module/kvm_amd") ? "KVM: AMD SVM"
        : File.Exists("/dev/kvm") ? "KVM: unknown kind" : "no KVM";

    private static string? First(string file, string key) => File.ReadLines(file)
        .FirstOrDefault(line => line.StartsWith(key, StringComparison.Ordinal))?.Split(':', 2)[1].Trim();
}
