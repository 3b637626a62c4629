using System.Globalization;
using Fleet.Shared.Files;

namespace Fleet.Host.Networks;

/// <summary>
/// The kernel's settings by which packets pass through this machine. What they were is written down before one is changed, and
/// put back when the last network is gone, whichever agent sees that.
/// </summary>
/// <param name="file">Where it is written down.</param>
/// <param name="root">Where the kernel has its settings.</param>
internal sealed class Forwarding(string file, string root = Forwarding.Root)
{
    internal const string Root = "/proc/sys/net";

    /// <summary>The machine has IPv6, and new interfaces have it.</summary>
    public static bool HasIpv6 => Value($"{Root}/ipv6/conf/default/disable_ipv6") == "0";

    /// <summary>Connections that the kernel can follow at once; null: it does not tell, as long as nobody wants it to.</summary>
    public static int? MostTracked =>
        int.TryParse(Value($"{Root}/netfilter/nf_conntrack_max"), NumberStyles.None, CultureInfo.InvariantCulture, out var most) ? most : null;

    /// <summary>Something is to be put back.</summary>
    public bool IsChanged => File.Exists(file);

    private string Switch4 => $"{root}/ipv4/ip_forward";

    private string Switch6 => $"{root}/ipv6/conf/all/forwarding";

    /// <summary>Writes down what <see cref="Change"/> is to change, with what the kernel changes along with it.</summary>
    /// <exception cref="IOException">It can't be read or written.</exception>
    /// <exception cref="UnauthorizedAccessException">It may not be.</exception>
    public void Note()
    {
        // A machine that forwards takes no more routes from its router, unless it is told to: its own way out would go.
        var listening = Settings("ipv6", "accept_ra").Where(setting => Value(setting) == "1").ToList();
        var off = ((string[])[Switch4, Switch6]).Where(setting => Value(setting) == "0").ToList();
        if (listening.Count == 0 && off.Count == 0)
            return;
        // What the kernel changes along with a switch, on and off (inet_forward_change, addrconf_fixup_forwarding).
        List<string> touched = [.. listening, .. off];
        if (off.Contains(Switch4))
            touched.AddRange([.. Settings("ipv4", "forwarding"), $"{root}/ipv4/conf/all/accept_redirects"]);
        if (off.Contains(Switch6))
            touched.AddRange([.. Settings("ipv6", "forwarding"), .. Settings("ipv6", "force_forwarding")]);
        // An agent that was killed in the middle wrote down more than it changed: what it wrote counts.
        var before = Read();
        var noted = before.Select(one => one.Setting).ToHashSet(StringComparer.Ordinal);
        foreach (var setting in touched.Where(noted.Add))
        {
            if (Value(setting) is { } value)
                before.Add((setting, value));
        }

        Write(before);
    }

    /// <summary>Of what was noted, what is as it was then.</summary>
    /// <exception cref="IOException">The kernel takes it not.</exception>
    /// <exception cref="UnauthorizedAccessException">Only root may.</exception>
    public void Change()
    {
        foreach (var (setting, value) in Read().OrderByDescending(one => TurnOf(one.Setting)))
        {
            if (OtherOf(setting, value) is { } other && Value(setting) == value)
                Set(setting, other);
        }
    }

    /// <summary>What passed through this machine not before it was changed, and is to go on so.</summary>
    public IReadOnlyList<ClosedTransit> Closed()
    {
        var before = Read();
        var closed = new List<ClosedTransit>();
        // Linux asks the interface where a packet arrives, IPv4 by one setting and IPv6 by another.
        if (before.Contains((Switch4, "0")))
            closed.Add(new ClosedTransit("ipv4", Open(before, "ipv4", "forwarding"), Value($"{root}/bridge/bridge-nf-call-iptables") == "1"));
        if (before.Contains((Switch6, "0")))
            closed.Add(new ClosedTransit("ipv6", Open(before, "ipv6", "force_forwarding"), Value($"{root}/bridge/bridge-nf-call-ip6tables") == "1"));
        return closed;
    }

    /// <summary>As it was. What was written down goes with its folder, when nothing else is left either.</summary>
    public void Restore()
    {
        foreach (var (setting, value) in Read().Where(one => one.Setting.StartsWith(root + "/", StringComparison.Ordinal)).OrderBy(one => TurnOf(one.Setting)))
            Set(setting, value);
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
        if (Value(setting) is { } now && now != value)
            File.WriteAllText(setting, value);
    }

    // Null: there is none, or it has gone with its interface.
    private static string? Value(string setting)
    {
        try
        {
            return File.ReadAllText(setting).Trim();
        }
        catch (Exception gone) when (gone is FileNotFoundException or DirectoryNotFoundException)
        {
            return null;
        }
    }

    // The switches first, for the kernel changes others along with them; of these the one that changes the rest; and last
    // accept_ra, which the machine needs as long as it forwards.
    private int TurnOf(string setting)
    {
        if (setting == Switch4 || setting == Switch6)
            return 0;
        if (setting.EndsWith("/conf/all/force_forwarding", StringComparison.Ordinal))
            return 1;
        return setting.EndsWith("/accept_ra", StringComparison.Ordinal) ? 3 : 2;
    }

    private string? OtherOf(string setting, string value) => (TurnOf(setting), value) switch
    {
        (0, "0") => "1",
        (3, "1") => "2",
        _ => null,
    };

    // A name that is none for nftables is not among them.
    private List<string> Open(List<(string Setting, string Value)> before, string family, string name) =>
        [.. before.Where(one => one.Value != "0" && one.Setting.StartsWith($"{root}/{family}/conf/", StringComparison.Ordinal) && one.Setting.EndsWith("/" + name, StringComparison.Ordinal))
            .Select(one => Path.GetFileName(Path.GetDirectoryName(one.Setting)!))
            .Where(link => link is not "all" and not "default" && link.All(letter => char.IsAsciiLetterOrDigit(letter) || letter is '.' or '-' or '_'))];

    // Of every interface but Fleet's own, and of "all" and "default".
    private IEnumerable<string> Settings(string family, string name) =>
        (Directory.Exists($"{root}/{family}/conf") ? Directory.GetDirectories($"{root}/{family}/conf") : [])
            .Where(folder => !LinkPlan.IsFleets(Path.GetFileName(folder)))
            .Select(folder => $"{folder}/{name}");

    private List<(string Setting, string Value)> Read() =>
        IsChanged ? [.. File.ReadAllLines(file).Select(line => line.Split('=', 2)).Where(pair => pair.Length == 2).Select(pair => (pair[0], pair[1]))] : [];

    private void Write(List<(string Setting, string Value)> before)
    {
        OwnFile.Write(file, string.Concat(before.Select(one => $"{one.Setting}={one.Value}\n")));
    }
}
