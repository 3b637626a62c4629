using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;

namespace Fleet.Host.Tests.Drivers;

public sealed class PublicFileTests : IDisposable
{
    private readonly Scratch _scratch = new();

    public void Dispose() => _scratch.DisposeAsync().AsTask().GetAwaiter().GetResult();

    private string Write(string name, string text = "content", int mode = 0x1a4) // 0644
    {
        var path = Path.Combine(_scratch.Folder, name);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        File.WriteAllText(path, text);
        File.SetUnixFileMode(path, (UnixFileMode)mode);
        return path;
    }

    private static string Read(string path)
    {
        using var file = PublicFile.Open(path, "kernel", "kernel_missing");
        return new StreamReader(file).ReadToEnd();
    }

    [SkippableFact]
    public void Should_open_what_everybody_may_read_and_nothing_else()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "only root may read what others may not");
        Assert.Equal("content", Read(Write("open")));
        var secret = Write("secret", mode: 0x180); // 0600
        var group = Write("group", mode: 0x1a0); // 0640
        var below = Write("closed/below");
        File.SetUnixFileMode(Path.GetDirectoryName(below)!, (UnixFileMode)0x1c0); // 0700
        var link = Path.Combine(_scratch.Folder, "link");
        File.CreateSymbolicLink(link, secret);
        var fifo = Path.Combine(_scratch.Folder, "fifo");
        Posix.MakeFifo(fifo);
        File.SetUnixFileMode(fifo, (UnixFileMode)0x1b6); // 0666

        // Nobody learns which of them it was.
        foreach (var path in new[] { secret, group, below, link, fifo, "/dev/zero", _scratch.Folder, _scratch.Folder + "/none", "/proc/1/environ" })
        {
            var refused = Assert.Throws<LaunchFailedException>(() => Read(path));
            Assert.Equal("kernel_missing", refused.Code);
            Assert.StartsWith($"On this host there is no kernel {path} that everybody may read.", refused.Message, StringComparison.Ordinal);
        }

        // Only the thread that opened it had become nobody.
        Assert.Equal("content", File.ReadAllText(secret));
    }

    /// <summary>What was looked at is what a VMM boots, also when the path leads elsewhere by then.</summary>
    [Fact]
    public void Should_keep_the_file_that_was_opened()
    {
        var path = Write("kernel", "looked at");
        using var file = PublicFile.Open(path, "kernel", "kernel_missing");
        File.Delete(path);
        File.CreateSymbolicLink(path, "/etc/passwd");
        Assert.Equal("looked at", File.ReadAllText(PublicFile.PathOf(file)));
    }

    [SkippableFact]
    public async Task Should_boot_nothing_that_is_not_for_everybody()
    {
        var driver = new QemuDriver(Scratch.Options());
        Skip.IfNot((await driver.ProbeAsync(default)).Usable && Environment.IsPrivilegedProcess, "needs QEMU and root");
        var launch = _scratch.Launch(TinyKernel.Ready());
        launch.Spec.Boot.InitrdPath = Write("initrd", mode: 0x180); // 0600
        var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => driver.LaunchAsync(launch, default));
        Assert.Equal("initrd_missing", refused.Code);
    }
}
