using Fleet.Vmm.Boot;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Tests.Boot;

public sealed class BootArgumentsTests
{
    [Theory]
    [InlineData("", false, "reboot=k panic=1 pci=off")]
    [InlineData("", true, "reboot=k panic=1 pci=off 8250.nr_uarts=2")]
    [InlineData("console=ttyS0 quiet ", false, "console=ttyS0 quiet reboot=k panic=1 pci=off")]
    [InlineData("panic=5 reboot=t", false, "panic=5 reboot=t pci=off")]
    [InlineData("8250.nr-uarts=0 pci=conf1", true, "8250.nr-uarts=0 pci=conf1 reboot=k panic=1")]
    [InlineData("reboot", false, "reboot panic=1 pci=off")]
    [InlineData("xpanic=1", false, "xpanic=1 reboot=k panic=1 pci=off")]
    [InlineData("a -- panic=7 --", false, "a reboot=k panic=1 pci=off -- panic=7 --")]
    [InlineData("a=\"x -- panic=7\"", false, "a=\"x -- panic=7\" reboot=k panic=1 pci=off")]
    public void Should_add_only_what_is_missing(string given, bool statusPort, string expected) =>
        Assert.Equal(expected, CommandLine.Complete(given, statusPort, []));

    [Fact]
    public void Should_say_where_the_devices_are_before_the_arguments_of_init() => Assert.Equal(
        "a reboot=k panic=1 pci=off virtio_mmio.device=4K@0xc0001000:5 virtio_mmio.device=4K@0xc0002000:6 -- b",
        CommandLine.Complete("a -- b", false, [new(0xc0001000, 5), new(0xc0002000, 6)]));

    [Fact]
    public void Should_write_it_with_its_end()
    {
        using var memory = new GuestMemory(1 << 20);
        memory.Slice(GuestLayout.CommandLine, 16).Fill(0xff);
        CommandLine.Write(memory, "a b", 2047);
        Assert.True(memory.Slice(GuestLayout.CommandLine, 5).SequenceEqual((ReadOnlySpan<byte>)[(byte)'a', (byte)' ', (byte)'b', 0, 0xff]));
    }

    [Theory]
    [InlineData("a\0b")]
    [InlineData("a\nb")]
    [InlineData("ä")]
    [InlineData("12345678901")]
    public void Should_refuse_what_the_kernel_would_misread(string line)
    {
        using var memory = new GuestMemory(1 << 20);
        Assert.Equal(MachineFault.BootArgsInvalid, Assert.Throws<MachineException>(() => CommandLine.Write(memory, line, 10)).Fault);
    }
}
