using System.Globalization;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using Fleet.Host.Networks;
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
            Processor = Processor(await File.ReadAllTextAsync("/proc/cpuinfo", cancellation).ConfigureAwait(false)),
            Architecture = RuntimeInformation.OSArchitecture switch { Architecture.X64 => "x86_64", Architecture.Arm64 => "aarch64", var other => other.ToString() },
        };
        inventory.Drivers.AddRange(statuses);
        if ((options.NetworkMbit ?? Uplink.SpeedMbit(options.Proc, options.Sys)) is { } speed)
            inventory.NetworkMbit = (ulong)speed;
        if (options.Iops is { } iops)
            inventory.Iops = (ulong)iops;
        // Only its VMM has such.
        if (statuses.Any(status => status is { Name: "kvm", Usable: true }))
            inventory.CpuTemplates.AddRange(options.CpuTemplates);
        foreach (var (key, value) in options.Labels)
            inventory.Labels[key] = value;
        return inventory;
    }

    /// <summary>The processor by /proc/cpuinfo: its name, and a hash of what makes a guest go on with it or not. Empty where that is not told.</summary>
    internal static string Processor(string cpuinfo)
    {
        string[] decisive = ["vendor_id", "cpu family", "model", "stepping", "flags"];
        var first = cpuinfo.Split("\n\n")[0].Split('\n').Select(line => line.Split(':', 2)).Where(pair => pair.Length == 2).DistinctBy(pair => pair[0].Trim()).ToDictionary(pair => pair[0].Trim(), pair => pair[1].Trim());
        if (!first.ContainsKey("flags"))
            return "";
        var hash = SHA256.HashData(Encoding.UTF8.GetBytes(string.Join('\n', decisive.Select(key => first.GetValueOrDefault(key, "")))));
        var name = string.Concat(first.GetValueOrDefault("model name", "").Where(c => !char.IsControl(c)).Take(100));
        return $"{name} {Convert.ToHexStringLower(hash)[..12]}";
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
