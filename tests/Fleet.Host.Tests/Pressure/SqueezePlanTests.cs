using Fleet.Host.Pressure;

namespace Fleet.Host.Tests.Pressure;

public sealed class SqueezePlanTests
{
    [Theory]
    [InlineData(null, "")]
    [InlineData(null, "low low low")]
    [InlineData(null, "high")]
    [InlineData(0, "normal low high low")]
    [InlineData(0, "high low")]
    [InlineData(1, "high normal high")]
    public void Should_choose_the_lowest_class_and_none_where_all_are_of_one(int? rank, string priorities) =>
        Assert.Equal(rank, SqueezePlan.LowestOf(priorities.Split(' ', StringSplitOptions.RemoveEmptyEntries)));

    /// <summary>A spec that says nothing is of the class normal.</summary>
    [Fact]
    public void Should_take_those_that_say_nothing_for_normal()
    {
        Assert.Null(SqueezePlan.LowestOf(["", "normal"]));
        Assert.Equal(1, SqueezePlan.LowestOf(["", "high"]));
    }
}
