using System.ComponentModel;
using System.Runtime.InteropServices;

namespace Fleet.Host.Drivers.Processes;

/// <summary>Where a spawned program's standard streams go; paths are relative to its working directory.</summary>
/// <param name="Input">Opened for reading and writing: for a FIFO that means no wait and never an end of file.</param>
/// <param name="Output">Opened for append.</param>
/// <param name="Error">Opened for append.</param>
internal sealed record SpawnStreams(string Input, string Output, string Error);

/// <summary>
/// posix_spawn(3). The child leads a session of its own, so that no signal to the agent's group or terminal reaches it,
/// and has no descriptor open but its three streams.
/// </summary>
/// <remarks>
/// .NET's Process knows neither sessions nor streams that are files. A child started here is unknown to .NET's own SIGCHLD
/// handling, which leaves it alone: <see cref="ProcessWatch"/> reaps it.
/// </remarks>
internal static unsafe partial class Spawn
{
    // The C library's structures are opaque: 80 and 336 bytes on x86-64, 80 and 336 on arm64 (glibc 2.36). Room for growth.
    private const int OpaqueSize = 1024;
    private const short SetSigDef = 0x04;
    private const short SetSigMask = 0x08;
    private const short SetSid = 0x80;
    private const int ReadWrite = 0x2;
    private const int CreateAppendWrite = 0x1 | 0x40 | 0x400;
    private const uint OwnerOnly = 0x180;

    // Not the agent's own: what secrets that holds would stand in the memory of every VMM, one escape away from its guest.
    private static readonly string[] Environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"];

    /// <summary>Starts a program by absolute path; returns its pid.</summary>
    /// <exception cref="IOException">The directory, a stream or the program could not be opened.</exception>
    public static int Start(string directory, string program, IReadOnlyList<string> arguments, SpawnStreams streams)
    {
        // SAFETY: the buffers are larger than the structures and live through every call that gets their address; both
        // arrays are null-terminated and their strings are freed only after the call, which copies them.
        var actions = stackalloc byte[OpaqueSize];
        var attributes = stackalloc byte[OpaqueSize];
        var argv = new nint[arguments.Count + 2];
        var envp = new nint[Environment.Length + 1];
        Check(FileActionsInit(actions), "posix_spawn_file_actions_init");
        Check(AttributesInit(attributes), "posix_spawnattr_init");
        try
        {
            Check(AddChdir(actions, directory), "chdir");
            Check(AddOpen(actions, 0, streams.Input, ReadWrite, OwnerOnly), "open");
            Check(AddOpen(actions, 1, streams.Output, CreateAppendWrite, OwnerOnly), "open");
            Check(AddOpen(actions, 2, streams.Error, CreateAppendWrite, OwnerOnly), "open");
            // .NET opens everything close-on-exec; a native library may not.
            Check(AddCloseFrom(actions, 3), "closefrom");

            // The runtime ignores SIGPIPE and may block signals in this thread; the child shall know nothing of that.
            var signals = stackalloc byte[OpaqueSize];
            Check(SigEmptySet(signals), "sigemptyset");
            Check(SetSignalMask(attributes, signals), "posix_spawnattr_setsigmask");
            Check(SigFillSet(signals), "sigfillset");
            Check(SetSignalDefault(attributes, signals), "posix_spawnattr_setsigdefault");
            Check(SetFlags(attributes, SetSigDef | SetSigMask | SetSid), "posix_spawnattr_setflags");

            argv[0] = Marshal.StringToCoTaskMemUTF8(program);
            for (int i = 0; i < Environment.Length; i++) envp[i] = Marshal.StringToCoTaskMemUTF8(Environment[i]);
            for (int i = 0; i < arguments.Count; i++) argv[i + 1] = Marshal.StringToCoTaskMemUTF8(arguments[i]);
            fixed (nint* argvStart = argv)
            {
                fixed (nint* environment = envp)
                {
                    Check(PosixSpawn(out int pid, program, actions, attributes, argvStart, environment), "start " + program);
                    return pid;
                }
            }
        }
        finally
        {
            foreach (nint argument in argv) Marshal.FreeCoTaskMem(argument);
            foreach (nint variable in envp) Marshal.FreeCoTaskMem(variable);
            _ = FileActionsDestroy(actions);
            _ = AttributesDestroy(attributes);
        }
    }

    private static void Check(int error, string what)
    {
        if (error != 0) throw new IOException($"{what}: {new Win32Exception(error).Message}");
    }

    [LibraryImport("libc", EntryPoint = "posix_spawn", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int PosixSpawn(
        out int pid, string path, byte* actions, byte* attributes, nint* argv, nint* environment);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_init")]
    private static partial int FileActionsInit(byte* actions);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_destroy")]
    private static partial int FileActionsDestroy(byte* actions);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_addchdir_np", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int AddChdir(byte* actions, string path);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_addopen", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int AddOpen(byte* actions, int fd, string path, int flags, uint mode);

    [LibraryImport("libc", EntryPoint = "posix_spawn_file_actions_addclosefrom_np")]
    private static partial int AddCloseFrom(byte* actions, int from);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_init")]
    private static partial int AttributesInit(byte* attributes);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_destroy")]
    private static partial int AttributesDestroy(byte* attributes);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_setflags")]
    private static partial int SetFlags(byte* attributes, short flags);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_setsigmask")]
    private static partial int SetSignalMask(byte* attributes, byte* signals);

    [LibraryImport("libc", EntryPoint = "posix_spawnattr_setsigdefault")]
    private static partial int SetSignalDefault(byte* attributes, byte* signals);

    [LibraryImport("libc", EntryPoint = "sigemptyset")]
    private static partial int SigEmptySet(byte* signals);

    [LibraryImport("libc", EntryPoint = "sigfillset")]
    private static partial int SigFillSet(byte* signals);
}
