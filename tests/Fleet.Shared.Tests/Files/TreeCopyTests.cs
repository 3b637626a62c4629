using System.Formats.Tar;
using System.Text;
using Fleet.Shared.Files;
using Xunit;

namespace Fleet.Shared.Tests.Files;

public sealed class TreeCopyTests : IDisposable
{
    private readonly string _root = Directory.CreateTempSubdirectory("fleet-copy-").FullName;

    public void Dispose() => Directory.Delete(_root, recursive: true);

    private string At(params string[] parts) => Path.Combine([_root, .. parts]);

    private string Folder(string name) => Directory.CreateDirectory(At(name)).FullName;

    private static MemoryStream Packed(string path)
    {
        var stream = new MemoryStream();
        TreeCopy.Pack(path, stream);
        stream.Position = 0;
        return stream;
    }

    private static MemoryStream Hostile(params TarEntry[] entries)
    {
        var stream = new MemoryStream();
        using (var writer = new TarWriter(stream, leaveOpen: true))
        {
            foreach (var entry in entries) writer.WriteEntry(entry);
        }
        stream.Position = 0;
        return stream;
    }

    private static PaxTarEntry Evil(string name) => new(TarEntryType.RegularFile, name) { DataStream = new MemoryStream("evil"u8.ToArray()) };

    [Fact]
    public void Should_bring_a_tree_over_as_it_was()
    {
        var from = Folder("from");
        var deep = Directory.CreateDirectory(Path.Combine(from, "deep", new string('n', 120))).FullName;
        File.WriteAllText(Path.Combine(deep, "file"), "inside");
        File.SetUnixFileMode(Path.Combine(deep, "file"), UnixFileMode.UserRead | UnixFileMode.UserExecute);
        File.CreateSymbolicLink(Path.Combine(from, "link"), "deep/nowhere");
        File.WriteAllBytes(Path.Combine(from, "empty"), []);
        TreeCopy.Unpack(Packed(from), Folder("into"));
        var copy = Path.Combine(At("into", "from", "deep", new string('n', 120)), "file");
        Assert.Equal("inside", File.ReadAllText(copy));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserExecute, File.GetUnixFileMode(copy));
        Assert.Equal("deep/nowhere", new FileInfo(At("into", "from", "link")).LinkTarget);
        Assert.Equal(0, new FileInfo(At("into", "from", "empty")).Length);
    }

    [Fact]
    public void Should_give_it_the_name_that_is_asked_for()
    {
        File.WriteAllText(At("a"), "text");
        TreeCopy.Unpack(Packed(At("a")), At("b"));
        Assert.Equal("text", File.ReadAllText(At("b")));
        Assert.Throws<DirectoryNotFoundException>(() => TreeCopy.Unpack(Packed(At("a")), At("missing", "b")));
    }

    [Fact]
    public void Should_replace_a_link_and_not_write_through_it()
    {
        File.WriteAllText(At("victim"), "kept");
        File.CreateSymbolicLink(At("b"), At("victim"));
        File.WriteAllText(At("a"), "text");
        TreeCopy.Unpack(Packed(At("a")), At("b"));
        Assert.Equal(("kept", "text"), (File.ReadAllText(At("victim")), File.ReadAllText(At("b"))));
    }

    [Theory]
    [InlineData("../evil")]
    [InlineData("x/../../evil")]
    [InlineData("/evil")]
    [InlineData("./../evil")]
    public void Should_refuse_names_that_lead_elsewhere(string name)
    {
        var into = Folder("into");
        Assert.Throws<IOException>(() => TreeCopy.Unpack(Hostile(Evil(name)), into));
        Assert.False(File.Exists(At("evil")));
        Assert.Empty(Directory.EnumerateFileSystemEntries(into));
    }

    [Fact]
    public void Should_write_nothing_through_links_that_came_with_it()
    {
        var outside = Folder("outside");
        var into = Folder("into");
        Assert.ThrowsAny<IOException>(() => TreeCopy.Unpack(Hostile(
            new PaxTarEntry(TarEntryType.SymbolicLink, "x/way") { LinkName = outside }, Evil("x/way/evil")), into));
        Assert.Empty(Directory.EnumerateFileSystemEntries(outside));
    }

    [Fact]
    public void Should_go_through_no_link_that_was_there()
    {
        var outside = Folder("outside");
        var into = Folder("into");
        Directory.CreateSymbolicLink(Path.Combine(into, "way"), outside);
        Assert.Throws<IOException>(() => TreeCopy.Unpack(Hostile(Evil("way/evil")), into));
        Assert.Empty(Directory.EnumerateFileSystemEntries(outside));
    }

    [Fact]
    public void Should_refuse_what_is_no_file()
    {
        var into = Folder("into");
        Assert.Throws<IOException>(() => TreeCopy.Unpack(Hostile(new PaxTarEntry(TarEntryType.CharacterDevice, "null") { DeviceMajor = 1, DeviceMinor = 3 }), into));
        Assert.Throws<IOException>(() => TreeCopy.Unpack(Hostile(new PaxTarEntry(TarEntryType.HardLink, "hard") { LinkName = "/etc/passwd" }), into));
        Assert.Throws<IOException>(() => TreeCopy.Unpack(new MemoryStream(Encoding.ASCII.GetBytes(new string('x', 4096))), into));
        Assert.Empty(Directory.EnumerateFileSystemEntries(into));
    }
}
