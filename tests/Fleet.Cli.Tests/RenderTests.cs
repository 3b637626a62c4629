using System.Text.Json;
using Fleet.Cli.Output;
using Fleet.Cli.Vms;
using Xunit;

namespace Fleet.Cli.Tests;

public sealed class RenderTests
{
    [Fact]
    public void Should_align_columns_without_trailing_blanks()
    {
        var output = new StringWriter();
        Render.Table(output, ["NAME", "STATE"], [["a", "running"], ["longer-name", ""]]);
        Assert.Equal("NAME         STATE\na            running\nlonger-name\n", output.ToString().ReplaceLineEndings("\n"));
    }

    [Fact]
    public void Should_not_let_foreign_text_drive_the_terminal()
    {
        var output = new StringWriter();
        Render.Table(output, ["REASON"], [["\u001b[31mred\u0007\n"]]);
        Assert.DoesNotContain('\u001b', output.ToString());
        Assert.Contains("?[31mred??", output.ToString(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(-3, "0s")]
    [InlineData(119, "119s")]
    [InlineData(120, "2m")]
    [InlineData(7200, "2h")]
    [InlineData(48 * 3600, "2d")]
    public void Should_tell_ages_in_one_unit(int seconds, string text)
    {
        var then = new DateTimeOffset(2026, 1, 1, 0, 0, 0, TimeSpan.Zero);
        Assert.Equal(text, Render.Age("2026-01-01T00:00:00.000Z", then.AddSeconds(seconds)));
    }

    [Theory]
    [InlineData("not_found", ExitCodes.NotFound)]
    [InlineData("name_taken", ExitCodes.Conflict)]
    [InlineData("timeout", ExitCodes.Timeout)]
    [InlineData("invalid_field", ExitCodes.Usage)]
    [InlineData("internal", ExitCodes.Failed)]
    public void Should_exit_by_kind_of_failure(string code, int exit) => Assert.Equal(exit, ExitCodes.Of(code));

    [Theory]
    [InlineData("K=V", "K", "V")]
    [InlineData("K=", "K", "")]
    [InlineData("K=a=b", "K", "a=b")]
    public void Should_split_pairs_at_the_first_equals_sign(string word, string key, string value) =>
        Assert.Equal((key, value), KeyValue.Parse(word));

    [Theory]
    [InlineData("K")]
    [InlineData("=V")]
    [InlineData("")]
    public void Should_refuse_words_that_are_no_pair(string word) => Assert.Null(KeyValue.Parse(word));

    [Fact]
    public void Should_show_absent_and_null_members_alike()
    {
        using var document = JsonDocument.Parse("""{"a": null, "b": 3}""");
        Assert.Equal("-", document.RootElement.Text("a"));
        Assert.Equal("-", document.RootElement.Text("c"));
        Assert.Equal("3", document.RootElement.Text("b"));
    }
}
