using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Text;
using System.Text.Json;
using Fleet.Host.Drivers;
using Fleet.Host.Images;
using Serilog;
using Serilog.Core;
using Serilog.Events;
using Xunit;

namespace Fleet.Host.Tests.Images;

public sealed class DefaultImageStoreTests : IDisposable
{
    private readonly TestFolder _folder = new();
    private readonly FakeDistribution _distribution;

    public DefaultImageStoreTests()
    {
        _distribution = new FakeDistribution(_folder);
        File.WriteAllText(_folder.At("fleet-init"), "the init");
    }

    private string Images => _folder.At("cache", "default");

    [Fact]
    public async Task Makes_the_image_once_and_keeps_it()
    {
        var image = await MakeAsync();
        Assert.Equal("kernel 1", await File.ReadAllTextAsync(image.KernelPath));
        var entries = CpioWriterTests.Read(await File.ReadAllBytesAsync(image.InitrdPath)).ToDictionary(entry => entry.Path);
        Assert.Equal("the init", Encoding.UTF8.GetString(entries["init"].Content));
        Assert.Equal(0x81ED, entries["init"].Mode);
        Assert.Equal("/bin/busybox", Encoding.UTF8.GetString(entries["usr/bin/awk"].Content));
        Assert.DoesNotContain("sbin/init", entries.Keys);
        Assert.Contains("lib/modules/6.1.0-test/modules.dep", entries.Keys);

        Assert.Equal(image, await MakeAsync());
        Assert.Equal([$"{FakeDistribution.KernelName}=1", "busybox-static=1:1.0"], _distribution.Downloads);
        AssertNothingLeft();
    }

    [Fact]
    public async Task The_same_ingredients_give_the_same_bytes()
    {
        var first = await File.ReadAllBytesAsync((await MakeAsync()).InitrdPath);
        Directory.Delete(Images, recursive: true);
        Assert.Equal(first, await File.ReadAllBytesAsync((await MakeAsync()).InitrdPath));
    }

    [Fact]
    public async Task Many_at_once_make_one()
    {
        // A store each, as in separate processes; and one store asked many times.
        using var shared = Store();
        var images = await Task.WhenAll(Enumerable.Range(0, 8).Select(i => i % 2 == 0 ? MakeAsync() : shared.GetDefaultAsync(default)));
        Assert.Single(images.Distinct());
        Assert.Equal(2, _distribution.Downloads.Count);
        AssertNothingLeft();
    }

    [Fact]
    public async Task A_new_kernel_or_init_gives_a_new_image_and_old_ones_go()
    {
        var first = await MakeAsync();
        _distribution.PublishKernel("2");
        var second = await MakeAsync();
        Assert.Equal("kernel 2", await File.ReadAllTextAsync(second.KernelPath));
        Assert.True(File.Exists(first.KernelPath), "a launch may still be reading the image before");

        await File.WriteAllTextAsync(_folder.At("fleet-init"), "another init");
        var third = await MakeAsync();
        Assert.Equal(3, new[] { first, second, third }.Distinct().Count());
        Assert.False(File.Exists(first.KernelPath));
    }

    [Fact]
    public async Task What_a_killed_process_left_does_no_harm()
    {
        Directory.CreateDirectory(Path.Combine(Images, ".making-dead", "image"));
        await File.WriteAllTextAsync(Path.Combine(Images, ".making-dead", "image", "vmlinuz"), "half a ker");
        Directory.CreateDirectory(_folder.At("cache", "packages", ".download-dead"));
        await File.WriteAllTextAsync(_folder.At("cache", "packages", $"{FakeDistribution.KernelName}_1.deb"), "half a package");

        Assert.Equal("kernel 1", await File.ReadAllTextAsync((await MakeAsync()).KernelPath));
        AssertNothingLeft();
    }

    [Fact]
    public async Task Leftovers_beside_a_finished_image_go_too()
    {
        await MakeAsync();
        Directory.CreateDirectory(Path.Combine(Images, ".making-dead", "work"));
        await MakeAsync();
        AssertNothingLeft();
    }

    [Fact]
    public async Task Packages_that_nobody_asks_for_do_not_pile_up()
    {
        Directory.CreateDirectory(_folder.At("cache", "packages"));
        foreach (var (name, age) in new[] { ("old", 31), ("young", 29) })
        {
            await File.WriteAllTextAsync(_folder.At("cache", "packages", $"{name}_1.deb"), "");
            File.SetLastWriteTimeUtc(_folder.At("cache", "packages", $"{name}_1.deb"), DateTime.UtcNow.AddDays(-age));
        }
        await MakeAsync();
        Assert.False(File.Exists(_folder.At("cache", "packages", "old_1.deb")));
        Assert.True(File.Exists(_folder.At("cache", "packages", "young_1.deb")));
    }

    [Fact]
    public async Task An_initrd_that_can_not_be_written_leaves_nothing()
    {
        using var store = Store();
        var image = await store.GetDefaultAsync(default);
        using var cancelled = new CancellationTokenSource();
        await cancelled.CancelAsync();
        var run = new GuestRun([], new Dictionary<string, string>(), "h");
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => store.WriteInitrdAsync(image, run, _folder.At("initrd"), cancelled.Token));
        Assert.False(File.Exists(_folder.At("initrd")));

        File.Delete(image.InitrdPath);
        var error = await Assert.ThrowsAsync<LaunchFailedException>(() => store.WriteInitrdAsync(image, run, _folder.At("initrd"), default));
        Assert.Equal("image_unavailable", error.Code);
    }

    [SkippableFact]
    public async Task Waits_for_another_process_and_goes_on_when_that_is_killed()
    {
        Skip.IfNot(File.Exists("/usr/bin/flock"), "flock is not installed");
        Directory.CreateDirectory(Images);
        var held = _folder.At("held");
        using var other = Process.Start("/usr/bin/flock", ["-o", "-x", Path.Combine(Images, "lock"), "sh", "-c", $"touch '{held}'; exec sleep 600"]);
        try
        {
            await UntilAsync(() => File.Exists(held));
            var said = new Sayings();
            using var log = new LoggerConfiguration().WriteTo.Sink(said).CreateLogger();
            using var store = Store(log);
            var making = store.GetDefaultAsync(default);
            await UntilAsync(() => making.IsCompleted || said.Contains("Waiting for another process"));
            Assert.False(making.IsCompleted);
            Assert.Empty(_distribution.Downloads);
            other.Kill(entireProcessTree: true);
            Assert.Equal("kernel 1", await File.ReadAllTextAsync((await making).KernelPath));
        }
        finally
        {
            other.Kill(entireProcessTree: true);
            await other.WaitForExitAsync();
        }
    }

    [Fact]
    public async Task A_download_is_tried_again()
    {
        _distribution.FailNextDownloads(2);
        await MakeAsync();
        Assert.Equal(4, _distribution.Downloads.Count);
    }

    [Fact]
    public async Task Errors_say_what_to_do()
    {
        _distribution.FailNextDownloads(100);
        await FailsAsync("the mirror is on fire");
        AssertNothingLeft();

        _distribution.FailNextDownloads(0);
        _distribution.Tamper("busybox-static");
        await FailsAsync("another hash");
        AssertNothingLeft();

        _distribution.ForgetIndex();
        await FailsAsync("apt-get update");

        File.Delete(_folder.At("fleet-init"));
        await FailsAsync("fleet-init is not at");
    }

    [Fact]
    public async Task An_image_that_is_there_outlives_its_package_index()
    {
        var image = await MakeAsync();
        _distribution.ForgetIndex();
        Assert.Equal(image, await MakeAsync());
    }

    [Fact]
    public async Task A_cancelled_caller_leaves_nothing()
    {
        using var cancelled = new CancellationTokenSource();
        await cancelled.CancelAsync();
        using var store = Store();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => store.GetDefaultAsync(cancelled.Token));
        Assert.NotNull(await store.GetDefaultAsync(default));
        AssertNothingLeft();
    }

    [Fact]
    public async Task The_initrd_of_a_microvm_carries_its_run_json()
    {
        using var store = Store();
        var image = await store.GetDefaultAsync(default);
        var run = new GuestRun(["sh", "-c", "a \"b\"\n", "", "ünïcode 🚀"], new Dictionary<string, string> { ["K"] = "V" }, "hello");
        await store.WriteInitrdAsync(image, run, _folder.At("initrd"), default);

        var shared = await File.ReadAllBytesAsync(image.InitrdPath);
        var initrd = await File.ReadAllBytesAsync(_folder.At("initrd"));
        Assert.Equal(shared, initrd[..shared.Length]);
        var entry = CpioWriterTests.Read(initrd[shared.Length..])[^1];
        Assert.Equal("fleet/run.json", entry.Path);
        Assert.Equal(0x8100, entry.Mode);
        using var json = JsonDocument.Parse(entry.Content);
        Assert.Equal(run.Argv, json.RootElement.GetProperty("argv").EnumerateArray().Select(item => item.GetString()));
        Assert.Equal("V", json.RootElement.GetProperty("env").GetProperty("K").GetString());
        Assert.Equal("hello", json.RootElement.GetProperty("hostname").GetString());
    }

    public void Dispose() => _folder.Dispose();

    private DefaultImageStore Store(ILogger? log = null) =>
        new(new ImageOptions(_folder.At("cache"), _folder.At("fleet-init")), log ?? Logger.None, _distribution.Commands);

    private async Task<BootImage> MakeAsync()
    {
        using var store = Store();
        return await store.GetDefaultAsync(default);
    }

    private async Task FailsAsync(string reason)
    {
        var error = await Assert.ThrowsAsync<LaunchFailedException>(MakeAsync);
        Assert.Equal("image_unavailable", error.Code);
        Assert.Contains(reason, error.Message, StringComparison.Ordinal);
    }

    private void AssertNothingLeft()
    {
        Assert.Empty(Directory.Exists(Images) ? Directory.GetDirectories(Images, ".*") : []);
        Assert.Empty(Directory.GetDirectories(_folder.At("cache", "packages"), ".*"));
    }

    private static async Task UntilAsync(Func<bool> condition)
    {
        var started = Stopwatch.StartNew();
        while (!condition())
        {
            Assert.True(started.Elapsed < TimeSpan.FromSeconds(20), "the condition did not come true within 20 s");
            await Task.Delay(10);
        }
    }

    private sealed class Sayings : ILogEventSink
    {
        private readonly ConcurrentQueue<string> _lines = new();

        public void Emit(LogEvent logEvent) => _lines.Enqueue(logEvent.RenderMessage(CultureInfo.InvariantCulture));

        public bool Contains(string words) => _lines.Any(line => line.Contains(words, StringComparison.Ordinal));
    }
}
