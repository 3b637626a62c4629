using Fleet.Host.Drivers.Processes;

namespace Fleet.Host.Drivers;

/// <summary>
/// Files that a spec names by their path on this host. Whoever may create a microVM chooses them, and a guest shows its kernel's and
/// initrd's bytes to its owner: so the agent, which may read everything, opens only what everybody on the host may read.
/// </summary>
internal static class PublicFile
{
    /// <summary>Opens the file; what is open stays the file that was looked at, whatever becomes of its path.</summary>
    /// <param name="path">As the spec has it.</param>
    /// <param name="what">For people: <c>kernel</c>.</param>
    /// <param name="code">The reason when it can't be opened.</param>
    /// <exception cref="LaunchFailedException">It is missing, no ordinary file, or not for everybody: which of them is told to nobody.</exception>
    public static FileStream Open(string path, string what, string code)
    {
        try
        {
            return new FileStream(Posix.OpenAsNobody(path), FileAccess.Read, bufferSize: 0);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            throw new LaunchFailedException(code,
                $"On this host there is no {what} {path} that everybody may read. The agent opens nothing else for a microVM: chmod o+r the file, and o+x its folders.", e);
        }
    }

    /// <summary>A path by which another process of ours opens that very file, as long as this one holds it open.</summary>
    public static string PathOf(FileStream file) => $"/proc/{Environment.ProcessId}/fd/{file.SafeFileHandle.DangerousGetHandle()}";
}
