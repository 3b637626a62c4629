using System.Runtime.InteropServices;

namespace Fleet.Host.Networks;

/// <summary>The network interfaces of the namespace that this process is in. Not by /sys, which shows those of whoever mounted it.</summary>
internal static unsafe partial class LinkNames
{
    /// <exception cref="IOException">The kernel does not tell.</exception>
    public static IReadOnlySet<string> Present()
    {
        var names = new HashSet<string>(StringComparer.Ordinal);
        var all = if_nameindex();
        if (all == null)
            throw new IOException($"The network interfaces can't be listed: {Marshal.GetLastPInvokeErrorMessage()}");

        // SAFETY: the list ends with an index of 0, and is freed after its names were copied.
        for (var one = all; one->Index != 0; one++)
            names.Add(Marshal.PtrToStringUTF8(one->Name)!);
        if_freenameindex(all);
        return names;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct NameIndex
    {
        public uint Index;
        public nint Name;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial NameIndex* if_nameindex();

    [LibraryImport("libc")]
    private static partial void if_freenameindex(NameIndex* list);
}
