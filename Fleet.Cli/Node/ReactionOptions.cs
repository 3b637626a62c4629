using System.CommandLine;
using Fleet.Host.Pressure;

namespace Fleet.Cli.Node;

/// <summary>What a host does about pressure, as its options say.</summary>
/// <param name="Off">Nothing, and the control plane hears of none.</param>
/// <param name="Credits">Of each vCPU; null: it may use a whole CPU for ever.</param>
internal sealed record ReactionOptions(bool Off, CreditPlan? Credits);

/// <summary>The options themselves, of every command that runs a host.</summary>
internal sealed class ReactionSettings
{
    private readonly Option<bool> _off = new("--no-reaction")
    {
        Description = "Do nothing when this machine is short of CPU or memory (default: take no new microVM, take memory back from guests, squeeze, ask for evictions)",
    };

    private readonly Option<CreditPlan?> _credits = new("--cpu-credits")
    {
        Description = "[CLASS=]PERCENT:SECONDS[:WEIGHT] that a vCPU may use of a CPU for ever, CPU time above that it can save, and its weight in percent where CPUs are short, such as 25:300 or low=10:60:50; of one priority class, or of all that have none of their own (default: a whole CPU for ever)",
        Arity = ArgumentArity.OneOrMore,
        CustomParser = result =>
        {
            if (CreditPlan.Parse(result.Tokens.Select(token => token.Value), out var broken) is { } plan)
                return plan;
            result.AddError($"--cpu-credits wants {CreditPlan.Form}; not '{broken}'.");
            return null;
        },
    };

    public void AddTo(Command command)
    {
        command.Options.Add(_off);
        command.Options.Add(_credits);
    }

    public ReactionOptions Of(ParseResult parsed) => new(parsed.GetValue(_off), parsed.GetValue(_credits));

    /// <summary>As another process is given them.</summary>
    public IEnumerable<string> Words(ParseResult parsed)
    {
        if (parsed.GetValue(_off))
            yield return "--no-reaction";
        foreach (var word in parsed.GetValue(_credits)?.Words() ?? [])
        {
            yield return "--cpu-credits";
            yield return word;
        }
    }
}
