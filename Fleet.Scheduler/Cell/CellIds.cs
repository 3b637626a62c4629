namespace Fleet.Scheduler.Cell;

/// <summary>The forms of ids inside the control plane. What does not fit never wakes an actor.</summary>
internal static class CellIds
{
    private const string VmPrefix = "vm-";
    private const int VmSuffixLength = 26;

    /// <summary><c>vm-</c> and 26 lower-case letters and digits.</summary>
    public static bool IsVmId(string id) =>
        id.Length == VmPrefix.Length + VmSuffixLength
        && id.StartsWith(VmPrefix, StringComparison.Ordinal)
        && id.AsSpan(VmPrefix.Length).IndexOfAnyExcept(IdCharacters) < 0;

    private static readonly System.Buffers.SearchValues<char> IdCharacters =
        System.Buffers.SearchValues.Create("abcdefghijklmnopqrstuvwxyz0123456789");
}
