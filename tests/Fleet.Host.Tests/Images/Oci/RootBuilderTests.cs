using System.Diagnostics;
using System.Globalization;
using System.Text;
using CsCheck;
using Fleet.Host.Drivers;
using Fleet.Host.Images.Oci;

namespace Fleet.Host.Tests.Images.Oci;

public sealed class RootBuilderTests : IDisposable
{
    private static readonly ImageLimits Limits = new(10_000, 64 << 20, 8 << 20);
    private readonly TestFolder _folder = new();
    private int _built;

    public void Dispose() => _folder.Dispose();

    [SkippableFact]
    public void Linux_mounts_what_the_layers_make()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "mounting takes root");
        var big = new byte[300_000];
        new Random(1).NextBytes(big);
        var holes = new byte[1 << 20];
        holes[^1] = 7;
        var capability = new byte[] { 1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
        var lower = new TarMaker().Folder("./").Folder("etc").File("etc/gone", "x").File("etc/kept", "lower").Folder("usr/lib", 0x1C0, 7)
            .Symlink("lib", "usr/lib").File("big", big, 0x9ED, 1000).HardLink("big2", "big").File("holes", holes)
            .File("ping", [1, 2, 3], 0x1ED, 0, ("security.capability", capability), ("user.note", "a\0b"u8.ToArray()), ("trusted.overlay.opaque", "y"u8.ToArray()))
            .Folder("cache").File("cache/old", "old").Add('6', "pipe", mode: 0x180).Folder("sticky", 0x3FF).File("empty", []);
        for (var i = 0; i < 700; i++) lower.File($"many/{i:000}", $"{i}");
        var upper = new TarMaker().File("etc/.wh.gone", []).File("etc/kept", "upper").File("lib/new.so", "through the link")
            .File("cache/.wh..wh..opq", []).File("cache/new", "new").File(new string('n', 200) + "/deep", "long").File("caf\u00e9", "latin");

        var image = Build([lower.ToArray(), TarMaker.Gzip(upper.ToArray())]);

        Assert.Equal("upper", Mounted(image, "cat etc/kept"));
        Assert.Equal("through the link", Mounted(image, "cat usr/lib/new.so"));
        Assert.Equal("new", Mounted(image, "ls cache"));
        Assert.Equal("kept", Mounted(image, "ls etc"));
        Assert.Equal("4755 1000 2 300000\n4755 1000 2 300000", Mounted(image, "stat -c '%a %u %h %s' big big2"));
        Assert.Equal(Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(big)), Mounted(image, "sha256sum <big2 | cut -d' ' -f1"));
        Assert.Equal(Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(holes)), Mounted(image, "sha256sum <holes | cut -d' ' -f1"));
        Assert.Equal("700 7 directory\n1777 0 directory\n600 0 fifo", Mounted(image, "stat -c '%a %u %F' usr/lib sticky pipe"));
        Assert.Equal("700 699", Mounted(image, "echo $(ls many | wc -l) $(cat many/699)"));
        Assert.Equal("usr/lib", Mounted(image, "readlink lib"));
        Assert.Equal("long", Mounted(image, "cat n*/deep"));
        Assert.Equal("latin", Mounted(image, "cat caf?"));
        Assert.Equal("0", Mounted(image, "wc -c <empty"));
        Assert.Equal("1600000000", Mounted(image, "stat -c %Y etc/kept"));
        // A megabyte of zeroes and one byte takes one block.
        Assert.InRange(new FileInfo(image).Length, 300_000, 300_000 + 131_072 * 2);
        if (!File.Exists("/usr/bin/python3")) return; // which alone reads attributes here
        Assert.Equal("security.capability,user.note", Mounted(image, "python3 -c \"import os;print(','.join(sorted(os.listxattr('ping'))))\""));
        Assert.Equal(Convert.ToHexStringLower(capability), Mounted(image, "python3 -c \"import os;print(os.getxattr('ping','security.capability').hex())\""));
    }

    [Fact]
    public void The_same_layers_give_the_same_bytes()
    {
        byte[][] layers = [new TarMaker().File("b", "1").File("a", "2").Folder("c").ToArray(), new TarMaker().File("c/x", "3").ToArray()];
        Assert.Equal(File.ReadAllBytes(Build(layers)), File.ReadAllBytes(Build(layers.Select(TarMaker.Gzip).ToArray(), layers.Select(TarMaker.Digest).ToArray())));
    }

    [Fact]
    public void A_layer_in_zstd_is_read()
    {
        var tar = new TarMaker().File("a", new string('z', 5000)).ToArray();
        using var compressor = new ZstdSharp.Compressor();
        Assert.Equal(File.ReadAllBytes(Build([tar])), File.ReadAllBytes(Build([compressor.Wrap(tar).ToArray()], [TarMaker.Digest(tar)])));
    }

    /// <summary>umoci makes such, and every other program takes them.</summary>
    [Fact]
    public void A_layer_may_end_with_the_last_byte_of_its_last_file()
    {
        var whole = new TarMaker().File("a", new string('a', 700)).File("b", new string('b', 600)).ToArray();
        var ended = whole[..^(1024 + (512 - (600 % 512)))];
        var expected = File.ReadAllBytes(Build([whole]));
        Assert.Equal(expected, File.ReadAllBytes(Build([ended])));
        Assert.Equal(expected, File.ReadAllBytes(Build([TarMaker.Gzip(ended)], [TarMaker.Digest(ended)])));
        Assert.Throws<LaunchFailedException>(() => Build([ended[..^1]]));
    }

    [Fact]
    public void What_a_layer_takes_away_is_what_lower_ones_brought_whatever_the_order()
    {
        var lower = new TarMaker().File("a/old", "old").File("gone/x", "x").File("first", "1").HardLink("second", "first").ToArray();
        var upper = new TarMaker().File("a/new", "new").File("a/.wh..wh..opq", []).File(".wh.gone", []).File("gone/y", "y").File(".wh.first", []).File(".wh..wh.plnk", []).ToArray();
        var tree = Tree(lower, upper);
        Assert.Equal(["new"], tree.Root.Children!["a"].Children!.Keys);
        Assert.Equal(["y"], tree.Root.Children["gone"].Children!.Keys);
        Assert.Equal(["a", "gone", "second"], tree.Root.Children.Keys.Order());
        Assert.Equal((0, 2), (tree.Root.Children["second"].Layer, tree.Root.Children["second"].Entry));
    }

    [Fact]
    public void A_file_upon_a_folder_replaces_it_and_a_folder_upon_a_folder_does_not()
    {
        var tree = Tree(new TarMaker().File("a/x", "1").File("b/x", "1").ToArray(), new TarMaker().File("a", "2").Folder("b", 0x1C0).ToArray());
        Assert.Equal(EntryKind.File, tree.Root.Children!["a"].Kind);
        Assert.Equal((0x1C0, 1), (tree.Root.Children["b"].Mode, tree.Root.Children["b"].Children!.Count));
    }

    public static TheoryData<string> HostileLayers() => [.. Hostile.Keys];

    private static readonly Dictionary<string, Func<byte[]>> Hostile = new()
    {
        ["out of the image"] = () => new TarMaker().File("../../etc/passwd", "x").ToArray(),
        ["out in the middle"] = () => new TarMaker().File("a/../../b", "x").ToArray(),
        ["hard link out"] = () => new TarMaker().HardLink("a", "../../etc/shadow").ToArray(),
        ["hard link to nothing"] = () => new TarMaker().HardLink("a", "/etc/shadow").ToArray(),
        ["hard link to a folder"] = () => new TarMaker().Folder("d").HardLink("a", "d").ToArray(),
        ["links in a circle"] = () => new TarMaker().Symlink("a", "b").Symlink("b", "a").File("a/x", "x").ToArray(),
        ["link to itself"] = () => new TarMaker().Symlink("a", "a").File("a/x", "x").ToArray(),
        ["links that grow"] = () => new TarMaker().Symlink("a", "a/a/a").File("a/x", "x").ToArray(),
        ["link to nothing"] = () => new TarMaker().Symlink("a", "").ToArray(),
        ["through a file"] = () => new TarMaker().File("a", "x").File("a/b", "x").ToArray(),
        ["character device"] = () => new TarMaker().Add('3', "dev/mem").ToArray(),
        ["block device"] = () => new TarMaker().Add('4', "dev/sda").ToArray(),
        ["sparse"] = () => new TarMaker().Add('S', "s").ToArray(),
        ["unknown kind"] = () => new TarMaker().Add('Z', "s").ToArray(),
        ["zero byte in a name"] = () => new TarMaker().File(new string('a', 101) + "\0b", "x").ToArray(),
        ["long name"] = () => new TarMaker().File(new string('a', 256), "x").ToArray(),
        ["long path"] = () => new TarMaker().File(string.Join('/', Enumerable.Repeat("abcdefg", 600)), "x").ToArray(),
        ["deep"] = () => new TarMaker().File(string.Concat(Enumerable.Repeat("d/", 300)) + "x", "x").ToArray(),
        ["deep by links"] = () => DeepByLinks(),
        ["whiteout of the folder above"] = () => new TarMaker().File("a/.wh...", []).ToArray(),
        ["a size below zero"] = () => new TarMaker().Add('0', "a", claimedSize: -1).ToArray(),
        ["a size beyond all bounds"] = () => new TarMaker().Add('0', "a", claimedSize: (1L << 33) - 1).ToArray(),
        ["cut short"] = () => new TarMaker().File("a", new byte[5000]).ToArray()[..3000],
        ["a wrong checksum"] = () => { var tar = new TarMaker().File("a", "x").ToArray(); tar[0] ^= 1; return tar; },
        ["no tar"] = () => Encoding.ASCII.GetBytes(new string('x', 2048)),
        ["endless attributes"] = () => new TarMaker().File("a", [], 0, 0, ("user.a", new byte[65_000]), ("user.b", new byte[65_000])).ToArray(),
        ["more attributes than any file has"] = () => new TarMaker().File("a", [], 0, 0, [.. Enumerable.Range(0, 1025).Select(n => ($"user.{n}", Array.Empty<byte>()))]).ToArray(),
        ["an owner that can't be"] = () => new TarMaker().Raw('x', "pax", "", "18 uid=4294967295\n"u8.ToArray(), 0, 0, 0, null).File("a", "x").ToArray(),
        ["too many entries"] = () => { var tar = new TarMaker(); for (var i = 0; i < 10_001; i++) tar.File($"f{i}", []); return tar.ToArray(); },
        ["attributes of many files"] = () => { var tar = new TarMaker(); for (var i = 0; i < 150; i++) tar.File($"f{i}", [], 0, 0, ("user.a", new byte[60_000])); return tar.ToArray(); },
        ["small attributes of many files"] = () => { var tar = new TarMaker(); for (var i = 0; i < 100; i++) tar.File($"f{i}", [], 0, 0, [.. Enumerable.Range(0, 1000).Select(n => ($"user.{n}", Array.Empty<byte>()))]); return tar.ToArray(); },
        ["long names of many files"] = () => { var tar = new TarMaker(); for (var i = 0; i < 700; i++) tar.Symlink(LongPath($"f{i}"), LongPath("t")); return tar.ToArray(); },
        ["folders on the way to files"] = () => { var tar = new TarMaker(); for (var i = 0; i < 100; i++) tar.File($"{i}" + string.Concat(Enumerable.Repeat("/d", 200)) + "/x", ""); return tar.ToArray(); },
        ["steps without end"] = () => { var tar = new TarMaker().Symlink("a", string.Concat(Enumerable.Repeat("./", 2000)) + "d").Folder("d"); for (var i = 0; i < 1000; i++) tar.File($"a/{i}", ""); return tar.ToArray(); },
        ["a bomb"] = () => TarMaker.Gzip(new TarMaker().File("zeroes", new byte[65 << 20]).ToArray()),
        ["a broken gzip"] = () => { var gzip = TarMaker.Gzip(new TarMaker().File("a", new byte[5000]).ToArray()); gzip[12] ^= 0xFF; return gzip; },
        ["a gzip cut short"] = () => TarMaker.Gzip(new TarMaker().File("a", Enumerable.Range(0, 9000).Select(i => (byte)(i * i)).ToArray()).ToArray())[..200],
        ["a root that is a file"] = () => new TarMaker().File("/", "x").ToArray().Also(tar => tar[156] = (byte)'1'),
    };

    [Theory]
    [MemberData(nameof(HostileLayers))]
    public void A_hostile_layer_is_refused(string which)
    {
        var layer = Hostile[which]();
        var refused = Assert.Throws<LaunchFailedException>(() => Build([layer], [DigestOfUnpacked(layer)]));
        Assert.Equal("image_refused", refused.Code);
        Assert.DoesNotContain(refused.Message, char.IsControl);
    }

    [Fact]
    public void Entries_of_all_layers_count_together()
    {
        byte[] Layer(int from) => Enumerable.Range(from, 6_000).Aggregate(new TarMaker(), (tar, i) => tar.File($"f{i}", [])).ToArray();
        Assert.Equal("image_refused", Assert.Throws<LaunchFailedException>(() => Build([Layer(0), Layer(6_000)])).Code);
    }

    [Fact]
    public void Layers_can_be_given_up_while_they_are_put_together()
    {
        using var given = new CancellationTokenSource();
        given.Cancel();
        Assert.Throws<OperationCanceledException>(() => new LayerTree(Limits).Apply([new LayerEntry(0, EntryKind.File, "a", "", 0, 0, 0, 0, 0, null)], given.Token));
    }

    [Fact]
    public void A_layer_that_is_not_what_the_configuration_says_is_refused()
    {
        var layer = new TarMaker().File("a", "x").ToArray();
        Assert.Equal("image_refused", Assert.Throws<LaunchFailedException>(() => Build([layer], [TarMaker.Digest([])])).Code);
    }

    [Fact]
    public void No_bytes_whatever_make_it_do_anything_but_refuse_or_build()
    {
        var sample = new TarMaker().Folder("a").File("a/b", "content", 0x1ED).HardLink("a/c", "a/b").Symlink("l", "a").File("l/x", [1], 0, 0, ("user.x", [1]))
            .File("a/.wh.b", []).File(new string('p', 150), "long").ToArray();
        Gen.Select(Gen.Int[0, sample.Length - 1], Gen.Byte).Array[1, 8].Sample(changes =>
        {
            var bytes = (byte[])sample.Clone();
            foreach (var (at, value) in changes) bytes[at] = value;
            for (var block = 0; block + 512 <= bytes.Length; block += 512) Checksum(bytes.AsSpan(block, 512));
            try
            {
                File.Delete(Build([bytes]));
            }
            catch (LaunchFailedException refused)
            {
                Assert.Equal("image_refused", refused.Code);
            }
        }, iter: 2000, threads: 1);
    }

    // So that a change of a header gets further than its checksum.
    private static void Checksum(Span<byte> block)
    {
        if (!block.Slice(257, 5).SequenceEqual("ustar"u8)) return;
        block.Slice(148, 8).Fill((byte)' ');
        var sum = 0;
        foreach (var value in block) sum += value;
        Encoding.ASCII.GetBytes(Convert.ToString(sum, 8).PadLeft(7, '0')).CopyTo(block[148..]);
    }

    private static string LongPath(string name) => name + string.Concat(Enumerable.Repeat("/" + new string('n', 250), 15));

    private static byte[] DeepByLinks()
    {
        var tar = new TarMaker().Folder("d0").Symlink("l0", "d0");
        for (var i = 1; i < 300; i++) tar.Folder($"l{i - 1}/d").Symlink($"l{i}", string.Concat("d0", string.Concat(Enumerable.Repeat("/d", i))));
        return tar.ToArray();
    }

    private static string DigestOfUnpacked(byte[] layer)
    {
        try
        {
            using var stream = LayerStream.Open(new MemoryStream(layer), null, hashed: true, CancellationToken.None);
            return stream.Digest();
        }
        catch (LaunchFailedException)
        {
            return TarMaker.Digest([]);
        }
    }

    private static LayerTree Tree(params byte[][] layers)
    {
        var tree = new LayerTree(Limits);
        foreach (var layer in layers)
        {
            var scanner = new TarScanner(new MemoryStream(layer), Limits);
            var entries = new List<LayerEntry>();
            while (scanner.Next() is { } entry) entries.Add(entry);
            tree.Apply(entries, CancellationToken.None);
        }
        return tree;
    }

    private string Build(byte[][] layers, string[]? diffIds = null)
    {
        var number = (++_built).ToString(CultureInfo.InvariantCulture);
        var files = layers.Select((layer, i) => _folder.At($"layer-{number}-{i}")).ToArray();
        for (var i = 0; i < layers.Length; i++) File.WriteAllBytes(files[i], layers[i]);
        var target = _folder.At($"root-{number}");
        try
        {
            RootBuilder.Build(files, diffIds ?? layers.Select(DigestOfUnpacked).ToArray(), target, Limits, _ => { }, CancellationToken.None);
        }
        finally
        {
            foreach (var file in files) File.Delete(file);
        }
        return target;
    }

    // In a mount namespace of its own: nothing stays mounted, whatever happens.
    private static string Mounted(string image, string command)
    {
        using var process = Process.Start(new ProcessStartInfo("unshare", ["-m", "sh", "-ec", $"mount -t squashfs -o loop,ro {image} /mnt; cd /mnt; {command}"])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!;
        var output = process.StandardOutput.ReadToEnd();
        var errors = process.StandardError.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, errors);
        return output.TrimEnd('\n');
    }
}

internal static class ByteArrays
{
    public static byte[] Also(this byte[] bytes, Action<byte[]> change)
    {
        change(bytes);
        var sum = 0;
        bytes.AsSpan(148, 8).Fill((byte)' ');
        for (var i = 0; i < 512; i++) sum += bytes[i];
        Encoding.ASCII.GetBytes(Convert.ToString(sum, 8).PadLeft(7, '0')).CopyTo(bytes, 148);
        return bytes;
    }
}
