using Fleet.Host.Pressure;
using Fleet.Shared.Vms;

namespace Fleet.Host.Tests.Pressure;

public sealed class CpuCreditsTests
{
    private static readonly CreditTerms Terms = new(0.25, TimeSpan.FromSeconds(100));

    private readonly CpuCredits _credits = new(Terms);

    private double Use(double share, double seconds)
    {
        _credits.Take(TimeSpan.FromSeconds(share * seconds), TimeSpan.FromSeconds(seconds));
        return _credits.Allowance;
    }

    [Fact]
    public void Should_save_what_is_left_of_the_baseline_and_burst_by_it()
    {
        Assert.Equal((1.0, 10.0), (_credits.Allowance, _credits.Balance.TotalSeconds));
        Use(0, 40);
        Assert.Equal(20, _credits.Balance.TotalSeconds, 6);
        Use(0, 10_000);
        Assert.Equal(100, _credits.Balance.TotalSeconds, 6);
        Assert.Equal(1, Use(1, 130)); // 0.75 a second
        Assert.Equal(0.25, Use(1, 4));
    }

    [Fact]
    public void Should_hold_back_until_a_tenth_is_saved()
    {
        Assert.Equal(0.25, Use(1, 20)); // 5 s of debt
        Assert.Equal(-5, _credits.Balance.TotalSeconds, 6);
        Assert.Equal(0.25, Use(0.25, 10_000)); // all of its baseline: nothing is saved
        Assert.Equal(0.25, Use(0.05, 70)); // 9 s
        Assert.Equal(1, Use(0.05, 10));
    }

    [Fact]
    public void Should_not_owe_more_than_a_bank()
    {
        Use(1, 1_000_000);
        Assert.Equal(-100, _credits.Balance.TotalSeconds, 6);
    }

    /// <summary>The quota is the microVM's: what a vCPU that is held back uses of an idle one's share, that one pays.</summary>
    [Fact]
    public void Should_give_a_microVM_no_more_than_its_vCPUs_earn_together()
    {
        var idle = new CpuCredits(Terms);
        var used = 0.0;
        for (var look = 0; look < 1_000; look++)
        {
            var share = _credits.IsHeldBack || idle.IsHeldBack ? Math.Min(1, _credits.Allowance + idle.Allowance) : 1;
            used += share * 10;
            var lent = _credits.Take(TimeSpan.FromSeconds(share * 10), TimeSpan.FromSeconds(10));
            idle.Take(TimeSpan.Zero, TimeSpan.FromSeconds(10));
            idle.Pay(lent);
        }
        // And what both had at first.
        Assert.InRange(used, 5_000, 5_100);
    }

    [Fact]
    public void Should_limit_nothing_where_the_baseline_is_all()
    {
        var all = new CpuCredits(new CreditTerms(1, TimeSpan.FromSeconds(10)));
        for (var i = 0; i < 100; i++)
            all.Take(TimeSpan.FromSeconds(11), TimeSpan.FromSeconds(10));
        Assert.Equal(1, all.Allowance);
    }

    /// <summary>Whatever a vCPU does, in the long run it gets its baseline, what it had at first, and what one look was late.</summary>
    [Fact]
    public void Should_never_give_more_than_was_earned()
    {
        for (var seed = 0; seed < 200; seed++)
        {
            var random = new Random(seed);
            var terms = new CreditTerms(0.05 + (random.NextDouble() * 0.9), TimeSpan.FromSeconds(10 + random.Next(1000)));
            var credits = new CpuCredits(terms);
            double used = 0, time = 0, longest = 0;
            for (var i = 0; i < 1000; i++)
            {
                var span = 1 + (random.NextDouble() * 19);
                longest = Math.Max(longest, span);
                // It wants this much and gets what it is allowed.
                var share = Math.Min(random.Next(3) == 0 ? 1 : random.NextDouble(), credits.Allowance);
                credits.Take(TimeSpan.FromSeconds(share * span), TimeSpan.FromSeconds(span));
                used += share * span;
                time += span;
                Assert.InRange(credits.Balance, -terms.Bank, terms.Bank);
                Assert.True(used <= (terms.Baseline * time) + terms.Bank.TotalSeconds / 10 + longest + 1e-3, $"seed {seed}");
            }
        }
    }

    [Theory]
    [InlineData("25:300", 0.25, 300)]
    [InlineData("5:10", 0.05, 10)]
    [InlineData("100:86400", 1, 86_400)]
    [InlineData("100:10:1000", 1, 10, 10)]
    [InlineData("25:300:10", 0.25, 300, 0.1)]
    public void Should_read_terms(string text, double baseline, int seconds, double weight = 1)
    {
        var terms = new CreditTerms(baseline, TimeSpan.FromSeconds(seconds), weight);
        Assert.Equal((terms, text), (CreditTerms.Parse(text), terms.ToString()));
    }

    [Theory]
    [InlineData("")]
    [InlineData("25")]
    [InlineData("4:300")]
    [InlineData("101:300")]
    [InlineData("25:9")]
    [InlineData("25:86401")]
    [InlineData("25:300:9")]
    [InlineData("25:300:1001")]
    [InlineData("25:300:")]
    [InlineData("25:300:100:1")]
    [InlineData("-25:300")]
    [InlineData("2.5:300")]
    public void Should_refuse_terms_of_another_form(string text) => Assert.Null(CreditTerms.Parse(text));

    [Theory]
    [InlineData("25:300", "25:300", "25:300", "25:300", "25:300")]
    [InlineData("low=10:60", "10:60", null, null, "low=10:60")]
    [InlineData("high=100:10 25:300", "25:300", "25:300", "100:10", "low=25:300 normal=25:300 high=100:10")]
    [InlineData("low=5:10:50 normal=20:30 high=50:60:200", "5:10:50", "20:30", "50:60:200", "low=5:10:50 normal=20:30 high=50:60:200")]
    public void Should_have_terms_for_each_class(string words, string? low, string? normal, string? high, string handedOn)
    {
        var plan = CreditPlan.Parse(words.Split(' '), out _)!;
        CreditTerms? Terms(string? text) => text is null ? null : CreditTerms.Parse(text);
        Assert.Equal((Terms(low), Terms(normal), Terms(high)), (plan.Of(PriorityClass.Low), plan.Of(""), plan.Of(PriorityClass.High)));
        Assert.Equal(plan.Of(PriorityClass.Normal), plan.Of(""));
        Assert.Equal(handedOn, string.Join(' ', plan.Words()));
        Assert.Equal(plan, CreditPlan.Parse(handedOn.Split(' '), out _));
    }

    [Theory]
    [InlineData("25:300 25:300", "25:300")]
    [InlineData("low=5:10 low=6:10", "low=6:10")]
    [InlineData("best=5:10", "best=5:10")]
    [InlineData("=5:10", "=5:10")]
    [InlineData("25:300 low=1:2", "low=1:2")]
    [InlineData("low=", "low=")]
    public void Should_name_the_word_of_a_plan_that_is_none(string words, string broken)
    {
        Assert.Null(CreditPlan.Parse(words.Split(' '), out var named));
        Assert.Equal(broken, named);
    }
}
