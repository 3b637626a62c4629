using System.Diagnostics;
using Fleet.Guest.Linux;
using Xunit;

namespace Fleet.Guest.Tests;

public sealed class FilesTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-guest-files-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public unsafe void Gives_a_folder_anothers_owner_mode_and_attributes()
    {
        var (from, to) = (Path.Combine(_folder, "from"), Path.Combine(_folder, "to"));
        Directory.CreateDirectory(from);
        Directory.CreateDirectory(to);
        var source = Files.Open(from, Libc.O_RDONLY, out _);
        if (Environment.IsPrivilegedProcess) Assert.Equal(0, Libc.fchown(source, 1000, 1001));
        bool hasXattr;
        using (var strings = new NativeStrings()) hasXattr = Libc.fsetxattr(source, strings.Add("user.fleet"), strings.Add("it"), 2, 0) == 0;
        Libc.close(source);
        File.SetUnixFileMode(from, (UnixFileMode)0x3E8);

        Assert.Equal(0, Files.CopyAttributes(from, to));

        Assert.Equal(Stat(from), Stat(to));
        Assert.EndsWith(" 1750", Stat(to), StringComparison.Ordinal);
        if (!hasXattr) return;
        var target = Files.Open(to, Libc.O_RDONLY, out _);
        var value = stackalloc byte[2];
        using (var strings = new NativeStrings()) Assert.Equal(2, Libc.fgetxattr(target, strings.Add("user.fleet"), value, 2));
        Libc.close(target);
        Assert.Equal("it"u8.ToArray(), new ReadOnlySpan<byte>(value, 2).ToArray());
    }

    [Fact]
    public void Says_why_a_folder_is_not_anothers_like() => Assert.Equal(Libc.ENOENT, Files.CopyAttributes(Path.Combine(_folder, "nothing"), _folder));

    private static string Stat(string path)
    {
        using var stat = Process.Start(new ProcessStartInfo("stat", ["-c", "%u:%g %a", path]) { RedirectStandardOutput = true })!;
        var text = stat.StandardOutput.ReadToEnd().Trim();
        stat.WaitForExit();
        return text;
    }
}
