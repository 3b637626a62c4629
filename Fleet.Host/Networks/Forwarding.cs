using Fleet.Shared.Files;

namespace Fleet.Host.Networks;

/// <summary>
/// The kernel's settings by which packets pass through this machine. What they were is written down before one is changed, and
/// put back when the last network is gone, whichever agent sees that.
/// </summary>
internal sealed class Forwarding(string file)
{
    private const string Root = "/proc/sys/net";

    /// <summary>The machine has IPv6, and new interfaces have it.</summary>
    public static bool HasIpv6 =>
        File.Exists($"{Root}/ipv6/conf/default/disable_ipv6") && File.ReadAllText($"{Root}/ipv6/conf/default/disable_ipv6").Trim() == "0";

    /// <summary>Something is to be put back.</summary>
    public bool IsChanged => File.Exists(file);

    /// <exception cref="IOException">The kernel takes it not.</exception>
    /// <exception cref="UnauthorizedAccessException">Only root may.</exception>
    public void Change()
    {
        var before = new List<(string Setting, string Value)>();
        // A machine that forwards takes no more routes from its router, unless it is told to: its own way out would go.
        foreach (var folder in (Directory.Exists($"{Root}/ipv6/conf") ? Directory.GetDirectories($"{Root}/ipv6/conf") : []).Where(folder => !LinkPlan.IsFleets(Path.GetFileName(folder))))
            Note(before, $"{folder}/accept_ra", "1");
        Note(before, $"{Root}/ipv4/ip_forward", "0");
        Note(before, $"{Root}/ipv6/conf/all/forwarding", "0");
        if (before.Count == 0)
            return;
        // An agent that was killed in the middle wrote down more than it changed: what it wrote counts.
        var known = IsChanged ? Read() : [];
        Write([.. known, .. before.Where(one => !known.Exists(other => other.Setting == one.Setting))]);
        foreach (var (setting, value) in before)
            File.WriteAllText(setting, value == "1" ? "2" : "1");
    }

    /// <summary>As it was.</summary>
    public void Restore()
    {
        if (!IsChanged)
            return;
        // Last what was changed first: as long as the machine forwards it needs the other.
        foreach (var (setting, value) in Enumerable.Reverse(Read()).Where(one => one.Setting.StartsWith(Root + "/", StringComparison.Ordinal) && File.Exists(one.Setting)))
            Set(setting, value);
        File.Delete(file);
    }

    /// <summary>A bridge gives out what is published to the machine's own programs too, and takes no address from its guests.</summary>
    public static void SetUpBridge(string bridge)
    {
        Set($"{Root}/ipv4/conf/{bridge}/route_localnet", "1");
        Set($"{Root}/ipv6/conf/{bridge}/accept_ra", "0");
        Set($"{Root}/ipv4/conf/{bridge}/accept_redirects", "0");
        Set($"{Root}/ipv6/conf/{bridge}/accept_redirects", "0");
    }

    private static void Set(string setting, string value)
    {
        if (File.Exists(setting) && File.ReadAllText(setting).Trim() != value)
            File.WriteAllText(setting, value);
    }

    private static void Note(List<(string Setting, string Value)> before, string setting, string value)
    {
        if (File.Exists(setting) && File.ReadAllText(setting).Trim() == value)
            before.Add((setting, value));
    }

    private List<(string Setting, string Value)> Read() =>
        [.. File.ReadAllLines(file).Select(line => line.Split('=', 2)).Where(pair => pair.Length == 2).Select(pair => (pair[0], pair[1]))];

    private void Write(List<(string Setting, string Value)> before)
    {
        OwnFile.Write(file, string.Concat(before.Select(one => $"{one.Setting}={one.Value}\n")));
    }
}
