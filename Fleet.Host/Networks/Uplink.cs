using System.Globalization;
using Fleet.Shared.Vms;

namespace Fleet.Host.Networks;

/// <summary>The interface by which this machine reaches others.</summary>
internal static class Uplink
{
    /// <summary>Mbit/s of it, each way, as its driver says; null: there is none, or it does not say (a virtual one, one that is down).</summary>
    /// <param name="proc">Where the kernel tells of routes.</param>
    /// <param name="sys">Where it tells of interfaces.</param>
    public static int? SpeedMbit(string proc, string sys)
    {
        try
        {
            return DefaultInterface(File.ReadAllText(Path.Combine(proc, "net/route"))) is { } name
                && int.TryParse(File.ReadAllText(Path.Combine(sys, "class/net", name, "speed")).Trim(), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var speed)
                && speed is > 0 and <= VmLimits.MaxNetworkMbit ? speed : null;
        }
        catch (Exception silent) when (silent is IOException or UnauthorizedAccessException)
        {
            // What is no network card answers with an error.
            return null;
        }
    }

    /// <summary>Of the IPv4 routes those to everywhere, and of these the one that is preferred; null: there is none.</summary>
    internal static string? DefaultInterface(string routes) => routes.Split('\n').Skip(1)
        .Select(line => line.Split('\t', StringSplitOptions.TrimEntries))
        .Where(route => route.Length > 7 && route[1] == "00000000" && route[7] == "00000000" && route[0].Length > 0 && !route[0].Contains('/', StringComparison.Ordinal))
        .OrderBy(route => int.TryParse(route[6], NumberStyles.None, CultureInfo.InvariantCulture, out var metric) ? metric : int.MaxValue)
        .Select(route => route[0])
        .FirstOrDefault();
}
