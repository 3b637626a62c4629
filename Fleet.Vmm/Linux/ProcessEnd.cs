using System.Runtime.InteropServices;
using System.Text;

namespace Fleet.Vmm.Linux;

/// <summary>The last resort.</summary>
internal static partial class ProcessEnd
{
    private const int StandardError = 2;
    private const int GenericFailure = 1;

    /// <summary>
    /// Ends the process at once, without unwinding: for when a thread can't be stopped, and going on would mean a guest that
    /// runs although it was ordered not to.
    /// </summary>
    public static void Now(string why)
    {
        _ = Descriptors.WriteAll(StandardError, Encoding.UTF8.GetBytes($"fleet-vmm ends at once: {why}\n"));
        _exit(GenericFailure);
    }

    [LibraryImport("libc")]
    private static partial void _exit(int code);
}
