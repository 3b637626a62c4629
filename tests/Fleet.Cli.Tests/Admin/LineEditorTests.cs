using System.Text;
using CsCheck;
using Fleet.Cli.Admin;
using Fleet.Shared.Admin;
using Xunit;

namespace Fleet.Cli.Tests.Admin;

public sealed class LineEditorTests
{
    private sealed class Keys(IEnumerable<ConsoleKeyInfo> keys) : ITerminal
    {
        private readonly Queue<ConsoleKeyInfo> _keys = new(keys);

        public StringBuilder Written { get; } = new();

        public int Width { get; init; } = 80;

        public ConsoleKeyInfo? ReadKey() => _keys.TryDequeue(out var key) ? key : null;

        public void Write(string text) => Written.Append(text);
    }

    private static readonly ConsoleKeyInfo Enter = Key(ConsoleKey.Enter, '\r');
    private static readonly ConsoleKeyInfo Tab = Key(ConsoleKey.Tab, '\t');

    private readonly History _history = new(null);

    private static ConsoleKeyInfo Key(ConsoleKey key, char letter = '\0', bool control = false) => new(letter, key, false, false, control);

    private static ConsoleKeyInfo Control(ConsoleKey key) => Key(key, (char)(key - ConsoleKey.A + 1), control: true);

    private static IEnumerable<ConsoleKeyInfo> Type(string text) => text.Select(letter => new ConsoleKeyInfo(letter, default, false, false, false));

    private string? Read(Keys keys) => new LineEditor(keys, _history, before => Completion.Of(CompletionTests.Palettes, before)).Read("> ");

    private string? Read(params IEnumerable<ConsoleKeyInfo> keys) => Read(new Keys(keys));

    [Fact]
    public void Should_edit_where_the_cursor_stands()
    {
        Assert.Equal("host list", Read([.. Type("hst list"), Key(ConsoleKey.Home), Key(ConsoleKey.RightArrow), .. Type("o"), Enter]));
        Assert.Equal("host", Read([.. Type("hosts"), Key(ConsoleKey.Backspace, '\b'), Enter]));
        Assert.Equal("host x", Read([.. Type("host list"), Control(ConsoleKey.W), .. Type("x"), Enter]));
        Assert.Equal("list", Read([.. Type("host list"), Control(ConsoleKey.A), .. Enumerable.Repeat(Key(ConsoleKey.Delete), 5), Enter]));
        Assert.Equal("host", Read([.. Type("host list"), Key(ConsoleKey.LeftArrow, control: true), Key(ConsoleKey.LeftArrow), Control(ConsoleKey.K), Enter]));
        Assert.Equal("b", Read([.. Type("a"), Control(ConsoleKey.U), .. Type("b"), Enter]));
    }

    [Fact]
    public void Should_give_a_line_up_with_ctrl_c_and_end_with_ctrl_d()
    {
        Assert.Equal("", Read([.. Type("cluster leave"), Control(ConsoleKey.C), Enter]));
        Assert.Null(Read(Control(ConsoleKey.D)));
        Assert.Equal("b", Read([.. Type("ab"), Control(ConsoleKey.A), Control(ConsoleKey.D), Enter]));
        Assert.Null(Read(Type("half a line, and the terminal is gone")));
    }

    [Fact]
    public void Should_go_back_in_history_and_return_to_the_line_being_written()
    {
        _history.Add("one");
        _history.Add("two");
        var (up, down) = (Key(ConsoleKey.UpArrow), Key(ConsoleKey.DownArrow));
        Assert.Equal("one", Read(up, up, up, Enter));
        Assert.Equal("two!", Read([up, up, down, .. Type("!"), Enter]));
        Assert.Equal("half", Read([.. Type("half"), up, up, down, down, down, Enter]));
    }

    [Fact]
    public void Should_complete_as_far_as_it_is_clear_and_list_the_rest()
    {
        Assert.Equal("log tail ", Read([.. Type("l"), Tab, .. Type("t"), Tab, Enter]));
        var keys = new Keys([.. Type("cl"), Tab, Tab, .. Type("-"), Tab, .. Type("list-r"), Tab, Enter]);
        Assert.Equal("cluster-sharding list-regions ", Read(keys));
        Assert.Contains("\r\ncluster  cluster-sharding\r\n", keys.Written.ToString(), StringComparison.Ordinal);
        Assert.Equal("cluster x", Read([.. Type("cl x"), Key(ConsoleKey.LeftArrow), Key(ConsoleKey.LeftArrow), Tab, Enter]));
        Assert.Equal("x", Read([.. Type("x"), Tab, Tab, Enter]));
    }

    [Fact]
    public void Should_show_what_stands_around_the_cursor_of_a_line_that_is_wider_than_the_terminal()
    {
        var keys = new Keys([.. Type(string.Concat(Enumerable.Range(0, 50).Select(at => (char)('a' + (at % 26)))))]) { Width = 20 };
        Read(keys);
        var last = keys.Written.ToString().Split('\r')[^2];
        Assert.Equal("> " + "hijklmnopqrstuvwx" + "\x1b[K", last);
    }

    [Fact]
    public void Should_survive_any_keys_and_keep_the_line_bounded()
    {
        var key = Gen.Select(Gen.Enum<ConsoleKey>(), Gen.Char, Gen.Bool, Gen.Bool, static (key, letter, alt, control) => new ConsoleKeyInfo(letter, key, false, alt, control));
        key.Array[0, 200].Sample(keys =>
        {
            var line = new LineEditor(new Keys(keys), new History(null), before => Completion.Of(CompletionTests.Palettes, before)).Read("> ");
            Assert.True(line is null || !line.Any(char.IsControl));
        }, threads: 1);
        Assert.Equal(CommandWords.MaxLine, Read([.. Type(new string('x', CommandWords.MaxLine + 50)), Enter])!.Length);
    }
}
