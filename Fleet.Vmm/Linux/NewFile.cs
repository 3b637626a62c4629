using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>
/// A file that is written beside its place, made durable, and put there in one step. What was there before changes places
/// with it and can be brought back until <see cref="Dispose"/>, which deletes whichever of the two is not in its place.
/// A descriptor that was passed (<see cref="PassedDescriptor"/>) has no place and no other: what it held is lost, it is written right
/// away, and it is empty when that was not committed.
/// </summary>
/// <remarks>All of it throws <see cref="SystemCallException"/>.</remarks>
internal sealed unsafe partial class NewFile : IDisposable
{
    /// <summary>Readable and writable for its owner only: it holds a tenant's memory.</summary>
    private const uint Mode = 0x180;

    /// <summary>RENAME_EXCHANGE.</summary>
    private const uint Exchange = 2;

    private const int WorkingDirectory = -100;

    private readonly string _temporary;
    private readonly bool _isPassed;
    private int _fd;
    private bool _replaced;
    private bool _committed;

    public NewFile(string path)
    {
        Path = path;
        _temporary = TemporaryFor(path);
        _isPassed = PassedDescriptor.NumberOf(path) is not null;
        _fd = PassedDescriptor.NumberOf(path) is { } number ? PassedDescriptor.Open(number) : open(_temporary, Flags, Mode);
        if (_fd < 0)
        {
            throw SystemCallException.Last("open");
        }

        if (_isPassed)
        {
            SetLength(0);
        }
    }

    public string Path { get; }

    /// <summary>Where the content of a file is until it is committed.</summary>
    public static string TemporaryFor(string path) => path + ".new";

    private const int Flags = Descriptors.ReadWrite | Descriptors.Create | Descriptors.Truncate | Descriptors.NoFollow
        | Descriptors.NonBlocking | Descriptors.NoTerminal | Descriptors.CloseOnExec;

    /// <summary>How long it is at least; what is not written stays a hole.</summary>
    public void SetLength(ulong bytes)
    {
        if (ftruncate(_fd, (long)bytes) < 0)
        {
            throw SystemCallException.Last("ftruncate");
        }
    }

    public void Write(ulong offset, ReadOnlySpan<byte> content)
    {
        while (!content.IsEmpty)
        {
            nint put;

            // SAFETY: pinned for the call, length as given.
            fixed (byte* start = content)
            {
                put = pwrite(_fd, start, content.Length, (long)offset);
            }

            if (put <= 0)
            {
                if (put < 0 && Marshal.GetLastPInvokeError() == SystemCallException.Interrupted)
                {
                    continue;
                }

                throw SystemCallException.Last("write");
            }

            content = content[(int)put..];
            offset += (ulong)put;
        }
    }

    /// <summary>What was written so far survives the host's power.</summary>
    public void Sync()
    {
        if (fsync(_fd) < 0)
        {
            throw SystemCallException.Last("fsync");
        }
    }

    /// <summary>Puts it in its place. Over another file only where the file system can let two names change places.</summary>
    public void Commit()
    {
        if (_isPassed)
        {
            _committed = true;
            return;
        }

        // Two names of any kind may change places, and a directory could not be deleted afterwards.
        var directory = open(Path, Descriptors.ReadOnly | Descriptors.OnlyDirectory | Descriptors.CloseOnExec, 0);
        if (directory >= 0)
        {
            _ = Descriptors.close(directory);
            throw new SystemCallException("rename", SystemCallException.IsDirectory);
        }

        _replaced = renameat2(WorkingDirectory, _temporary, WorkingDirectory, Path, Exchange) == 0;
        if (!_replaced && (Marshal.GetLastPInvokeError() != SystemCallException.NoEntry || rename(_temporary, Path) < 0))
        {
            throw SystemCallException.Last("rename");
        }

        _committed = true;
    }

    /// <summary>Takes it out of its place again, if it is there; what was there before is back.</summary>
    public void Revert()
    {
        if (_committed && !_isPassed)
        {
            _ = _replaced ? renameat2(WorkingDirectory, _temporary, WorkingDirectory, Path, Exchange) : rename(Path, _temporary);
            _replaced = false;
        }

        _committed = false;
    }

    /// <summary>The names in a file's directory survive the host's power. Whoever passed a descriptor answers for its file's name.</summary>
    public static void SyncDirectoryOf(string path)
    {
        if (PassedDescriptor.NumberOf(path) is not null)
        {
            return;
        }

        var end = path.LastIndexOf('/');
        var fd = open(end switch { < 0 => ".", 0 => "/", _ => path[..end] }, Descriptors.ReadOnly | Descriptors.CloseOnExec, 0);
        if (fd < 0)
        {
            throw SystemCallException.Last("open");
        }

        var failure = fsync(fd) < 0 ? SystemCallException.Last("fsync") : null;
        _ = Descriptors.close(fd);
        if (failure is not null)
        {
            throw failure;
        }
    }

    public void Dispose()
    {
        if (_fd >= 0)
        {
            if (_isPassed && !_committed)
            {
                _ = ftruncate(_fd, 0);
            }

            _ = Descriptors.close(_fd);
            _fd = -1;
            if (!_isPassed && (!_committed || _replaced))
            {
                _ = Descriptors.unlink(_temporary);
            }
        }
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags, uint mode);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int rename(string from, string to);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int renameat2(int fromDirectory, string from, int toDirectory, string to, uint flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int ftruncate(int fd, long length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint pwrite(int fd, byte* buffer, nint size, long offset);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fsync(int fd);
}
