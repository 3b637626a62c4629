using System.Diagnostics;
using System.Formats.Tar;
using Fleet.Host.Drivers;
using Fleet.Host.Images;
using Xunit;

namespace Fleet.Host.Tests.Images;

public sealed class DebPackageTests : IDisposable
{
    private readonly TestFolder _folder = new();

    private string Deb => _folder.At("test.deb");

    private string Target => _folder.At("target");

    [Fact]
    public async Task Gives_files_with_their_content_and_mode()
    {
        Debs.Write(Deb, tar =>
        {
            Debs.Add(tar, "./bin/tool", "#!/bin/sh\n", (UnixFileMode)0x1ED);
            Debs.Add(tar, "./empty", "");
            Debs.Add(tar, "./" + new string('d', 120) + "/long", "x");
        });

        var written = await new DebPackage(Deb).ExtractAsync(Target, path => path == "empty" ? null : "sub/" + path, default);

        Assert.Equal(["sub/bin/tool", $"sub/{new string('d', 120)}/long"], written);
        Assert.Equal("#!/bin/sh\n", await File.ReadAllTextAsync(Path.Combine(Target, "sub/bin/tool")));
        Assert.True(OperatingSystem.IsLinux() && (File.GetUnixFileMode(Path.Combine(Target, "sub/bin/tool")) & UnixFileMode.UserExecute) != 0);
    }

    [Theory]
    [InlineData("../outside")]
    [InlineData("./a/../../outside")]
    [InlineData("/outside")]
    [InlineData("a//b")]
    public async Task Refuses_names_that_lead_out(string name)
    {
        Debs.Write(Deb, tar => Debs.Add(tar, name, "x"));
        await RefusedAsync("leads out of the package");
        Assert.False(File.Exists(_folder.At("outside")));
    }

    [Fact]
    public async Task Never_writes_through_a_link()
    {
        Debs.Write(Deb, tar =>
        {
            Debs.AddLink(tar, TarEntryType.SymbolicLink, "./door", _folder.Path);
            Debs.AddLink(tar, TarEntryType.HardLink, "./hard", "/etc/passwd");
            Debs.Add(tar, "./door/outside", "x");
        });

        var written = await new DebPackage(Deb).ExtractAsync(Target, path => path, default);

        Assert.Equal(["door/outside"], written);
        Assert.False(File.Exists(_folder.At("outside")));
        Assert.False(File.Exists(Path.Combine(Target, "hard")));
    }

    [Fact]
    public async Task Refuses_a_file_that_comes_twice()
    {
        Debs.Write(Deb, tar =>
        {
            Debs.Add(tar, "./a", "1");
            Debs.Add(tar, "./a", "2");
        });
        await RefusedAsync("can't be unpacked");
    }

    [Fact]
    public async Task Refuses_more_than_its_limits()
    {
        Debs.Write(Deb, tar =>
        {
            for (var i = 0; i < 5; i++) Debs.Add(tar, $"./{i}", new string('x', 100));
        });
        await RefusedAsync("unpacks to more than", new DebLimits(4, 10_000));
        Directory.Delete(Target, recursive: true);
        await RefusedAsync("unpacks to more than", new DebLimits(100, 499));
        Directory.Delete(Target, recursive: true);
        Assert.Equal(5, (await new DebPackage(Deb, new DebLimits(5, 500)).ExtractAsync(Target, path => path, default)).Count);
    }

    [Fact]
    public async Task Refuses_what_is_not_a_package()
    {
        await RefusedAsync("does not exist");
        await File.WriteAllTextAsync(Deb, "not a package");
        await RefusedAsync("dpkg-deb: error");
        Debs.Write(Deb, tar => Debs.Add(tar, "./a", new string('x', 100_000)));
        var bytes = await File.ReadAllBytesAsync(Deb);
        await File.WriteAllBytesAsync(Deb, bytes[..(bytes.Length / 2)]);
        await RefusedAsync("can't be read");
    }

    [Fact]
    public async Task Stopping_early_leaves_no_process()
    {
        Debs.Write(Deb, tar =>
        {
            for (var i = 0; i < 200; i++) Debs.Add(tar, $"./{i}", new string('x', 10_000));
        });
        await foreach (var entry in new DebPackage(Deb).ReadAsync(default))
        {
            Assert.Equal("0", entry.Path);
            break;
        }
        // dpkg-deb is ended; its own children end by that, in a moment.
        var patience = Stopwatch.StartNew();
        while (Directory.GetDirectories("/proc").Where(path => int.TryParse(Path.GetFileName(path), out _)).Any(ReadsOurPackage))
        {
            Assert.True(patience.Elapsed < TimeSpan.FromSeconds(10), "A process still reads the package.");
            await Task.Delay(20);
        }
    }

    public void Dispose() => _folder.Dispose();

    private bool ReadsOurPackage(string process)
    {
        try
        {
            return File.ReadAllText(process + "/cmdline").Contains(Deb, StringComparison.Ordinal);
        }
        catch (IOException)
        {
            return false; // it ended meanwhile
        }
    }

    private async Task RefusedAsync(string reason, DebLimits? limits = null)
    {
        var error = await Assert.ThrowsAsync<LaunchFailedException>(() => new DebPackage(Deb, limits).ExtractAsync(Target, path => path, default));
        Assert.Equal("image_unavailable", error.Code);
        Assert.Contains(reason, error.Message, StringComparison.Ordinal);
    }
}
