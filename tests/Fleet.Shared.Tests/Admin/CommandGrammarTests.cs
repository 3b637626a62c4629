using CsCheck;
using Fleet.Shared.Admin;
using Xunit;

namespace Fleet.Shared.Tests.Admin;

public sealed class CommandGrammarTests
{
    private static readonly PaletteDefinition[] Palettes =
    [
        new("host", "Hosts",
        [
            new("list", "List them", [new("most", "How many", ["-n", "--most"]) { Minimum = 1, Maximum = 1000, Default = "100" }]),
            new("show", "Show one", [new("host", "Its id", ["-i"]) { Mandatory = true, Bare = true }, new("deep", "All of it", ["-d"]) { Flag = true }]),
            new("end", "End one", [new("host", "Its id", ["-i"]) { Mandatory = true }, new("how", "The way", ["-w"]) { Choices = ["soft", "hard"] }]) { Confirm = "It ends." },
        ]),
        new("log", "The log", [new("peek", "Look at it", [])]),
    ];

    private static ParsedCommand Parse(string line) => CommandGrammar.Parse(Palettes, CommandWords.Split(line));

    private static string Refused(string line)
    {
        var refused = Assert.Throws<CommandException>(() => Parse(line));
        Assert.Equal(CommandException.Invalid, refused.Code);
        return refused.Message;
    }

    [Fact]
    public void Should_give_back_the_words_that_made_a_line()
    {
        var letter = Gen.OneOf(Gen.Char['a', 'f'], Gen.Char[" '\"\\-=ü$"]);
        Gen.String[letter, 0, 12].Array[0, 8].Sample(words => Assert.Equal(words, CommandWords.Split(CommandWords.Join(words))));
    }

    [Fact]
    public void Should_take_any_line_apart_or_say_what_is_wrong_with_it() => Gen.String[Gen.Char, 0, 60].Sample(line =>
    {
        try
        {
            var words = CommandWords.Split(line);
            Assert.All(words, word => Assert.DoesNotContain(word, char.IsControl));
            _ = CommandGrammar.Parse(Palettes, ["host", "show", .. words]);
        }
        catch (CommandException refused)
        {
            Assert.Equal(CommandException.Invalid, refused.Code);
            Assert.DoesNotContain(refused.Message, char.IsControl);
        }
    });

    [Theory]
    [InlineData("", new string[0])]
    [InlineData("  a \t b ", new[] { "a", "b" })]
    [InlineData("a 'b \"c' \"d 'e\"", new[] { "a", "b \"c", "d 'e" })]
    [InlineData("""x "a\"b\\c\d" \n""", new[] { "x", """a"b\c\d""", "\\n" })]
    [InlineData("a''b \"\"", new[] { "ab", "" })]
    public void Should_split_as_a_shell_does(string line, string[] words) => Assert.Equal(words, CommandWords.Split(line));

    [Theory]
    [InlineData("a 'b")]
    [InlineData("a \"b\\\"")]
    [InlineData("a\nb")]
    [InlineData("a \u001b[2J")]
    public void Should_refuse_open_quotes_and_control_characters(string line) => Assert.Throws<CommandException>(() => CommandWords.Split(line));

    [Fact]
    public void Should_refuse_what_is_too_long()
    {
        Assert.Throws<CommandException>(() => CommandWords.Split(new string('a', CommandWords.MaxLine + 1)));
        Assert.Throws<CommandException>(() => CommandWords.Split(string.Join(' ', Enumerable.Repeat("a", CommandWords.MaxWords + 1))));
        Assert.Throws<CommandException>(() => CommandGrammar.Parse(Palettes, ["host", new string('a', CommandWords.MaxLine)]));
        Assert.Equal(CommandWords.MaxWords, CommandWords.Split(string.Join(' ', Enumerable.Repeat("a", CommandWords.MaxWords))).Count);
    }

    [Fact]
    public void Should_fill_in_defaults_and_take_values_with_and_without_their_switch()
    {
        Assert.Equal("100", Parse("host list").Arguments["most"]);
        Assert.Equal("7", Parse("host list --most 7").Arguments["most"]);
        Assert.Equal("box", Parse("host show box").Arguments["host"]);
        var both = Parse("host show -d -i -5");
        Assert.Equal(("true", "-5"), (both.Arguments["deep"], both.Arguments["host"]));
        Assert.True(both.IsConfirmed);
        Assert.False(Parse("host end -i box").IsConfirmed);
        Assert.True(Parse("host end -i box --yes").IsConfirmed);
    }

    [Theory]
    [InlineData("", "Palettes: host, log")]
    [InlineData("nothing", "Known: host, log")]
    [InlineData("host", "list, show, end")]
    [InlineData("host lisp", "no verb 'lisp'")]
    [InlineData("host list -x 1", "It takes -n, --most")]
    [InlineData("host list 5", "does not take '5'")]
    [InlineData("host list -n", "-n wants a value")]
    [InlineData("host list -n --most", "-n wants a value")]
    [InlineData("host list -n 0", "from 1 to 1000")]
    [InlineData("host list -n 1e3", "from 1 to 1000")]
    [InlineData("host list -n ''", "from 1 to 1000")]
    [InlineData("host list -n 1 --most 2", "given twice")]
    [InlineData("host show", "needs HOST")]
    [InlineData("host show -d -d x", "given twice")]
    [InlineData("host show a b", "given twice")]
    [InlineData("host show ''", "is empty")]
    [InlineData("host end --yes", "needs -i HOST")]
    [InlineData("host end -i a -w other", "one of soft, hard")]
    [InlineData("log peek --yes", "It takes nothing")]
    public void Should_say_what_is_wrong_and_what_is_known(string line, string says) => Assert.Contains(says, Refused(line), StringComparison.Ordinal);

    [Fact]
    public void Should_not_repeat_what_is_endless() => Assert.True(Refused($"host {new string('x', 4000)}").Length < 200);
}
