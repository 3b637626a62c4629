using System.Diagnostics;
using System.Text;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Images.Oci;

namespace Fleet.Host.Tests.Images.Oci;

/// <summary>What goes for what, on a disk and in a store that have only so much room.</summary>
public sealed partial class ImageStoreTests
{
    [Fact]
    public async Task Room_is_made_of_what_nothing_uses_and_of_nothing_else()
    {
        var big = TestImage.Big();
        using var first = new FakeRegistry(big);
        using var second = new FakeRegistry(TestImage.Of([new TarMaker().File("other", new byte[4000]).ToArray()]));
        var clock = new SetClock();
        var store = Store(Quick with { Clock = clock, MaxBytes = 3 << 20 });
        // Its layer alone does not fit.
        Assert.Equal("image_no_space", await CodeOf(first.Reference, store));
        Assert.Equal(0, first.Asked(big.Layers[0]));

        // Its layer and its root do.
        store = Store(Quick with { Clock = clock, MaxBytes = 7 << 20 });
        var image = await Get(store, first.Reference);
        var link = _folder.At("root.squashfs");
        Posix.Link(store.RootOf(image), link);
        clock.Now += TimeSpan.FromHours(1);
        store = Store(Quick with { Clock = clock, MaxBytes = 3_300_000 });
        await Get(store, second.Reference);
        Assert.True(File.Exists(store.RootOf(image)), "a root in use went");
        Assert.DoesNotContain(Files("layers"), file => new FileInfo(file).Length > 1 << 20);
        clock.Now += TimeSpan.FromHours(1);
        File.Delete(link);
        using var third = new FakeRegistry(TestImage.Of([new TarMaker().File("third", new byte[400_000]).ToArray()]));
        store = Store(Quick with { Clock = clock, MaxBytes = 1 << 20 });
        await Get(store, third.Reference);
        Assert.False(File.Exists(store.RootOf(image)), "an unused root stayed");
    }

    [Theory]
    [InlineData("_/data")]
    [InlineData(".making/0123")]
    public async Task What_volumes_may_still_grow_to_is_not_taken_for_images(string volume)
    {
        using var registry = new FakeRegistry(TestImage.Big());
        var folder = Directory.CreateDirectory(_folder.At("volumes", volume)).FullName;
        using (var disk = File.OpenHandle(Path.Combine(folder, "disk"), FileMode.CreateNew, FileAccess.ReadWrite))
            RandomAccess.SetLength(disk, new DriveInfo(folder).AvailableFreeSpace + (1L << 30));
        Assert.Equal("image_no_space", await CodeOf(registry.Reference));
        Assert.Empty(Files("layers"));
        Directory.Delete(folder, recursive: true);
        await Get(Store(), registry.Reference);
    }

    [Theory]
    [InlineData(100, "image_no_space")]
    [InlineData(9, "registry_unavailable")]
    public async Task Nothing_is_removed_for_a_layer_that_only_claims_to_be_long(int mebibytes, string code)
    {
        using var kept = new FakeRegistry(TestImage.Big());
        var clock = new SetClock();
        await Get(Store(Quick with { Clock = clock }), kept.Reference);
        clock.Now += TimeSpan.FromHours(1);
        var before = Files("layers").Concat(Files("roots")).Order().ToArray();
        Assert.Equal(2, before.Length);
        // The first is more than there is room for, whatever goes; the second would fit in the place of what is here, and never comes.
        using var registry = new FakeRegistry(TestImage.Of([new TarMaker().File("a", "x").ToArray()], change: manifest => manifest["layers"]![0]!["size"] = (long)mebibytes << 20));

        Assert.Equal(code, await CodeOf(registry.Reference, Store(Quick with { Clock = clock, MaxBytes = 13 << 20 })));

        Assert.Equal(before, Files("layers").Concat(Files("roots")).Where(file => !file.EndsWith(".part", StringComparison.Ordinal)).Order());
    }

    [Fact]
    public async Task What_unpacks_to_more_than_there_is_room_for_ends_while_it_is_written()
    {
        // Compresses well: that it does not fit shows only when it is unpacked.
        var text = Encoding.ASCII.GetBytes(string.Concat(Enumerable.Repeat("fleet ", 4_000_000)));
        using var registry = new FakeRegistry(TestImage.Of([new TarMaker().File("text", text).ToArray()]));
        Assert.Equal("image_no_space", await CodeOf(registry.Reference, Store(Quick with { MaxBytes = 10 << 20 })));
        Assert.Empty(Files("roots"));
        Assert.Empty(Files("names"));
        await Get(Store(), registry.Reference);
    }

    [SkippableFact]
    public async Task A_disk_that_another_fills_in_the_middle_of_a_pull_ends_it_and_the_next_one_goes_on()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "a disk of its own takes root");
        Directory.CreateDirectory(_folder.At("disk"));
        Run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", _folder.At("disk"));
        try
        {
            var image = TestImage.Big();
            using var registry = new FakeRegistry(image);
            var layer = image.Blobs.MaxBy(blob => blob.Value.Length).Key;
            registry.Fault = context =>
            {
                if (context.Request.RawUrl!.Contains(layer, StringComparison.Ordinal) && !File.Exists(_folder.At("disk", "others"))) Fill(_folder.At("disk", "others"));
                return false;
            };
            var store = new ImageStore(_folder.At("disk", "images"), Quick with { KeptFree = 0 });
            Assert.Equal("image_no_space", await CodeOf(registry.Reference, store));
            Assert.Empty(store.List());
            Assert.Empty(Directory.GetFiles(_folder.At("disk", "images", "roots")));
            File.Delete(_folder.At("disk", "others"));
            registry.Fault = _ => false;
            Assert.Equal(image.Digest, (await Get(store, registry.Reference)).Digest);
        }
        finally
        {
            Run("umount", _folder.At("disk"));
        }

        static void Run(string program, params string[] arguments)
        {
            using var process = Process.Start(program, arguments);
            process.WaitForExit();
            Assert.Equal(0, process.ExitCode);
        }

        static void Fill(string path)
        {
            using var file = File.OpenHandle(path, FileMode.Create, FileAccess.Write);
            var block = new byte[4096];
            try
            {
                for (long at = 0; ; at += block.Length) RandomAccess.Write(file, block, at);
            }
            catch (IOException)
            {
                // It is full.
            }
        }
    }
}
