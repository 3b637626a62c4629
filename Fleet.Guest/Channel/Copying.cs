using System.Text;
using Fleet.Guest.Linux;
using Fleet.Shared.Files;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Guest.Channel;

/// <summary>
/// What fleet-init does when it is not PID 1: files for the host, as one of the commands that the host has run. So copies need nothing of the
/// guest's own, and are bounded and ended as those are.
/// </summary>
internal static class Copying
{
    private const int Usage = 64;

    /// <summary>The exit status.</summary>
    /// <param name="arguments"><c>pack PATH</c>, to standard output, or <c>unpack PATH</c>, from standard input.</param>
    public static int Run(string[] arguments)
    {
        // Who is hung up finds the end of its pipe as well, and then takes away what has come by halves.
        Libc.signal(Libc.SIGHUP, Libc.Ignore);
        try
        {
            switch (arguments)
            {
                case ["pack", var path]:
                    using (var output = new FileStream(new SafeFileHandle(1, ownsHandle: false), FileAccess.Write, bufferSize: 64 * 1024))
                        TreeCopy.Pack(path, output);
                    return 0;
                case ["unpack", var path]:
                    using (var input = new FileStream(new SafeFileHandle(0, ownsHandle: false), FileAccess.Read, bufferSize: 64 * 1024))
                        TreeCopy.Unpack(input, path);
                    return 0;
                default:
                    Files.WriteAll(2, "fleet-init: runs as PID 1 of a microVM; else it copies: pack PATH or unpack PATH\n"u8);
                    return Usage;
            }
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or ArgumentException)
        {
            Files.WriteAll(2, Encoding.UTF8.GetBytes($"{error.Message}\n"));
            return 1;
        }
    }
}
