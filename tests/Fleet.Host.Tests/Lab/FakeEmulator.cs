using Fleet.Host.Lab;
using Serilog.Core;

namespace Fleet.Host.Tests.Lab;

/// <summary>
/// A folder of its own, and in it a shell script in QEMU's place: a real process with the real pipes and files of a node,
/// without a machine in it.
/// </summary>
internal sealed class FakeEmulator : IDisposable
{
    /// <summary>Ready at once, and carries out commands as a node's init does.</summary>
    public const string Works = """
        echo 1 >exchange/ready
        exec 3<>control.in
        while read -r verb id <&3; do
          case $verb in
            run)
              (
                setsid sh -c 'echo $$ >$1.pid; exec sh exchange/$1.sh' sh $id >exchange/$id.out 2>exchange/$id.err
                echo $? >exchange/$id.exit
              ) </dev/null &
              ;;
            end) kill -9 -$(cat $id.pid) ;;
          esac
        done
        """;

    public const string Hangs = "exec sleep 1000";

    private static readonly NodeImage Image = new("/kernel", "/initrd");

    public FakeEmulator(string script)
    {
        Directory.CreateDirectory(Root);
        File.WriteAllText(Path.Combine(Root, "qemu"), "#!/bin/sh\n" + script + "\n");
        if (OperatingSystem.IsLinux()) File.SetUnixFileMode(Path.Combine(Root, "qemu"), UnixFileMode.UserRead | UnixFileMode.UserExecute);
        Options = new LabOptions
        {
            StateDirectory = Path.Combine(Root, "state"),
            CacheDirectory = Path.Combine(Root, "cache"),
            Qemu = Path.Combine(Root, "qemu"),
            MemoryMib = 512,
            BootTimeout = TimeSpan.FromSeconds(30),
        };
        Lab = Over(Options);
    }

    public string Root { get; } = Path.Combine(Path.GetTempPath(), $"fleet-lab-{Guid.NewGuid():N}");

    public LabOptions Options { get; }

    public Host.Lab.Lab Lab { get; }

    public static Host.Lab.Lab Over(LabOptions options) => new(options, Logger.None, _ => Task.FromResult(Image));

    public Task<LabMachine> BootAsync(LabOptions options) =>
        LabMachine.BootAsync(
            options, Image, "n", Path.Combine(options.StateDirectory, "n"), NodeLifetime.WithThisProcess, Logger.None, CancellationToken.None);

    /// <summary>Processes that still run for this folder's nodes.</summary>
    public IReadOnlyList<string> Processes() => ProcessesIn(Root);

    /// <summary>Processes that work anywhere below a folder.</summary>
    public static IReadOnlyList<string> ProcessesIn(string root) =>
        [.. Directory.GetDirectories("/proc").Where(folder => char.IsAsciiDigit(Path.GetFileName(folder)[0])).Where(folder => WorksIn(root, folder))];

    public void Dispose() => Directory.Delete(Root, recursive: true);

    private static bool WorksIn(string root, string folder)
    {
        try
        {
            return new FileInfo(Path.Combine(folder, "cwd")).LinkTarget?.StartsWith(root, StringComparison.Ordinal) == true;
        }
        catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }
}
