using Fleet.Shared.Vms;
using Xunit;

namespace Fleet.Shared.Tests.Vms;

public sealed class KernelVersionTests
{
    [Theory]
    [InlineData("6.1", 6, 1, 0)]
    [InlineData("5.10.0", 5, 10, 0)]
    [InlineData("6.12.345", 6, 12, 345)]
    public void Should_take_two_or_three_numbers(string text, int major, int minor, int patch)
    {
        Assert.True(KernelVersion.TryParse(text, out var version));
        Assert.Equal(new KernelVersion(major, minor, patch), version);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData("6")]
    [InlineData("6.")]
    [InlineData(".1")]
    [InlineData("6.1.2.3")]
    [InlineData("6.+1")]
    [InlineData(" 6.1")]
    [InlineData("6.1-rc1")]
    [InlineData("6.12345678")]
    public void Should_take_nothing_else(string? text) => Assert.False(KernelVersion.TryParse(text, out _));

    [Theory]
    [InlineData("6.1.0-18-amd64", "6.1.0")]
    [InlineData("5.15.153.1-microsoft-standard-WSL2", "5.15.153")]
    [InlineData("6.8-rc3", "6.8")]
    public void Should_find_the_version_of_a_release(string release, string expected)
    {
        Assert.True(KernelVersion.TryParseRelease(release, out var version));
        Assert.True(KernelVersion.TryParse(expected, out var other));
        Assert.Equal(other, version);
    }

    [Theory]
    [InlineData("")]
    [InlineData("mainline")]
    [InlineData("6-next")]
    public void Should_find_none_where_there_is_none(string release) => Assert.False(KernelVersion.TryParseRelease(release, out _));

    [Fact]
    public void Should_compare_by_number() =>
        Assert.True(new KernelVersion(5, 10, 0) > new KernelVersion(5, 9, 200) && new KernelVersion(6, 1, 9) < new KernelVersion(6, 1, 10) && new KernelVersion(6, 1, 0) >= new KernelVersion(6, 1, 0));
}
