using Fleet.Scheduler.Sessions;
using Xunit;

namespace Fleet.Scheduler.Tests.Sessions;

public sealed class InputWindowTests
{
    [Fact]
    public void Should_bound_one_console_and_all_together()
    {
        var window = new InputWindow();
        for (var i = 0; i < InputWindow.MostOfOne; i++)
            Assert.True(window.TryEnter("a"));
        Assert.False(window.TryEnter("a"));
        for (var i = InputWindow.MostOfOne; i < InputWindow.MostOfAll; i++)
            Assert.True(window.TryEnter($"b{i / InputWindow.MostOfOne}"));
        Assert.False(window.TryEnter("c"));

        window.Leave("a", 1);
        Assert.True(window.TryEnter("c"));
        Assert.False(window.TryEnter("a"));
    }

    [Fact]
    public void Should_give_back_no_more_than_was_taken()
    {
        var window = new InputWindow();
        window.Leave("a", 5);
        Assert.True(window.TryEnter("a"));
        window.Leave("a", uint.MaxValue);
        for (var i = 0; i < InputWindow.MostOfOne; i++)
            Assert.True(window.TryEnter("a"));
        Assert.False(window.TryEnter("a"));
    }
}
