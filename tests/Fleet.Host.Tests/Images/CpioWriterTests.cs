using System.Diagnostics;
using System.Globalization;
using System.Text;
using CsCheck;
using Fleet.Host.Images;
using Xunit;

namespace Fleet.Host.Tests.Images;

public sealed class CpioWriterTests
{
    private static readonly Gen<string> Name = Gen.Char["abcé-_. ü\n"].Array[1, 6].Select(c => new string(c))
        .Where(name => name is not ("." or ".."));

    private static readonly Gen<string> AnyPath = Name.Array[1, 4].Select(parts => string.Join('/', parts));

    [Fact]
    public void What_is_written_is_what_is_read()
    {
        Gen.Select(AnyPath, Gen.Byte.Array[0, 40], Gen.Int[0, 0xFFF]).Array[0, 12].Sample(files =>
        {
            var writer = new CpioWriter();
            var expected = new Dictionary<string, (byte[] Content, int Permissions)>();
            foreach (var (path, content, permissions) in files)
            {
                // A path can't be both a file and a folder of another.
                if (expected.Keys.Any(other => other == path || other.StartsWith(path + "/", StringComparison.Ordinal) || path.StartsWith(other + "/", StringComparison.Ordinal)))
                    continue;
                writer.AddFile(path, content, permissions);
                expected.Add(path, (content, permissions));
            }
            var bytes = writer.ToArray();

            Assert.Equal(0, bytes.Length % 4);
            Assert.Equal(bytes, writer.ToArray());
            var read = Read(bytes);
            Assert.Equal(expected.Keys.Order(StringComparer.Ordinal), read.Where(e => e.Mode >> 12 == 8).Select(e => e.Path));
            foreach (var entry in read.Where(e => e.Mode >> 12 == 8))
            {
                Assert.Equal(expected[entry.Path].Content, entry.Content);
                Assert.Equal(expected[entry.Path].Permissions, entry.Mode & 0xFFF);
            }
            // Every folder stands before what is in it, once.
            var seen = new HashSet<string>();
            foreach (var entry in read)
            {
                Assert.True(seen.Add(entry.Path));
                var slash = entry.Path.LastIndexOf('/');
                if (slash > 0) Assert.Contains(entry.Path[..slash], seen);
            }
        }, iter: 300);
    }

    [SkippableFact]
    public async Task Cpio_itself_reads_it()
    {
        Skip.IfNot(File.Exists("/usr/bin/cpio"), "cpio is not installed");
        using var folder = new TestFolder();
        await File.WriteAllTextAsync(folder.At("source"), "from a file");
        var archive = new CpioWriter()
            .AddFileFrom("b/copied", folder.At("source"))
            .AddFile("a", "text"u8.ToArray(), 0x1ED)
            .AddSymlink("link", "/bin/busybox")
            .AddDirectory("empty")
            .AddCharacterDevice("dev/console", 5, 1)
            .ToArray();
        await File.WriteAllBytesAsync(folder.At("archive"), archive);

        var start = new ProcessStartInfo("/bin/sh", ["-c", "exec /usr/bin/cpio -tvn --quiet < \"$0\"", folder.At("archive")]) { RedirectStandardOutput = true };
        start.Environment["TZ"] = "UTC";
        start.Environment["LC_ALL"] = "C";
        using var cpio = Process.Start(start)!;
        var lines = (await cpio.StandardOutput.ReadToEndAsync()).Split('\n', StringSplitOptions.RemoveEmptyEntries);
        await cpio.WaitForExitAsync();

        Assert.Equal(0, cpio.ExitCode);
        Assert.Collection(lines,
            line => Assert.Matches(@"^-rwxr-xr-x +1 0 +0 +4 Jan +1 +1970 a$", line),
            line => Assert.Matches(@"^drwxr-xr-x +2 0 .* b$", line),
            line => Assert.Matches(@"^-rw-r--r-- +1 0 +0 +11 .* b/copied$", line),
            line => Assert.Matches(@"^drwxr-xr-x .* dev$", line),
            line => Assert.Matches(@"^crw------- +1 0 +0 +5, +1 .* dev/console$", line),
            line => Assert.Matches(@"^drwxr-xr-x .* empty$", line),
            line => Assert.Matches(@"^lrwxrwxrwx .* link -> /bin/busybox$", line));
    }

    [Theory]
    [InlineData("")]
    [InlineData("/etc/passwd")]
    [InlineData("../outside")]
    [InlineData("a/../../b")]
    [InlineData("a//b")]
    [InlineData("a/./b")]
    [InlineData("a/")]
    [InlineData("a\0b")]
    [InlineData("TRAILER!!!")]
    public void Refuses_hostile_names(string path)
    {
        Assert.Throws<ArgumentException>(() => new CpioWriter().AddFile(path, default));
        Assert.Throws<ArgumentException>(() => new CpioWriter().AddDirectory(path));
        Assert.Throws<ArgumentException>(() => new CpioWriter().AddSymlink(path, "x"));
    }

    [Fact]
    public void Refuses_what_an_archive_can_not_say()
    {
        Assert.Throws<ArgumentException>(() => new CpioWriter().AddFile(new string('a', 4096), default));
        Assert.Throws<ArgumentException>(() => new CpioWriter().AddFile("a", default).AddFile("a", default));
        Assert.Throws<ArgumentException>(() => new CpioWriter().AddSymlink("a", ""));
        Assert.Throws<ArgumentOutOfRangeException>(() => new CpioWriter().AddFile("a", default, 0x1000));
        Assert.Throws<InvalidOperationException>(() => new CpioWriter().AddFile("a", default).AddFile("a/b", default).ToArray());
    }

    [Fact]
    public void Two_archives_may_stand_behind_each_other()
    {
        byte[] both = [.. new CpioWriter().AddFile("a", "1"u8.ToArray()).ToArray(), .. new CpioWriter().AddFile("a", "22"u8.ToArray()).ToArray()];
        Assert.Equal(["1", "22"], Read(both).Select(entry => Encoding.UTF8.GetString(entry.Content)));
    }

    internal sealed record ReadEntry(string Path, int Mode, byte[] Content);

    /// <summary>A reader of its own, from the format's description, so that writer and reader can't share a mistake.</summary>
    internal static List<ReadEntry> Read(byte[] archive)
    {
        var entries = new List<ReadEntry>();
        var inodes = new HashSet<int>();
        for (var at = 0; at < archive.Length;)
        {
            Assert.Equal(0, at % 4);
            Assert.Equal("070701", Encoding.ASCII.GetString(archive, at, 6));
            var header = at;
            int Field(int index) => int.Parse(Encoding.ASCII.GetString(archive, header + 6 + 8 * index, 8), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
            var nameLength = Field(11);
            var name = Encoding.UTF8.GetString(archive, at + 110, nameLength - 1);
            Assert.Equal(0, archive[at + 110 + nameLength - 1]);
            var content = (at + 110 + nameLength + 3) / 4 * 4;
            var size = Field(6);
            at = (content + size + 3) / 4 * 4;
            if (name == "TRAILER!!!")
            {
                inodes.Clear();
                continue;
            }
            Assert.True(inodes.Add(Field(0)), "an inode number was used twice: the kernel would make a hard link");
            Assert.Equal(0, Field(5));
            entries.Add(new ReadEntry(name, Field(1), archive[content..(content + size)]));
        }
        return entries;
    }
}
