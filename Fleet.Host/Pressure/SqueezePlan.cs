using Fleet.Shared.Vms;

namespace Fleet.Host.Pressure;

/// <summary>
/// Who gives CPU time where a host is short of it: the lowest class that is there as a whole, whatever its microVMs' sizes. Memory does not count: a large
/// microVM uses no more CPU for it.
/// </summary>
internal static class SqueezePlan
{
    /// <summary>The rank of the class that is squeezed, see <see cref="PriorityClass"/>; null: nobody is, since where all are of one class there is nobody to give to.</summary>
    /// <param name="priorities">Of the microVMs that are here.</param>
    public static int? LowestOf(IEnumerable<string> priorities)
    {
        var ranks = priorities.Select(PriorityClass.Rank).Distinct().Order().ToList();
        return ranks.Count > 1 ? ranks[0] : null;
    }
}
