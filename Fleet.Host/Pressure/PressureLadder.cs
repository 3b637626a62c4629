using Fleet.Shared.Contracts;

namespace Fleet.Host.Pressure;

/// <summary>How one resource stands.</summary>
internal enum Tension
{
    /// <summary>There is enough: what was done may be undone.</summary>
    Low,

    /// <summary>Not bad enough for more, not good enough for less; or nothing is known.</summary>
    Between,

    /// <summary>It is short.</summary>
    High,
}

/// <summary>How long tension must last. Both are dwell times too: no rung is left before the time of that direction has passed on it.</summary>
/// <param name="Rise">High without a break: one rung up.</param>
/// <param name="Fall">Low without a break: one rung down.</param>
internal sealed record LadderTimes(TimeSpan Rise, TimeSpan Fall);

/// <summary>
/// The reaction to pressure on one resource: one rung up when tension was high for long enough, one down when it was low for long enough, and
/// so every step is undone in reverse order. Decides alone; whoever owns it does what the rung says. Not safe for several threads.
/// </summary>
/// <param name="rungs">Those that help against want of this resource, at least two, in order, without <see cref="PressureRung.Calm"/>; the last one is what others are asked for.</param>
/// <param name="times">How long tension must last.</param>
internal sealed class PressureLadder(IReadOnlyList<PressureRung> rungs, LadderTimes times)
{
    private int _step;
    private Tension _tension = Tension.Between;
    private TimeSpan _since;

    /// <summary>Where it stands.</summary>
    public PressureRung Rung => _step == 0 ? PressureRung.Calm : rungs[_step - 1];

    /// <summary>As <see cref="Rung"/>, but the last one only as long as tension is high: what is done to others is not done until it is low.</summary>
    public PressureRung Asked => _step == rungs.Count && _tension != Tension.High ? rungs[_step - 2] : Rung;

    /// <summary>Whether that is done now: it was reached, and not undone.</summary>
    public bool Does(PressureRung rung)
    {
        for (var i = 0; i < _step; i++)
        {
            if (rungs[i] == rung)
                return true;
        }
        return false;
    }

    /// <summary>Takes what was measured into account. True: it stands on another rung now, or asks for another one.</summary>
    /// <param name="tension">Since the last time.</param>
    /// <param name="now">On a clock that nobody sets; never less than before.</param>
    public bool Take(Tension tension, TimeSpan now)
    {
        var asked = Asked;
        if (tension != _tension)
            (_tension, _since) = (tension, now);
        var next = _tension switch
        {
            Tension.High when _step < rungs.Count && now - _since >= times.Rise => _step + 1,
            Tension.Low when _step > 0 && now - _since >= times.Fall => _step - 1,
            _ => _step,
        };
        if (next == _step)
            return Asked != asked;
        // The next step needs its own whole time: what this one brings must be seen first.
        (_step, _since) = (next, now);
        return true;
    }
}
