using System.Globalization;

namespace Fleet.Shared.Vms;

/// <summary>The version of a Linux kernel, to be compared.</summary>
public readonly record struct KernelVersion(int Major, int Minor, int Patch) : IComparable<KernelVersion>
{
    private const int MostDigits = 6;

    /// <summary>Takes two or three numbers with dots in between: <c>6.1</c>, <c>6.1.50</c>.</summary>
    public static bool TryParse(string? text, out KernelVersion version)
    {
        version = default;
        if (text is null || text.Length > 3 * (MostDigits + 1))
            return false;
        var parts = text.Split('.');
        Span<int> numbers = stackalloc int[3];
        for (var i = 0; i < parts.Length; i++)
        {
            if (i == numbers.Length || parts[i].Length is 0 or > MostDigits || !int.TryParse(parts[i], NumberStyles.None, CultureInfo.InvariantCulture, out numbers[i]))
                return false;
        }
        version = new(numbers[0], numbers[1], numbers[2]);
        return parts.Length >= 2;
    }

    /// <summary>Of what <c>uname -r</c> says: what stands behind the numbers is the distribution's. False: it begins with no version.</summary>
    public static bool TryParseRelease(string? release, out KernelVersion version)
    {
        var numbers = (release ?? "").TakeWhile(c => char.IsAsciiDigit(c) || c == '.').ToArray();
        var parts = new string(numbers).Split('.', StringSplitOptions.RemoveEmptyEntries);
        return TryParse(string.Join('.', parts.Take(3)), out version);
    }

    public int CompareTo(KernelVersion other) => (Major, Minor, Patch).CompareTo((other.Major, other.Minor, other.Patch));

    public static bool operator <(KernelVersion a, KernelVersion b) => a.CompareTo(b) < 0;

    public static bool operator >(KernelVersion a, KernelVersion b) => a.CompareTo(b) > 0;

    public static bool operator <=(KernelVersion a, KernelVersion b) => a.CompareTo(b) <= 0;

    public static bool operator >=(KernelVersion a, KernelVersion b) => a.CompareTo(b) >= 0;
}
