using System.Text;
using Fleet.Shared.Vms;
using Xunit;

namespace Fleet.Shared.Tests.Vms;

public sealed class ReasonTextTests
{
    [Theory]
    [InlineData("", "")]
    [InlineData("as it is", "as it is")]
    [InlineData("two\nlines\u001b[31m", "two lines [31m")]
    public void Should_keep_a_short_sentence_on_one_line(string text, string expected) => Assert.Equal(expected, ReasonText.Shorten(text));

    [Theory]
    [InlineData("x")]
    [InlineData("ü")]
    [InlineData("漢")]
    [InlineData("🦊")]
    public void Should_cut_by_bytes_and_never_within_a_character(string unit)
    {
        var text = string.Concat(Enumerable.Repeat(unit, 5000));
        var cut = ReasonText.Shorten(text);
        Assert.InRange(Encoding.UTF8.GetByteCount(cut), ReasonText.MostBytes - 4, ReasonText.MostBytes);
        Assert.EndsWith("…", cut, StringComparison.Ordinal);
        Assert.DoesNotContain('\ufffd', cut);
        Assert.Equal(cut, ReasonText.Shorten(cut));
    }

    [Fact]
    public void Should_stand_half_a_surrogate() => Assert.True(Encoding.UTF8.GetByteCount(ReasonText.Shorten(new string('\ud800', 3000))) <= ReasonText.MostBytes);
}
