using System.Text.RegularExpressions;
using Fleet.Tests;
using Fleet.Vmm.Jail;
using Xunit;

namespace Fleet.Vmm.Tests.Jail;

/// <summary>docs/jail.md says what is so.</summary>
public sealed partial class JailDocumentTests
{
    private static readonly string Document = File.ReadAllText(Path.Combine(Checkout.Root, "docs", "jail.md"));

    [Fact]
    public void Should_name_a_test_for_every_wall_and_each_of_them_is_there()
    {
        var walls = Rows("## Walls");
        Assert.True(walls.Length > 10);
        foreach (var wall in walls)
        {
            var tests = TestName().Matches(wall[^1]);
            Assert.True(tests.Count > 0, wall[0]);
            foreach (Match test in tests)
            {
                var file = Directory.GetFiles(Path.Combine(Checkout.Root, "tests"), test.Groups[1].Value + ".cs", SearchOption.AllDirectories);
                Assert.True(file.Length == 1 && Regex.IsMatch(File.ReadAllText(file[0]), $@"(Fact|Theory)\][^;{{}}]* {test.Groups[2].Value}\("), test.Value);
            }
        }
    }

    [Fact]
    public void Should_tell_what_each_kind_of_thread_can_do()
    {
        var told = Rows("## What each kind of thread can do").Select(row => string.Join('|', row.Select(cell => cell.Trim())));
        var really = ThreadFilters.Capabilities(1).Select(capability => string.Join('|',
            [capability.Name, .. ((ThreadKinds[])[ThreadKinds.Start, ThreadKinds.Loop, ThreadKinds.Vcpu, ThreadKinds.Finalizer]).Select(kind => (capability.Kinds & kind) != 0 ? "x" : "")]));
        Assert.Equal(really, told);
    }

    private static string[][] Rows(string heading)
    {
        var section = Document[Document.IndexOf(heading, StringComparison.Ordinal)..];
        return [.. section.Split('\n').SkipWhile(line => !line.StartsWith("|---", StringComparison.Ordinal)).Skip(1).TakeWhile(line => line.StartsWith('|')).Select(line => line.Trim('|', ' ').Length == 0 ? [] : line[1..^1].Split('|'))];
    }

    [GeneratedRegex(@"`(\w+Tests)\.(Should_\w+)`")]
    private static partial Regex TestName();
}
