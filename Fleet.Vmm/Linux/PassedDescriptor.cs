using System.Globalization;
using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>
/// Paths of the form <c>/dev/fd/N</c>: what the process was started with as descriptor N. They work without /proc and whatever
/// the file's owner and mode are, so that a jailed VMM gets files of the host without a way to the host's files.
/// </summary>
internal static partial class PassedDescriptor
{
    private const string Prefix = "/dev/fd/";

    /// <summary>F_DUPFD_CLOEXEC.</summary>
    private const int Duplicate = 1030;

    /// <summary>The number that a path names; null: it is another path.</summary>
    public static int? NumberOf(string path) =>
        path.StartsWith(Prefix, StringComparison.Ordinal)
            && int.TryParse(path.AsSpan(Prefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out var number)
            ? number
            : null;

    /// <summary>Another descriptor for the same open file, or -1 with errno. Its position is shared, and put to the start where there is one.</summary>
    public static int Open(int number)
    {
        var fd = fcntl(number, Duplicate, 3);
        if (fd >= 0)
        {
            // A socket or a pipe has no position: that fails and does not matter.
            _ = lseek(fd, 0, 0);
        }

        return fd;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fcntl(int fd, int command, int argument);

    [LibraryImport("libc")]
    private static partial long lseek(int fd, long offset, int whence);
}
