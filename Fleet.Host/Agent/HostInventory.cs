using System.Globalization;
using System.Runtime.InteropServices;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Agent;

/// <summary>What a host offers: found out once, when its agent starts.</summary>
internal static class HostInventory
{
    public static async Task<Inventory> ProbeAsync(HostAgentOptions options, CancellationToken cancellation)
    {
        var statuses = await Task.WhenAll(options.Drivers.Select(driver => driver.ProbeAsync(cancellation))).ConfigureAwait(false);
        var machineMib = HostAgentOptions.MachineMib();
        var inventory = new Inventory
        {
            Cpus = (uint)(options.Cpus ?? Environment.ProcessorCount),
            MemoryMib = (ulong)(options.MemoryMib ?? Math.Max(0, machineMib - HostAgentOptions.ReserveMib(machineMib))),
            AutoDriver = options.AutoDriver(statuses),
            Kernel = (await File.ReadAllTextAsync("/proc/sys/kernel/osrelease", cancellation).ConfigureAwait(false)).Trim(),
            Architecture = RuntimeInformation.OSArchitecture switch { Architecture.X64 => "x86_64", Architecture.Arm64 => "aarch64", var other => other.ToString() },
        };
        inventory.Drivers.AddRange(statuses);
        foreach (var (key, value) in options.Labels)
            inventory.Labels[key] = value;
        return inventory;
    }

    /// <summary>MiB of the machine by /proc/meminfo: what the kernel has to give, whatever limits the agent's own process has.</summary>
    internal static long MemoryMib(string meminfo)
    {
        const string Total = "MemTotal:";
        foreach (var line in meminfo.Split('\n'))
        {
            if (line.StartsWith(Total, StringComparison.Ordinal)
                && long.TryParse(line[Total.Length..].Trim().Split(' ')[0], NumberStyles.None, CultureInfo.InvariantCulture, out var kib))
                return kib / 1024;
        }

        throw new InvalidDataException("/proc/meminfo does not tell MemTotal.");
    }
}
