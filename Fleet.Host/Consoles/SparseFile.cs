using System.ComponentModel;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Host.Consoles;

/// <summary>Holes in files: lseek(2) with SEEK_DATA and fallocate(2) with FALLOC_FL_PUNCH_HOLE.</summary>
internal static partial class SparseFile
{
    private const int SeekData = 3;
    private const int KeepSizePunchHole = 0x01 | 0x02;
    private const int Enxio = 6;
    private const int Eintr = 4;
    private const int Enosys = 38;
    private const int Eopnotsupp = 95;

    /// <summary>Offset of the first byte that is no hole; the file's length when there is none.</summary>
    public static long FirstData(SafeFileHandle file)
    {
        long at = Lseek(file, 0, SeekData);
        if (at >= 0) return at;
        int error = Marshal.GetLastPInvokeError();
        return error == Enxio ? RandomAccess.GetLength(file) : throw new Win32Exception(error);
    }

    /// <summary>Gives the bytes below <paramref name="end"/> back to the file system; false when it has no holes.</summary>
    public static bool TryPunch(SafeFileHandle file, long end)
    {
        while (Fallocate(file, KeepSizePunchHole, 0, end) != 0)
        {
            int error = Marshal.GetLastPInvokeError();
            if (error == Eintr) continue;
            return error is Eopnotsupp or Enosys ? false : throw new Win32Exception(error);
        }
        return true;
    }

    [LibraryImport("libc", EntryPoint = "lseek", SetLastError = true)]
    private static partial long Lseek(SafeFileHandle file, long offset, int whence);

    [LibraryImport("libc", EntryPoint = "fallocate", SetLastError = true)]
    private static partial int Fallocate(SafeFileHandle file, int mode, long offset, long length);
}
