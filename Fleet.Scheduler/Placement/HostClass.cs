using System.Globalization;
using System.Text;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Placement;

/// <summary>
/// Hosts that are alike in all that a filter looks at, and nearly in size: what is true of one is asked once for all. Those that
/// are open stand in the tree.
/// </summary>
internal sealed class HostClass(string key, Inventory inventory)
{
    public string Key { get; } = key;

    /// <summary>Of its first host; drivers and labels are those of all.</summary>
    public Inventory Inventory { get; } = inventory;

    /// <summary>Empty: none.</summary>
    public string Zone { get; } = PlacementRules.ZoneOf(inventory);

    public FillTree Open { get; } = new();

    /// <summary>Open or not.</summary>
    public int Hosts { get; set; }

    public static string KeyOf(Inventory inventory, in Resources capacity)
    {
        var key = new StringBuilder();
        key.Append(inventory.AutoDriver).Append('\n');
        foreach (var driver in inventory.Drivers.OrderBy(driver => driver.Name, StringComparer.Ordinal))
            key.Append(driver.Name).Append(driver.Usable ? '+' : '-').Append(driver.StockKernels ? 'k' : '-').Append('\n');
        foreach (var (name, value) in inventory.Labels.OrderBy(label => label.Key, StringComparer.Ordinal))
            key.Append(CultureInfo.InvariantCulture, $"{name.Length}:{name}={value.Length}:{value}\n");
        foreach (var amount in (long[])[capacity.Cpus, capacity.MemoryMib, capacity.DiskMib, capacity.NetworkMbps, capacity.Iops])
            key.Append(CultureInfo.InvariantCulture, $"{Size(amount)},");
        return key.ToString();
    }

    // Sizes within some 9 % are one: the order of the tree, from before the microVM, is then nearly the one after it on each.
    private static int Size(long amount) => amount <= 0 ? -1 : (int)Math.Floor(Math.Log2(amount) * 8);
}
