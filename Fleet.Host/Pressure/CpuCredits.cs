using System.Globalization;

namespace Fleet.Host.Pressure;

/// <summary>What a vCPU may use for ever, how much of what it leaves it may save, and what it gets where CPUs are short.</summary>
/// <param name="Baseline">Share of a CPU, 0.05 to 1. At 1 there is nothing to save, and nothing is limited.</param>
/// <param name="Bank">CPU time that can be saved at most, 10 s to a day.</param>
/// <param name="Weight">Of a vCPU, 0.1 to 10: where CPUs are short they are shared in proportion to it.</param>
public sealed record CreditTerms(double Baseline, TimeSpan Bank, double Weight = 1)
{
    private const int LeastPercent = 5;
    private const int LeastSeconds = 10;
    private const int MostSeconds = 86_400;
    private const int LeastWeight = 10;
    private const int MostWeight = 1000;

    public const string Form = "PERCENT:SECONDS[:WEIGHT], such as 25:300 or 25:300:50, with 5 to 100 percent, 10 to 86400 seconds and a weight of 10 to 1000 percent";

    /// <summary>Of <see cref="Form"/>; null when it is not of that form.</summary>
    public static CreditTerms? Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        var parts = text.Split(':');
        return parts.Length is 2 or 3
            && Number(parts[0], LeastPercent, 100) is { } percent
            && Number(parts[1], LeastSeconds, MostSeconds) is { } seconds
            && (parts.Length == 2 ? 100 : Number(parts[2], LeastWeight, MostWeight)) is { } weight
            ? new CreditTerms(percent / 100.0, TimeSpan.FromSeconds(seconds), weight / 100.0)
            : null;
    }

    /// <summary>As <see cref="Parse"/> takes it.</summary>
    public override string ToString() =>
        string.Create(CultureInfo.InvariantCulture, $"{Baseline * 100:0}:{Bank.TotalSeconds:0}") + (Weight == 1 ? "" : string.Create(CultureInfo.InvariantCulture, $":{Weight * 100:0}"));

    private static int? Number(string text, int least, int most) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number >= least && number <= most ? number : null;
}

/// <summary>
/// The burst bank of one vCPU: it fills by what the vCPU leaves of its baseline, and is emptied by what it uses above. Empty, the vCPU gets its
/// baseline until it has saved a tenth of the bank, so that it does not change with every look. What it used before it could be held back is a debt.
/// Not safe for several threads.
/// </summary>
internal sealed class CpuCredits
{
    /// <summary>Part of the bank that a new vCPU has, and that one which was held back must save: more, and being started anew would pay.</summary>
    private const int Part = 10;

    private readonly CreditTerms _terms;

    public CpuCredits(CreditTerms terms)
    {
        _terms = terms;
        Balance = terms.Bank / Part;
    }

    /// <summary>CPU time; negative: a debt, at most a whole bank.</summary>
    public TimeSpan Balance { get; private set; }

    /// <summary>It has to do with its baseline.</summary>
    public bool IsHeldBack { get; private set; }

    /// <summary>CPUs that it may use now, 0 to 1.</summary>
    public double Allowance => IsHeldBack ? _terms.Baseline : 1;

    /// <summary>
    /// Takes into account what was used in a time. Returns what was used above the baseline although it was held back: the quota is the microVM's, so that was what another vCPU
    /// left, who is to pay for it (<see cref="Pay"/>), or an idle vCPU would give a busy one a whole CPU for ever.
    /// </summary>
    public TimeSpan Take(TimeSpan used, TimeSpan span)
    {
        var earned = span * _terms.Baseline;
        var lent = IsHeldBack && used > earned ? used - earned : TimeSpan.Zero;
        Add(earned - used);
        return lent;
    }

    /// <summary>Pays for what another vCPU used of its share.</summary>
    public void Pay(TimeSpan lent) => Add(-lent);

    private void Add(TimeSpan credits)
    {
        Balance += credits;
        Balance = Balance > _terms.Bank ? _terms.Bank : Balance < -_terms.Bank ? -_terms.Bank : Balance;
        if (_terms.Baseline >= 1)
            return;
        if (Balance <= TimeSpan.Zero)
            IsHeldBack = true;
        else if (Balance >= _terms.Bank / Part)
            IsHeldBack = false;
    }
}
