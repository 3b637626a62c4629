using Fleet.Shared.Contracts;

namespace Fleet.Host.Drivers;

/// <summary>What <c>auto</c> means on a host.</summary>
public static class DriverChoice
{
    private static readonly string[] Preference = ["kvm", "qemu"];

    /// <summary>The first of kvm and qemu that boots a stock kernel here; empty when neither does.</summary>
    public static string Auto(IEnumerable<DriverStatus> statuses)
    {
        var fit = statuses.Where(s => s.Usable && s.StockKernels).Select(s => s.Name).ToHashSet(StringComparer.Ordinal);
        return Array.Find(Preference, fit.Contains) ?? "";
    }

    /// <summary>One line for each driver and one for the choice, for people.</summary>
    public static IReadOnlyList<string> Explain(IReadOnlyCollection<DriverStatus> statuses)
    {
        List<string> lines = [.. statuses.Select(Line)];
        string choice = Auto(statuses);
        lines.Add(choice.Length > 0
            ? $"auto picks {choice}: {Why(choice, statuses)}"
            : "auto picks nothing: no driver boots a stock kernel here; install QEMU (Debian: apt-get install qemu-system-x86)");
        return lines;
    }

    private static string Line(DriverStatus status)
    {
        string can = !status.Usable ? "not usable" : status.StockKernels ? "usable" : "usable for small kernels only";
        return $"{status.Name}: {can}: {status.Detail}";
    }

    private static string Why(string choice, IEnumerable<DriverStatus> statuses)
    {
        if (choice == Preference[0]) return "it boots stock kernels on this machine's KVM";
        var kvm = statuses.FirstOrDefault(s => s.Name == Preference[0]);
        return kvm is null ? "it boots stock kernels here" : $"kvm can't boot a stock kernel here ({kvm.Detail})";
    }
}
