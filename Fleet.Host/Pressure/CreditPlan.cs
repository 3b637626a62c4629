using Fleet.Shared.Vms;

namespace Fleet.Host.Pressure;

/// <summary>The CPU credits of each class of priority; null: its vCPUs may use a whole CPU for ever.</summary>
public sealed record CreditPlan(CreditTerms? Low, CreditTerms? Normal, CreditTerms? High)
{
    public const string Form = $"[CLASS=]{CreditTerms.Form}, and as CLASS low, normal or high, each once";

    /// <summary>Of a class: see <see cref="PriorityClass"/>.</summary>
    public CreditTerms? Of(string priority) => PriorityClass.Rank(priority) switch { 0 => Low, 2 => High, _ => Normal };

    /// <summary>Of words of <see cref="Form"/>: what one says of no class is for all that have none of their own. Null: one is not of that form, and <paramref name="broken"/> is it.</summary>
    public static CreditPlan? Parse(IEnumerable<string> words, out string broken)
    {
        ArgumentNullException.ThrowIfNull(words);
        var terms = new Dictionary<string, CreditTerms>(StringComparer.Ordinal);
        foreach (var word in words)
        {
            broken = word;
            var at = word.IndexOf('=', StringComparison.Ordinal);
            var name = at < 0 ? "" : word[..at];
            if ((at >= 0 && !PriorityClass.All.Contains(name)) || CreditTerms.Parse(word[(at + 1)..]) is not { } parsed || !terms.TryAdd(name, parsed))
                return null;
        }
        broken = "";
        var others = terms.GetValueOrDefault("");
        CreditTerms? Of(string name) => terms.GetValueOrDefault(name) ?? others;
        return terms.Count == 0 ? null : new(Of(PriorityClass.Low), Of(PriorityClass.Normal), Of(PriorityClass.High));
    }

    /// <summary>As <see cref="Parse"/> takes it.</summary>
    public IEnumerable<string> Words()
    {
        if (Low == Normal && Normal == High)
            return Low is null ? [] : [Low.ToString()];
        return PriorityClass.All.Where(name => Of(name) is not null).Select(name => $"{name}={Of(name)}");
    }
}
