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

    [Fact]
    public void Puts_a_file_in_the_place_of_a_link_and_leaves_alone_where_that_leads_to()
    {
        var (name, other) = (Path.Combine(_folder, "resolv.conf"), Path.Combine(_folder, "other"));
        File.WriteAllText(other, "as it was");
        Assert.Equal(0, Files.Replace(name, "new"u8, 0x1A4));
        Assert.Equal("new", File.ReadAllText(name));
        foreach (var target in (string[])[other, "../run/systemd/resolve/stub-resolv.conf", "resolv.conf"])
        {
            File.Delete(name);
            File.CreateSymbolicLink(name, target);
            Assert.Equal(0, Files.Replace(name, "newer"u8, 0x1A4));
            Assert.Null(new FileInfo(name).LinkTarget);
            Assert.Equal("newer", File.ReadAllText(name));
        }
        Assert.Equal("as it was", File.ReadAllText(other));
        Directory.CreateDirectory(Path.Combine(_folder, "folder"));
        Assert.NotEqual(0, Files.Replace(Path.Combine(_folder, "folder"), "new"u8, 0x1A4));
    }

    private static string Stat(string path)
    {
        using var stat = Process.Start(new ProcessStartInfo("stat", ["-c", "%u:%g %a", path]) { RedirectStandardOutput = true })!;
        var text = stat.StandardOutput.ReadToEnd().Trim();
        stat.WaitForExit();
        return text;
    }
}
