using System.ComponentModel;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Shared.Files;

/// <summary>Puts a folder's entries on the disk: a file renamed into it is there after power loss only when this was done.</summary>
public static partial class FolderSync
{
    // O_RDONLY | O_CLOEXEC. A descriptor opened with O_PATH can't be synced: fsync says EBADF, which .NET passes over in silence.
    private const int ReadOnly = 0x80000;
    private const int Eintr = 4;

    /// <exception cref="IOException">The folder can't be opened, or the disk failed.</exception>
    public static void Sync(string folder)
    {
        var descriptor = Open(folder, ReadOnly);
        if (descriptor < 0)
            throw Failure("open", folder);
        using var handle = new SafeFileHandle(descriptor, ownsHandle: true);
        while (Fsync(handle) != 0)
        {
            if (Marshal.GetLastPInvokeError() != Eintr)
                throw Failure("fsync", folder);
        }
    }

    private static IOException Failure(string what, string folder)
    {
        var error = new Win32Exception(Marshal.GetLastPInvokeError());
        return new IOException($"{what} {folder}: {error.Message}", error);
    }

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);

    [LibraryImport("libc", EntryPoint = "fsync", SetLastError = true)]
    private static partial int Fsync(SafeFileHandle file);
}
