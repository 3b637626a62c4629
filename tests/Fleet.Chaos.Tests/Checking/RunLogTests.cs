using Fleet.Chaos.Checking;
using Xunit;

namespace Fleet.Chaos.Tests.Checking;

public sealed class RunLogTests
{
    private static string Line(long bootMs, string what, string policy = "strict") =>
        $$"""{"boot_ms":{{bootMs}},"vm":"vm-1","epoch":2,"policy":"{{policy}}","host":"a","event":"{{what}}"}""" + "\n";

    private static RunInterval[] Read(params string[] lines) => [.. RunLog.Parse("vm-1.2.77", string.Concat(lines))];

    [Fact]
    public void Should_end_with_the_line_that_says_so()
    {
        var runs = Read(Line(100, "run"), Line(600, "alive"), Line(700, "stand"), Line(5_000, "run"), Line(5_100, "end"));
        Assert.Equal(
            [
                new RunInterval("vm-1", 2, "vm-1.2.77", "a", true, 100, 700, 700) { Stood = true },
                new RunInterval("vm-1", 2, "vm-1.2.77", "a", true, 5_000, 5_100, 5_100) { Stood = true },
            ],
            runs);
    }

    [Fact]
    public void Should_know_only_the_last_sign_of_what_was_killed()
    {
        var run = Assert.Single(Read(Line(100, "run"), Line(600, "alive")));
        Assert.Equal((100, 600, 1_100, false, true), (run.FromMs, run.SureToMs, run.PossibleToMs, run.Stood, run.Open));
    }

    [Fact]
    public void Should_not_take_a_stalled_vmm_for_one_that_ran()
    {
        var run = Assert.Single(Read(Line(100, "run"), Line(600, "alive"), Line(30_000, "stand"), Line(30_100, "end")));
        Assert.Equal((600, 30_000), (run.SureToMs, run.PossibleToMs));
    }

    [Fact]
    public void Should_not_take_a_hung_machine_for_one_that_ran_and_see_it_run_again()
    {
        var runs = Read(Line(100, "run"), Line(600, "alive"), Line(30_000, "alive"), Line(30_500, "alive"));
        Assert.Equal([(100, 600, 30_000), (30_000, 30_500, 31_000)], runs.Select(run => (run.FromMs, run.SureToMs, run.PossibleToMs)));
    }

    [Fact]
    public void Should_take_a_torn_last_line_for_none_and_no_other()
    {
        var run = Assert.Single(Read(Line(100, "run", "relaxed"), Line(600, "alive")[..20]));
        Assert.Equal((100, false), (run.SureToMs, run.Strict));
        Assert.Throws<InvalidDataException>(() => Read(Line(100, "run")[..20] + "\n", Line(600, "alive")));
    }

    [Fact]
    public void Should_read_a_folder_of_launches()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-chaos-");
        try
        {
            File.WriteAllText(Path.Combine(folder.FullName, "vm-1.2.77.jsonl"), Line(100, "run"));
            File.WriteAllText(Path.Combine(folder.FullName, "vm-1.2.78.jsonl"), Line(9_100, "run"));
            File.WriteAllText(Path.Combine(folder.FullName, "vm-1.2.79.jsonl"), "");
            Assert.Equal(["vm-1.2.77", "vm-1.2.78"], RunLog.ReadFolder(folder.FullName).Select(run => run.Launch));
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }
}
