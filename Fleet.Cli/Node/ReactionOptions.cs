using System.CommandLine;
using System.Globalization;
using Fleet.Host.Pressure;

namespace Fleet.Cli.Node;

/// <summary>What a host does about pressure, as its options say.</summary>
/// <param name="Off">Nothing, and the control plane hears of none.</param>
/// <param name="Credits">Of each vCPU; null: it may use a whole CPU for ever.</param>
internal sealed record ReactionOptions(bool Off, CreditTerms? Credits);

/// <summary>The options themselves, of every command that runs a host.</summary>
internal sealed class ReactionSettings
{
    private readonly Option<bool> _off = new("--no-reaction")
    {
        Description = "Do nothing when this machine is short of CPU or memory (default: take no new microVM, take memory back from guests, squeeze, ask for evictions)",
    };

    private readonly Option<CreditTerms?> _credits = new("--cpu-credits")
    {
        Description = "PERCENT:SECONDS that a vCPU may use of a CPU for ever, and CPU time above that it can save, such as 25:300 (default: a whole CPU for ever)",
        CustomParser = result =>
        {
            var text = result.Tokens.Count == 1 ? result.Tokens[0].Value : "";
            if (CreditTerms.Parse(text) is { } terms)
                return terms;
            result.AddError($"--cpu-credits wants {CreditTerms.Form}; not '{text}'.");
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
        if (parsed.GetValue(_credits) is { } terms)
        {
            yield return "--cpu-credits";
            yield return string.Create(CultureInfo.InvariantCulture, $"{terms.Baseline * 100:0}:{terms.Bank.TotalSeconds:0}");
        }
    }
}
