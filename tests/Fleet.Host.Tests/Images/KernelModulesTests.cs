using Fleet.Host.Drivers;
using Fleet.Host.Images;
using Xunit;

namespace Fleet.Host.Tests.Images;

public sealed class KernelModulesTests
{
    private static readonly KernelModules Modules = KernelModules.Parse("6.1.0-test", "/root-of", "lib/modules/6.1.0-test",
    [
        "kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko",
        "kernel/drivers/virtio/virtio_ring.ko:",
        "kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko",
        "kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko",
        "kernel/net/core/failover.ko:",
        "kernel/drivers/char/hw_random/virtio-rng.ko.xz: kernel/drivers/virtio/virtio.ko",
        "kernel/loop/a.ko: kernel/loop/b.ko",
        "kernel/loop/b.ko: kernel/loop/a.ko",
    ],
    ["kernel/fs/ext4/ext4.ko", ""]);

    [Fact]
    public void Each_module_stands_behind_what_it_needs()
    {
        var order = Modules.InLoadOrder("virtio_net", "virtio_rng").Select(module => module.Name).ToList();

        Assert.Equal(6, order.Count);
        Assert.Equal(order.Count, order.Distinct().Count());
        foreach (var (first, later) in new[] { ("virtio_ring", "virtio"), ("failover", "net_failover"), ("net_failover", "virtio_net"), ("virtio", "virtio_net"), ("virtio", "virtio_rng") })
            Assert.True(order.IndexOf(first) < order.IndexOf(later), $"{first} must come before {later}");
    }

    [Fact]
    public void Names_may_be_written_both_ways_and_paths_are_told()
    {
        var module = Modules.InLoadOrder("virtio-rng")[^1];
        Assert.Equal(new KernelModule("virtio_rng", "lib/modules/6.1.0-test/kernel/drivers/char/hw_random/virtio-rng.ko.xz",
            "/root-of/lib/modules/6.1.0-test/kernel/drivers/char/hw_random/virtio-rng.ko.xz"), module);
    }

    [Fact]
    public void What_is_built_in_needs_no_file() => Assert.Empty(Modules.InLoadOrder("ext4"));

    [Fact]
    public void A_circle_ends() => Assert.Equal(2, Modules.InLoadOrder("a").Count);

    [Fact]
    public void A_module_that_is_nowhere_is_an_error_that_names_it()
    {
        var error = Assert.Throws<LaunchFailedException>(() => Modules.InLoadOrder("virtio", "floppy"));
        Assert.Equal("image_unavailable", error.Code);
        Assert.Contains("floppy", error.Message, StringComparison.Ordinal);
    }
}
