using System.Text;
using CsCheck;
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

    private static MemoryStream Hostile(params (char Kind, string Name, string Content)[] entries)
    {
        var stream = new MemoryStream();
        using var writer = new BinaryWriter(stream, Encoding.UTF8, leaveOpen: true);
        foreach (var (kind, name, content) in entries)
        {
            writer.Write((byte)kind);
            writer.Write((ushort)0x1ED);
            writer.Write((ushort)name.Length);
            writer.Write((long)content.Length);
            writer.Write(Encoding.ASCII.GetBytes(name + content));
        }
        writer.Flush();
        stream.Position = 0;
        return stream;
    }

    private static (char, string, string) Evil(string name) => ('f', name, "evil");

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
        Assert.Throws<DirectoryNotFoundException>(() => TreeCopy.Unpack(Packed(At("a")), At("missing") + "/"));
        Assert.False(Path.Exists(At("missing")));
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
        Assert.ThrowsAny<IOException>(() => TreeCopy.Unpack(Hostile(('d', "x", ""), ('l', "x/way", outside), Evil("x/way/evil")), into));
        Assert.Empty(Directory.EnumerateFileSystemEntries(outside));
    }

    [Fact]
    public void Should_go_through_no_link_that_was_there()
    {
        var outside = Folder("outside");
        var into = Folder("into");
        Directory.CreateSymbolicLink(Path.Combine(into, "way"), outside);
        Assert.Throws<IOException>(() => TreeCopy.Unpack(Hostile(('d', "way", ""), Evil("way/evil")), into));
        Assert.Empty(Directory.EnumerateFileSystemEntries(outside));
    }

    [Theory]
    [InlineData("authorized_keys")]
    [InlineData(".ssh/authorized_keys")]
    [InlineData("asked/../.bashrc")]
    [InlineData("asked/inner/file")]
    public void Should_take_nothing_but_what_was_asked_for(string name)
    {
        var into = Folder("into");
        Directory.CreateDirectory(Path.Combine(into, ".ssh"));
        Assert.Throws<IOException>(() => TreeCopy.Unpack(Hostile(('d', "asked", ""), Evil(name)), into, "asked"));
        Assert.Throws<IOException>(() => TreeCopy.Unpack(Hostile(Evil(name)), into, "asked"));
        Assert.Equal(["asked"], Directory.EnumerateFileSystemEntries(into).Select(Path.GetFileName).Where(entry => entry != ".ssh"));
        Assert.Empty(Directory.EnumerateFileSystemEntries(Path.Combine(into, ".ssh")));
        Assert.Empty(Directory.EnumerateFileSystemEntries(Path.Combine(into, "asked")));
        TreeCopy.Unpack(Hostile(('d', "asked", ""), Evil("asked/file"), ('.', "", "")), into, "asked");
        Assert.True(File.Exists(Path.Combine(into, "asked", "file")));
    }

    [Fact]
    public void Should_take_one_tree_only()
    {
        var into = Folder("into");
        Assert.Throws<IOException>(() => TreeCopy.Unpack(Hostile(('d', "x", ""), Evil("y")), into));
        Assert.Throws<IOException>(() => TreeCopy.Unpack(Hostile(('f', "file", "first"), Evil("file")), into));
        Assert.Throws<IOException>(() => TreeCopy.Unpack(Hostile(('f', "x", "first"), Evil("y")), At("as")));
        Assert.False(File.Exists(Path.Combine(into, "y")));
        Assert.Equal("first", File.ReadAllText(Path.Combine(into, "file")));
        Assert.Equal("first", File.ReadAllText(At("as")));
    }

    [Fact]
    public void Should_take_so_much_and_no_more()
    {
        var into = Folder("into");
        MemoryStream Three() => Hostile(('d', "x", ""), ('f', "x/a", "12345"), ('f', "x/b", "12345"), ('.', "", ""));
        Assert.Throws<IOException>(() => TreeCopy.Unpack(Three(), into, mostEntries: 2));
        Assert.False(File.Exists(Path.Combine(into, "x", "b")));
        Assert.Throws<IOException>(() => TreeCopy.Unpack(Three(), into, mostBytes: 9));
        Assert.False(File.Exists(Path.Combine(into, "x", "b")));
        TreeCopy.Unpack(Three(), into, mostEntries: 3, mostBytes: 10);
        Assert.True(File.Exists(Path.Combine(into, "x", "b")));
    }

    [Fact]
    public void Should_put_a_file_in_its_place_only_when_it_is_whole()
    {
        var into = Folder("into");
        File.WriteAllText(Path.Combine(into, "a"), "before");
        File.WriteAllText(At("a"), "after it");
        var whole = Packed(At("a")).ToArray();
        // All but the end mark, and a byte of the file.
        Assert.Throws<IOException>(() => TreeCopy.Unpack(new MemoryStream(whole[..^14]), into));
        Assert.Equal([Path.Combine(into, "a")], Directory.EnumerateFileSystemEntries(into));
        Assert.Equal("before", File.ReadAllText(Path.Combine(into, "a")));
        TreeCopy.Unpack(new MemoryStream(whole), into);
        Assert.Equal([Path.Combine(into, "a")], Directory.EnumerateFileSystemEntries(into));
        Assert.Equal("after it", File.ReadAllText(Path.Combine(into, "a")));
    }

    [Theory]
    [InlineData("/tmp/there", "there")]
    [InlineData("/tmp/there/", "there")]
    [InlineData("/a/b/..", "a")]
    [InlineData("/", "root")]
    public void Should_name_a_copy_as_its_packer_does(string path, string name) => Assert.Equal(name, TreeCopy.NameOf(path));

    [Fact]
    public void Should_refuse_what_is_no_copy_or_ends_early()
    {
        var into = Folder("into");
        Assert.Throws<IOException>(() => TreeCopy.Unpack(Hostile(('c', "null", "")), into));
        Assert.Throws<IOException>(() => TreeCopy.Unpack(new MemoryStream(Encoding.ASCII.GetBytes(new string('x', 4096))), into));
        Assert.Throws<IOException>(() => TreeCopy.Unpack(new MemoryStream(), into));
        Assert.Empty(Directory.EnumerateFileSystemEntries(into));
        File.WriteAllText(At("a"), "text");
        var whole = Packed(At("a")).ToArray();
        for (var cut = 0; cut < whole.Length; cut++) Assert.Throws<IOException>(() => TreeCopy.Unpack(new MemoryStream(whole[..cut]), into));
        TreeCopy.Unpack(new MemoryStream(whole), into);
    }

    [Fact]
    public void Should_take_any_bytes_without_another_fault() => Gen.Byte.Array[0, 200].Sample(bytes =>
    {
        var into = Directory.CreateDirectory(At(Guid.NewGuid().ToString("n"))).FullName;
        if (bytes.Length > 0) bytes[0] = (byte)"dfl."[bytes[0] % 4];
        try
        {
            TreeCopy.Unpack(new MemoryStream(bytes), into);
        }
        catch (IOException)
        {
            return;
        }
    }, iter: 300);
}
