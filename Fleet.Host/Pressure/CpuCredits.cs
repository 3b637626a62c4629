using System.Globalization;

namespace Fleet.Host.Pressure;

/// <summary>What a vCPU may use for ever, and how much of what it leaves it may save.</summary>
/// <param name="Baseline">Share of a CPU, 0.05 to 1. At 1 there is nothing to save, and nothing is limited.</param>
/// <param name="Bank">CPU time that can be saved at most, 10 s to a day.</param>
public sealed record CreditTerms(double Baseline, TimeSpan Bank)
{
    private const int LeastPercent = 5;
    private const int LeastSeconds = 10;
    private const int MostSeconds = 86_400;

    public const string Form = "PERCENT:SECONDS, such as 25:300, with 5 to 100 percent and 10 to 86400 seconds";

    /// <summary>Of <see cref="Form"/>; null when it is not of that form.</summary>
    public static CreditTerms? Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        var parts = text.Split(':');
        return parts.Length == 2
            && int.TryParse(parts[0], NumberStyles.None, CultureInfo.InvariantCulture, out var percent) && percent is >= LeastPercent and <= 100
            && int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out var seconds) && seconds is >= LeastSeconds and <= MostSeconds
            ? new CreditTerms(percent / 100.0, TimeSpan.FromSeconds(seconds))
            : null;
    }
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

    /// <summary>Takes into account what was used in a time.</summary>
    public void Take(TimeSpan used, TimeSpan span)
    {
        Balance += (span * _terms.Baseline) - used;
        Balance = Balance > _terms.Bank ? _terms.Bank : Balance < -_terms.Bank ? -_terms.Bank : Balance;
        if (_terms.Baseline >= 1)
            return;
        if (Balance <= TimeSpan.Zero)
            IsHeldBack = true;
        else if (Balance >= _terms.Bank / Part)
            IsHeldBack = false;
    }
}
