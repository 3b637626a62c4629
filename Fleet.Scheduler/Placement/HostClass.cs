using System.Globalization;
using System.Text;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Placement;

/// <summary>
/// Hosts of one architecture with the same drivers and CPU templates, in the same zone and of much the same size: what is true of one is asked once for all. Those that
/// are open stand in the grid. Other labels make no class: in a fleet where each host has one of its own there would be as many as hosts.
/// </summary>
internal sealed class HostClass(string key, Inventory inventory, in Resources capacity)
{
    public string Key { get; } = key;

    /// <summary>Of its first host; architecture, drivers, CPU templates and zone are those of all.</summary>
    public Inventory Inventory { get; } = inventory;

    /// <summary>Empty: none.</summary>
    public string Zone { get; } = PlacementRules.ZoneOf(inventory);

    public FillGrid Open { get; } = new(capacity);

    /// <summary>Open or not.</summary>
    public int Hosts { get; set; }

    public static string KeyOf(Inventory inventory, in Resources capacity)
    {
        var key = new StringBuilder();
        key.Append(inventory.AutoDriver).Append('\n').Append(inventory.Architecture).Append('\n').AppendJoin(',', inventory.CpuTemplates.Order(StringComparer.Ordinal)).Append('\n');
        foreach (var driver in inventory.Drivers.OrderBy(driver => driver.Name, StringComparer.Ordinal))
            key.Append(driver.Name).Append(driver.Usable ? '+' : '-').Append(driver.StockKernels ? 'k' : '-').Append('\n');
        key.Append(CultureInfo.InvariantCulture, $"{Size(capacity.Cpus)},{Size(capacity.MemoryMib)},").Append(PlacementRules.ZoneOf(inventory));
        return key.ToString();
    }

    // Sizes within some 19 % are one: of two with as much free, the shares that are free are then nearly the same.
    private static int Size(long amount) => amount <= 0 ? -1 : (int)Math.Floor(Math.Log2(amount) * 4);
}
