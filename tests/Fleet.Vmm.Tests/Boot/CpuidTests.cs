using Fleet.Vmm.Boot;
using Fleet.Vmm.Kvm;

namespace Fleet.Vmm.Tests.Boot;

public sealed class CpuidTests
{
    private const uint Intel = 0x756e6547;
    private const uint Amd = 0x68747541;

    [Theory]
    [InlineData(Intel)]
    [InlineData(Amd)]
    public void Should_show_hypervisor_and_deadline_timer_always(uint vendor)
    {
        var entry = Find(new Cpuid(Host(vendor), 1).For(0), 1);
        Assert.Equal((1u << 31) | (1u << 24), entry.Ecx & ((1u << 31) | (1u << 24)));
        Assert.Equal(0u, entry.Ecx & (1u << 15));
        Assert.Equal(0u, entry.Edx & (1u << 28));
    }

    [Fact]
    public void Should_number_the_processors()
    {
        var cpuid = new Cpuid(Host(Amd), 6);
        for (uint i = 0; i < 6; i++)
        {
            var entries = cpuid.For((int)i);
            Assert.Equal(i, Find(entries, 1).Ebx >> 24);
            Assert.Equal(8u, (Find(entries, 1).Ebx >> 16) & 0xff);
            Assert.Equal(1u << 28, Find(entries, 1).Edx & (1u << 28));
            Assert.Equal(i, Find(entries, 0xb).Edx);
            Assert.Equal(6u, Find(entries, 0xb, 1).Ebx);
            Assert.Equal(i, Find(entries, 0xb, 1).Edx);
            Assert.Equal(i, Find(entries, 0x8000001e).Eax);
            Assert.Equal(i, Find(entries, 0x8000001e).Ebx);
            Assert.Equal(5u, Find(entries, 0x80000008).Ecx & 0xff);
        }
    }

    [Fact]
    public void Should_replace_the_hosts_topology()
    {
        var entries = new Cpuid(Host(Intel), 4).For(0);
        Assert.Equal(1, Count(entries, 0xb, 0));
        Assert.Equal(1, Count(entries, 0xb, 1));
        Assert.Equal(0, Count(entries, 0x1f, 0));
        Assert.Equal(3u, Find(entries, 4).Eax >> 26);
        Assert.Equal(0u, Find(entries, 0xa).Eax);
    }

    [Fact]
    public void Should_tell_the_address_bits()
    {
        Assert.Equal(40, new Cpuid(Host(Amd), 1).PhysicalAddressBits);
        Assert.Equal(36, new Cpuid([new() { Function = 0, Eax = 1, Ebx = Intel }, new() { Function = 1 }], 1).PhysicalAddressBits);
    }

    private static KvmCpuidEntry[] Host(uint vendor) =>
    [
        new() { Function = 0, Eax = 0x1f, Ebx = vendor },
        new() { Function = 1, Ebx = 0x07400800, Ecx = 1 << 15, Edx = 1 << 28 },
        new() { Function = 4, Index = 0, Flags = 1, Eax = 0xfc004121 },
        new() { Function = 0xa, Eax = 0x07300404 },
        new() { Function = 0xb, Index = 0, Flags = 1, Eax = 1, Ebx = 2, Ecx = 0x100, Edx = 77 },
        new() { Function = 0xb, Index = 1, Flags = 1, Eax = 6, Ebx = 64, Ecx = 0x201, Edx = 77 },
        new() { Function = 0x1f, Index = 0, Flags = 1, Eax = 1 },
        new() { Function = 0x80000001 },
        new() { Function = 0x80000008, Eax = 0x3028, Ecx = 0x703f },
        new() { Function = 0x8000001d, Eax = 0x4121 },
        new() { Function = 0x8000001e, Eax = 99, Ebx = 0x199, Ecx = 0x103 },
    ];

    private static KvmCpuidEntry Find(ReadOnlySpan<KvmCpuidEntry> entries, uint function, uint index = 0)
    {
        foreach (var entry in entries)
        {
            if (entry.Function == function && entry.Index == index)
            {
                return entry;
            }
        }

        throw new InvalidOperationException($"no leaf 0x{function:x}");
    }

    private static int Count(ReadOnlySpan<KvmCpuidEntry> entries, uint function, uint index)
    {
        var count = 0;
        foreach (var entry in entries)
        {
            count += entry.Function == function && entry.Index == index ? 1 : 0;
        }

        return count;
    }
}
