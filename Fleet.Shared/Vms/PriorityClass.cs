namespace Fleet.Shared.Vms;

/// <summary>Who gives way to whom where room is short, as specs write it.</summary>
public static class PriorityClass
{
    public const string Low = "low";

    public const string Normal = "normal";

    public const string High = "high";

    /// <summary>From the lowest on: its place here is the class's rank.</summary>
    public static readonly IReadOnlyList<string> All = [Low, Normal, High];

    /// <summary>0: gives way to all others. Empty, and what is none, is <see cref="Normal"/>.</summary>
    public static int Rank(string priority) => priority switch
    {
        Low => 0,
        High => 2,
        _ => 1,
    };

    public static string Name(int rank) => All[rank];
}
