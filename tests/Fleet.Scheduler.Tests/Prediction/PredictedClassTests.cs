using Fleet.Scheduler.Prediction;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Prediction;

/// <summary>Which hosts are predicted by terms of their own.</summary>
public sealed class PredictedClassTests
{
    private static readonly PredictionTerms Others = new() { Cpu = "sigma:5", Reserve = 0.2 };

    private static PredictionTerms With(params string[] classes) => Others with
    {
        Classes = [.. classes.Select(text => PredictedClass.Parse(text, Others, out var problem) ?? throw new InvalidOperationException(problem))],
    };

    private static Inventory Host(uint cpus, ulong memoryMib, params (string Key, string Value)[] labels) =>
        new() { Cpus = cpus, MemoryMib = memoryMib, Labels = { labels.ToDictionary(label => label.Key, label => label.Value) } };

    [Theory]
    [InlineData(4, 4096, "", "")]
    [InlineData(64, 4096, "", "large")]
    [InlineData(64, 4096, "batch", "batch")]
    [InlineData(63, 999, "batch", "batch")]
    [InlineData(4, 1000, "batch", "")]
    [InlineData(4, 999, "Batch", "")]
    [InlineData(200, 4096, "", "")]
    public void Should_take_the_first_class_whose_conditions_are_all_true(uint cpus, ulong memoryMib, string pool, string name)
    {
        var terms = With("batch label.public/pool=batch memory<=999 cpu=limit", "batch64 label.public/pool=batch cpus>=64 cpus<=64 memory=limit", "large cpus>=64 cpus<=128 cpu=peak:0.2:2 reserve=0.05");
        var own = terms.For(Host(cpus, memoryMib, ("public/pool", pool)));
        Assert.Equal(name, own.Class.Replace("64", "", StringComparison.Ordinal));
        Assert.Null(terms.FirstProblem());
        if (name.Length == 0)
            Assert.Same(terms, own);
        Assert.Same(own, terms.For(Host(cpus, memoryMib, ("public/pool", pool))));
    }

    [Fact]
    public void Should_have_what_it_does_not_say_from_the_others()
    {
        var own = With("large cpus>=64 memory=limit reserve=0.05").For(Host(64, 1));
        Assert.Equal(("large", "sigma:5", "limit", 0.05), (own.Class, own.Cpu, own.Memory, own.Reserve));
        own = With("odd memory>=1 cpu=percentile:99:1.2,sigma:3").For(Host(1, 1));
        Assert.Equal(("percentile:99:1.2,sigma:3", PredictorSettings.DefaultMemory, 0.2), (own.Cpu, own.Memory, own.Reserve));
        Assert.Same(Others, Others.For(null));
    }

    [Theory]
    [InlineData("", "a class of hosts is NAME")]
    [InlineData("large", "a class of hosts is NAME")]
    [InlineData("Large cpus>=1 cpu=limit", "a class of hosts is NAME")]
    [InlineData("cpus>=1 cpu=limit reserve=0", "a class of hosts is NAME")]
    [InlineData("large cpu=limit memory=limit", "has no condition")]
    [InlineData("large cpus>=1 memory<=5", "has no terms of its own")]
    [InlineData("large cpus>=-1 cpu=limit", "'cpus>=-1'")]
    [InlineData("large cpus>=1>=2 cpu=limit", "'cpus>=1>=2'")]
    [InlineData("large disk>=1 cpu=limit", "'disk>=1'")]
    [InlineData("large label.=1 cpu=limit", "'label.=1'")]
    [InlineData("large label.pool cpu=limit", "'label.pool'")]
    [InlineData("large cpus>=1 cpu=limit cpu=limit", "'cpu=limit'")]
    [InlineData("large cpus>=1 cpu=magic", "of the class large the CPU predictor 'magic' is none")]
    [InlineData("large cpus>=1 memory=", "of the class large the memory predictor '' is none")]
    [InlineData("large cpus>=1 reserve=0.91", "of the class large the reserve must be")]
    [InlineData("large cpus>=1 reserve=NaN", "of the class large the reserve must be")]
    [InlineData("large cpus>=1 reserve=-0.1", "'reserve=-0.1'")]
    public void Should_say_why_a_text_is_none(string text, string why)
    {
        Assert.Null(PredictedClass.Parse(text, Others, out var problem));
        Assert.Contains(why, problem, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_bound_what_every_host_is_asked()
    {
        Assert.Contains("the class of hosts a is there twice", With("a cpus>=1 cpu=limit", "a cpus>=2 cpu=limit").FirstProblem(), StringComparison.Ordinal);
        string[] many = [.. Enumerable.Range(0, PredictedClass.Most + 1).Select(i => $"c{i} cpus>={i} cpu=limit")];
        Assert.Null(With(many[1..]).FirstProblem());
        Assert.Contains("16 classes", With(many).FirstProblem(), StringComparison.Ordinal);
        Assert.Null(PredictedClass.Parse($"a cpus>=1 label.x={new string('x', 1024)} cpu=limit", Others, out _));
        Assert.Null(PredictedClass.Parse("a cpu=limit" + string.Concat(Enumerable.Repeat(" cpus>=1", 15)), Others, out _));
    }
}
