namespace Fleet.Guest.Processes;

/// <summary>What waitpid(2) says of a process, as a shell would put it in one number.</summary>
internal static class ExitStatus
{
    /// <summary>The shell's number for a command that is there but can't be run.</summary>
    public const int NotExecutable = 126;

    /// <summary>The shell's number for a command that is not there.</summary>
    public const int NotFound = 127;

    /// <summary>0–255 of a process that exited, 128 + n of one that signal n ended.</summary>
    public static int Of(int waitStatus) => (waitStatus & 0x7F) == 0 ? waitStatus >> 8 & 0xFF : 128 + (waitStatus & 0x7F);

    /// <summary>True for a process that is only stopped, by job control.</summary>
    public static bool IsStopped(int waitStatus) => (waitStatus & 0xFF) == 0x7F;
}
