using Fleet.Host.Drivers;
using Fleet.Host.Images.Oci;

namespace Fleet.Host.Tests.Images.Oci;

/// <summary>What one tenant's pulls do to another's.</summary>
public sealed partial class ImageStoreTests
{
    [Fact]
    public async Task Two_images_are_unpacked_at_a_time_one_of_each_tenants()
    {
        string[] tenants = ["acme", "acme", "acme", "umbrella", "initech"];
        var registries = tenants.Select((_, i) => new FakeRegistry(TestImage.Of([new TarMaker().File($"file{i}", $"{i}").ToArray()]))).ToArray();
        using var goOn = new ManualResetEventSlim();
        using var umbrellaGoesOn = new ManualResetEventSlim();
        try
        {
            var store = Store();
            var watches = tenants.Select(tenant => new HeldUnpack(tenant == "umbrella" ? umbrellaGoesOn : goOn)).ToArray();
            Task<StoredImage> Pull(int i) => Task.Run(() => store.GetAsync(registries[i].Reference, tenants[i], watches[i], again: false, default));
            List<Task<StoredImage>> pulls = [Pull(0), Pull(1), Pull(2)];
            Assert.True(SpinWait.SpinUntil(() => watches.Take(3).All(watch => watch.IsHere) && Unpacking("acme") == 1, TimeSpan.FromSeconds(30)));

            // Whatever the one has begun and waits for, the other need not wait.
            pulls.Add(Pull(3));
            Assert.True(SpinWait.SpinUntil(() => Unpacking("umbrella") == 1, TimeSpan.FromSeconds(30)));
            pulls.Add(Pull(4));
            Assert.True(SpinWait.SpinUntil(() => watches[4].IsHere, TimeSpan.FromSeconds(30)));
            Assert.False(SpinWait.SpinUntil(() => watches.Count(watch => watch.Unpacks) > 2, TimeSpan.FromMilliseconds(300)));

            // Nor for more than one round.
            umbrellaGoesOn.Set();
            await pulls[3];
            Assert.True(SpinWait.SpinUntil(() => Unpacking("initech") == 1, TimeSpan.FromSeconds(30)));
            Assert.Equal(1, Unpacking("acme"));
            goOn.Set();
            await Task.WhenAll(pulls);
            Assert.All(watches, watch => Assert.True(watch.Unpacks));

            int Unpacking(string tenant) => watches.Where((watch, i) => tenants[i] == tenant && watch.Unpacks).Count();
        }
        finally
        {
            goOn.Set();
            umbrellaGoesOn.Set();
            foreach (var registry in registries) registry.Dispose();
        }
    }

    [Fact]
    public async Task What_several_tenants_want_at_once_is_fetched_and_made_once()
    {
        var image = TestImage.Small();
        using var registry = new FakeRegistry(image);
        using var goOn = new ManualResetEventSlim();
        var (one, other) = (new HeldUnpack(goOn), new HeldUnpack(goOn));
        var store = Store();
        var first = Task.Run(() => store.GetAsync(registry.Reference, "acme", one, again: false, default));
        Assert.True(SpinWait.SpinUntil(() => one.Unpacks, TimeSpan.FromSeconds(30)));
        var second = Task.Run(() => store.GetAsync(registry.Reference, "umbrella", other, again: false, default));
        Assert.True(SpinWait.SpinUntil(() => registry.Asked("/blobs/") == image.Layers.Count + 2, TimeSpan.FromSeconds(30)));
        goOn.Set();

        Assert.Equal((await first).Digest, (await second).Digest);
        Assert.All(image.Layers, layer => Assert.Equal(1, registry.Asked(layer)));
        Assert.False(other.Unpacks);
    }

    [Fact]
    public async Task Layers_that_were_refused_are_refused_again_without_a_look_unless_somebody_asks_for_it()
    {
        var hostile = TestImage.Of([new TarMaker().File("../out", "x").ToArray()]);
        using var registry = new FakeRegistry(hostile);
        // The same layers under another manifest's digest.
        registry.Tags["2"] = [.. hostile.Manifest, (byte)'\n'];
        var store = Store();
        var first = await Assert.ThrowsAsync<LaunchFailedException>(() => Get(store, registry.Reference));
        foreach (var (reference, tenant) in new[] { (registry.Reference, ""), (registry.Reference[..^1] + "2", "umbrella") })
        {
            var second = await Assert.ThrowsAsync<LaunchFailedException>(() => store.GetAsync(reference, tenant, null, again: false, default));
            Assert.Equal(("image_refused", first.Message), (second.Code, second.Message));
        }

        Assert.Equal(1, registry.Asked(hostile.Layers[0]));
        await Assert.ThrowsAsync<LaunchFailedException>(() => store.GetAsync(registry.Reference, "", null, again: true, default));
        Assert.Equal(2, registry.Asked(hostile.Layers[0]));
    }

    [Fact]
    public async Task What_the_image_is_not_to_blame_for_is_tried_again()
    {
        var image = TestImage.Big();
        var layer = image.Layers[0];
        using var registry = new FakeRegistry(image);
        var store = Store();

        // Bytes that a registry sends under another's digest.
        registry.Blobs[layer] = [.. image.Blobs[layer], 0];
        Assert.Equal("image_refused", await CodeOf(registry.Reference, store));

        // Bytes that went bad on this disk.
        File.WriteAllBytes(_folder.At("images", "layers", layer[7..]), [.. image.Blobs[layer][..^1], (byte)~image.Blobs[layer][^1]]);
        Assert.Equal("image_refused", await CodeOf(registry.Reference, store));
        registry.Blobs[layer] = image.Blobs[layer];
        Assert.Equal(image.Digest, (await Get(store, registry.Reference)).Digest);
    }

    [Fact]
    public void So_many_refusals_are_kept()
    {
        var refused = new RefusedRoots(2);
        foreach (var order in (string[])["a", "a", "b", "c"]) refused.Add(order, ImageFault.Refused(order));
        refused.ThrowIfKnown("a");
        Assert.Throws<LaunchFailedException>(() => refused.ThrowIfKnown("b"));
        Assert.Throws<LaunchFailedException>(() => refused.ThrowIfKnown("c"));
    }

    /// <summary>Keeps whoever unpacks at it until it may go on.</summary>
    private sealed class HeldUnpack(ManualResetEventSlim goOn) : IProgress<PullProgress>
    {
        public volatile bool IsHere, Unpacks;

        public void Report(PullProgress value)
        {
            if (value.Bytes == value.Total) IsHere = true;
            if (!value.Unpacking) return;
            Unpacks = true;
            goOn.Wait();
        }
    }
}
