using CsCheck;
using Fleet.Vmm.Boot;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Tests.Memory;

public sealed class GuestMemoryTests
{
    private const ulong Gibibyte = 1UL << 30;

    [Fact]
    public void Should_leave_a_hole_between_3_and_4_gib()
    {
        using var memory = new GuestMemory(5 * Gibibyte);
        Assert.Equal(new MemoryRange(0, 3 * Gibibyte), memory.Low);
        Assert.Equal(new MemoryRange(4 * Gibibyte, 2 * Gibibyte), memory.High);
        Assert.True(IsInside(memory, 3 * Gibibyte - 1, 1));
        Assert.False(IsInside(memory, 3 * Gibibyte, 1));
        Assert.False(IsInside(memory, 3 * Gibibyte - 1, 2));
        Assert.False(IsInside(memory, 4 * Gibibyte - 1, 1));
        Assert.True(IsInside(memory, 4 * Gibibyte + 1, int.MaxValue));
        Assert.False(IsInside(memory, 4 * Gibibyte + 2, int.MaxValue));
        memory.WriteUInt64(6 * Gibibyte - 8, 0x1122334455667788);
        Assert.Equal(0x88, memory.Slice(6 * Gibibyte - 8, 1)[0]);
    }

    [Theory]
    [InlineData(16UL << 20, 1)]
    [InlineData((16UL << 20) - 1, 2)]
    [InlineData(ulong.MaxValue, 1)]
    [InlineData(ulong.MaxValue - 3, 8)]
    [InlineData(0UL, (16 << 20) + 1)]
    [InlineData(4UL << 30, 0)]
    public void Should_refuse_what_is_outside(ulong address, int length)
    {
        using var memory = new GuestMemory(16 << 20);
        Assert.Throws<GuestMemoryException>(() => memory.Slice(address, length));
    }

    [Fact]
    public void Should_answer_as_arithmetic_without_limits_does()
    {
        using var memory = new GuestMemory(3 * Gibibyte + (64 << 20));
        var edges = new ulong[] { 0, 1, 0xfff, memory.Low.End, memory.High.Start, memory.High.End, 1UL << 63, ulong.MaxValue };
        var near = Gen.Select(Gen.Int[0, edges.Length - 1].Select(i => edges[i]), Gen.ULong[0, 4096], Gen.Bool, (edge, delta, up) => up ? edge + delta : edge - delta);
        Gen.Select(Gen.OneOf(near, Gen.ULong), Gen.OneOf(Gen.Int[0, 8192], Gen.Int[0, int.MaxValue])).Sample((address, length) =>
        {
            var end = (UInt128)address + (uint)length;
            var inside = (address < memory.Low.End && end <= memory.Low.End)
                || (address >= memory.High.Start && address < memory.High.End && end <= memory.High.End);
            Assert.Equal(inside, IsInside(memory, address, length));
        });
    }

    [Theory]
    [InlineData(128, 3)]
    [InlineData(3072, 3)]
    [InlineData(3073, 4)]
    [InlineData(8192, 4)]
    public void Should_describe_all_of_it_and_nothing_else(int mebibytes, int entries)
    {
        using var memory = new GuestMemory((ulong)mebibytes << 20);
        var map = MemoryMap.Of(memory);
        Assert.Equal(entries, map.Length);
        ulong usable = 0;
        ulong before = 0;
        foreach (var entry in map)
        {
            Assert.True(entry.Start >= before);
            before = entry.Start + entry.Size;
            Assert.True(IsInside(memory, entry.Start, 1));
            Assert.True(IsInside(memory, entry.Start + entry.Size - 1, 1));
            usable += entry.Type == MemoryMap.Usable ? entry.Size : 0;
        }

        Assert.Equal(((ulong)mebibytes << 20) - (GuestLayout.HighMemory - GuestLayout.MpTable), usable);
    }

    private static bool IsInside(GuestMemory memory, ulong address, int length)
    {
        try
        {
            return memory.Slice(address, length).Length == length;
        }
        catch (GuestMemoryException)
        {
            return false;
        }
    }
}
