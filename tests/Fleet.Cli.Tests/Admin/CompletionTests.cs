using CsCheck;
using Fleet.Cli.Admin;
using Fleet.Shared.Admin;
using Xunit;

namespace Fleet.Cli.Tests.Admin;

public sealed class CompletionTests
{
    internal static readonly PaletteDefinition[] Palettes =
    [
        new("cluster", "Members", [new("show", "List them", []), new("down", "End one", [new("address", "Whose", ["-a"]) { Mandatory = true, Bare = true }]) { Confirm = "It ends." }]),
        new("cluster-sharding", "Shards",
        [
            new("list-regions", "List kinds", []),
            new("list-shards", "List shards", [new("region", "The kind", ["-r", "--region"]) { Choices = ["host", "vm"], Mandatory = true, Bare = true }]),
            new("list-entities", "List actors",
            [
                new("region", "The kind", ["-r"]) { Choices = ["host", "vm"], Mandatory = true, Bare = true },
                new("most", "How many", ["-n"]) { Minimum = 1, Maximum = 9, Default = "5" },
            ]),
        ]),
        new("log", "The log", [new("tail", "Follow it", []) { Streams = true }]),
    ];

    [Theory]
    [InlineData("", 0, "cluster cluster-sharding log exit help quit", "")]
    [InlineData("cl", 0, "cluster cluster-sharding", "cluster")]
    [InlineData("cluster", 0, "cluster cluster-sharding", "cluster")]
    [InlineData("lo", 0, "log", "log")]
    [InlineData("h", 0, "help", "help")]
    [InlineData("x", 0, "", "")]
    [InlineData("cluster ", 8, "show down", "")]
    [InlineData("cluster-sharding li", 17, "list-regions list-shards list-entities", "list-")]
    [InlineData("  cluster  sh", 11, "show", "show")]
    [InlineData("help cl", 5, "cluster cluster-sharding", "cluster")]
    [InlineData("help log ", 9, "tail", "tail")]
    [InlineData("help log tail ", 14, "", "")]
    [InlineData("nothing ", 8, "", "")]
    [InlineData("nothing at all", 11, "", "")]
    [InlineData("cluster-sharding list-shards ", 29, "host vm -r --region", "")]
    [InlineData("cluster-sharding list-shards -r ", 32, "host vm", "")]
    [InlineData("cluster-sharding list-shards -r v", 32, "vm", "vm")]
    [InlineData("cluster-sharding list-entities -r vm -", 37, "-n", "-n")]
    [InlineData("cluster-sharding list-entities -n ", 34, "", "")]
    [InlineData("cluster down x --", 15, "--yes", "--yes")]
    [InlineData("cluster down 'a b", 16, "", "")]
    public void Should_know_what_may_come_next(string before, int start, string candidates, string shared)
    {
        var found = Completion.Of(Palettes, before);
        Assert.Equal((start, candidates, shared), (found.Start, string.Join(' ', found.Candidates), found.Shared));
    }

    [Fact]
    public void Should_have_something_to_say_to_any_line() =>
        Gen.OneOf(Gen.String, Gen.OneOf(Gen.Const("cluster "), Gen.Const("help "), Gen.Const("cluster-sharding list-shards -r ")).SelectMany(start => Gen.String[0, 9].Select(end => start + end)))
            .Sample(line => Assert.InRange(Completion.Of(Palettes, line).Start, 0, line.Length));

    [Fact]
    public void Should_make_help_from_the_definitions()
    {
        Assert.Contains("  cluster-sharding  Shards", AdminHelp.Of(Palettes, []));
        Assert.Contains("  cluster down ADDRESS [--yes]  End one", AdminHelp.Of(Palettes, ["cluster"]));
        Assert.Equal(
            ["cluster-sharding list-entities REGION [-n MOST]", "List actors", "  -r  The kind: host, vm (needed)", "  -n  How many, 1 to 9 (default: 5)"],
            AdminHelp.Of(Palettes, ["cluster-sharding", "list-entities"]));
        Assert.Throws<CommandException>(() => AdminHelp.Of(Palettes, ["nothing"]).ToList());
        Assert.Throws<CommandException>(() => AdminHelp.Of(Palettes, ["log", "nothing"]).ToList());
    }
}
