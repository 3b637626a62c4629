using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Processes;

/// <summary>
/// fleet-init once more, as a child that becomes the command: in its folder and as its user, which posix_spawn can't do.
/// </summary>
internal static unsafe class UserProgram
{
    /// <summary>Of the running program, whatever the root is.</summary>
    public const string Self = "/proc/self/exe";

    private const string Verb = "exec-as";
    private const int FixedArguments = 6;

    /// <summary>Arguments by which <see cref="Self"/> becomes a command, in the root where the folder is empty.</summary>
    public static IReadOnlyList<string> Arguments(UserAccount user, string folder, string path, IReadOnlyList<string> argv) =>
        ["fleet-init", Verb, Text(user.Uid), Text(user.Gid), string.Join(',', user.Groups), folder.Length > 0 ? folder : "/", path, .. argv];

    /// <summary>Becomes the command; comes back only with the exit status of a command that could not be run, or null for arguments of something else.</summary>
    /// <param name="arguments">Without the program's name.</param>
    public static int? Run(string[] arguments)
    {
        if (arguments.Length < FixedArguments + 1 || arguments[0] != Verb) return null;
        var (folder, path, argv) = (arguments[4], arguments[5], arguments[FixedArguments..]);
        if (!Become(Number(arguments[1]), Number(arguments[2]), arguments[3], folder, out var what))
            return Refuse(what, Marshal.GetLastPInvokeError());
        // The runtime ignores it, and what is ignored stays so.
        Libc.signal(Libc.SIGPIPE, Libc.Default);
        using var strings = new NativeStrings();
        // SAFETY: the strings end with NUL, the array with a null pointer, and both live until another program takes the process over.
        Libc.execv(strings.Add(path), strings.AddArray(argv));
        var error = Marshal.GetLastPInvokeError();
        if (error == Libc.ENOEXEC)
        {
            // A script without an interpreter line.
            Libc.execv(strings.Add("/bin/sh"), strings.AddArray(["sh", path, .. argv[1..]]));
            error = Marshal.GetLastPInvokeError();
        }
        return Refuse(argv[0], error);
    }

    private static bool Become(uint uid, uint gid, string groups, string folder, out string what)
    {
        using var strings = new NativeStrings();
        var all = groups.Length == 0 ? [] : Array.ConvertAll(groups.Split(','), Number);
        what = folder;
        // As root still: a working directory that the image names and does not have is made, as everywhere.
        Files.MakeFolders(folder);
        // SAFETY: the string ends with NUL and lives until the end of this method; the array is pinned during the call and its own length is given.
        fixed (uint* first = all)
        {
            if (Libc.chdir(strings.Add(folder)) != 0) return false;
            what = "the user " + Text(uid);
            return Libc.setgroups((nuint)all.Length, first) == 0 && Libc.setgid(gid) == 0 && Libc.setuid(uid) == 0;
        }
    }

    private static int Refuse(string what, int error)
    {
        var refusal = CommandLine.Refusal(what, error) ?? (ExitStatus.NotExecutable, $"{what}: {Files.Describe(error)}");
        Files.WriteAll(2, Encoding.UTF8.GetBytes($"fleet-init: {refusal.Item2}\n"));
        return refusal.Item1;
    }

    private static uint Number(string text) => uint.Parse(text, NumberStyles.None, CultureInfo.InvariantCulture);

    private static string Text(uint number) => number.ToString(CultureInfo.InvariantCulture);
}
