using CsCheck;
using Fleet.Shared.Vms;
using Xunit;

namespace Fleet.Shared.Tests.Vms;

public sealed class VmIdTests
{
    [Fact]
    public void New_ids_are_valid_differ_and_sort_by_time()
    {
        var clock = new SteppingClock();
        var ids = Enumerable.Range(0, 1000).Select(_ => VmId.New(clock)).ToList();
        Assert.All(ids, id => Assert.True(VmId.IsValid(id), id));
        Assert.Equal(ids, ids.Distinct().Order(StringComparer.Ordinal));
    }

    [Fact]
    public void The_time_stands_in_front()
    {
        // 2016-07-30T23:54:10.259Z, the instant of the ULID specification's own example, is 01ARZ3NDEK.
        Assert.StartsWith("vm-01arz3ndek", VmId.New(new SteppingClock(DateTimeOffset.FromUnixTimeMilliseconds(1469922850259))), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData("vm-")]
    [InlineData("vm-01jd8mbr4v3s6q8k2n0x5t7w9")]
    [InlineData("vm-01jd8mbr4v3s6q8k2n0x5t7w9zz")]
    [InlineData("vm-01JD8MBR4V3S6Q8K2N0X5T7W9Z")]
    [InlineData("vm-81jd8mbr4v3s6q8k2n0x5t7w9z")]
    [InlineData("vm-01jd8mbr4v3s6q8k2n0x5t7w9u")]
    [InlineData("vm_01jd8mbr4v3s6q8k2n0x5t7w9z")]
    public void What_is_no_id_is_refused(string? text) => Assert.False(VmId.IsValid(text));

    [Fact]
    public void Random_text_is_no_id() => Gen.String[0, 40].Sample(text => Assert.False(VmId.IsValid(text)));

    [Fact]
    public void A_made_up_name_is_a_name_and_the_same_for_the_same_id()
    {
        var id = VmId.New(TimeProvider.System);
        Assert.True(VmSpecRules.IsName(VmId.NameFor(id)));
        Assert.Equal(VmId.NameFor(id), VmId.NameFor(id));
    }

    /// <summary>Every look at it is a millisecond later.</summary>
    private sealed class SteppingClock(DateTimeOffset? start = null) : TimeProvider
    {
        private DateTimeOffset _now = start ?? DateTimeOffset.UnixEpoch;

        public override DateTimeOffset GetUtcNow()
        {
            var now = _now;
            _now += TimeSpan.FromMilliseconds(1);
            return now;
        }
    }
}
