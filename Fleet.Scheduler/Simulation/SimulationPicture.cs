using System.Globalization;
using System.Text;

namespace Fleet.Scheduler.Simulation;

/// <summary>What came of simulations as a drawing, SVG: of each how full the fleet was over time. All are drawn to one scale, so that they can be compared.</summary>
public static class SimulationPicture
{
    private const int Width = 920;
    private const int PanelHeight = 270;
    private const int Left = 60;
    private const int Top = 56;
    private const int PlotWidth = 820;
    private const int PlotHeight = 150;
    private const int LegendWidth = 142;
    private const int LongestName = 40;

    /// <summary>Times that are marked, at most.</summary>
    private const int Marks = 8;

    private const string Red = "#b91c1c";

    private static readonly (string Name, string Style, Func<SimulationResult, SimulationPoint, double?> Of)[] Lines =
    [
        ("hosts in use", "stroke=\"#6b7280\" stroke-width=\"1\"", (result, point) => (double)point.HostsUsed / result.Hosts),
        ("CPU promised", "stroke=\"#1f6fb4\" stroke-width=\"1.8\"", (_, point) => point.CpuPromised),
        ("memory promised", "stroke=\"#c2410c\" stroke-width=\"1.8\"", (_, point) => point.MemoryPromised),
        ("CPU used", "stroke=\"#1f6fb4\" stroke-width=\"1\" stroke-dasharray=\"3 2\"", (_, point) => point.CpuUsed),
        ("memory used", "stroke=\"#c2410c\" stroke-width=\"1\" stroke-dasharray=\"3 2\"", (_, point) => point.MemoryUsed),
    ];

    private static readonly (string Name, double Seconds)[] Units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];

    public static string Draw(IReadOnlyList<SimulationResult> results)
    {
        ArgumentNullException.ThrowIfNull(results);
        // Quarters of it are whole tens of percents.
        var highest = results.Max(result => result.Points.Max(point => Lines.Max(line => line.Of(result, point) ?? 0)));
        var most = highest <= 1 ? 1 : Math.Ceiling(highest / 0.4) * 0.4;
        var end = Math.Max(1, results.Max(result => result.Points[^1].At));
        var svg = new StringBuilder();
        svg.Append(CultureInfo.InvariantCulture, $"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{Width}\" height=\"{PanelHeight * results.Count}\" font-family=\"sans-serif\" font-size=\"12\">\n");
        svg.Append("<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n");
        for (var i = 0; i < results.Count; i++)
        {
            svg.Append(CultureInfo.InvariantCulture, $"<g transform=\"translate(0,{i * PanelHeight})\">\n");
            Panel(svg, results[i], most, end);
            svg.Append("</g>\n");
        }
        return svg.Append("</svg>\n").ToString();
    }

    private static void Panel(StringBuilder svg, SimulationResult result, double most, double end)
    {
        double X(double at) => Left + (PlotWidth * at / end);
        double Y(double share) => Top + PlotHeight - (PlotHeight * share / most);
        svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{Left}\" y=\"22\" font-size=\"14\">{Shown(result.Plan.Trace.Name)}, {Shown(result.Plan.Policy)}, seed {result.Plan.Seed}: {result.Hosts:N0} host{(result.Hosts == 1 ? "" : "s")}, {result.Refused:N0} of {result.Arrived:N0} refused</text>\n");
        svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{Left}\" y=\"42\" fill=\"#555\">Share of the whole fleet, over time since the first microVM</text>\n");
        for (var quarter = 0; quarter <= 4; quarter++)
        {
            var y = Y(most * quarter / 4);
            svg.Append(CultureInfo.InvariantCulture, $"<path d=\"M{Left} {y:0.#}h{PlotWidth}\" stroke=\"#ddd\"/><text x=\"{Left - 6}\" y=\"{y + 4:0.#}\" text-anchor=\"end\">{most * quarter * 25:0} %</text>\n");
        }
        // What the machines have, where more than that may be promised.
        if (most > 1)
            svg.Append(CultureInfo.InvariantCulture, $"<path d=\"M{Left} {Y(1):0.#}h{PlotWidth}\" stroke=\"#555\"/><text x=\"{Left + PlotWidth + 4}\" y=\"{Y(1) + 4:0.#}\" fill=\"#555\">all</text>\n");
        var step = Step(end);
        var (unit, seconds) = Units.First(one => step % one.Seconds == 0);
        for (var mark = 0; mark * step <= end; mark++)
            svg.Append(CultureInfo.InvariantCulture, $"<path d=\"M{X(mark * step):0.#} {Top + PlotHeight}v4\" stroke=\"#555\"/><text x=\"{X(mark * step):0.#}\" y=\"{Top + PlotHeight + 18}\" text-anchor=\"middle\">{mark * step / seconds:0} {unit}</text>\n");
        var legend = Left;
        foreach (var (name, style, of) in Lines)
        {
            if (of(result, result.Points[^1]) is null)
                continue;
            svg.Append(CultureInfo.InvariantCulture, $"<polyline fill=\"none\" {style} points=\"");
            foreach (var point in result.Points)
                svg.Append(CultureInfo.InvariantCulture, $"{X(point.At):0.#},{Y(of(result, point) ?? 0):0.#} ");
            svg.Append("\"/>\n");
            Explain(name, style);
        }
        if (result.Refused == 0)
            return;
        // Where microVMs were refused, above the plot, where no line is.
        const string Mark = $"stroke=\"{Red}\" stroke-width=\"2\"";
        for (var i = 1; i < result.Points.Count; i++)
        {
            if (result.Points[i].Refused > result.Points[i - 1].Refused)
                svg.Append(CultureInfo.InvariantCulture, $"<path d=\"M{X(result.Points[i].At):0.#} {Top - 8}v6\" {Mark}/>\n");
        }
        Explain("some refused", Mark, "m8 -3v6");

        void Explain(string name, string style, string sample = "h16")
        {
            svg.Append(CultureInfo.InvariantCulture, $"<path d=\"M{legend} {Top + PlotHeight + 38}{sample}\" {style}/><text x=\"{legend + 22}\" y=\"{Top + PlotHeight + 42}\">{name}</text>\n");
            legend += LegendWidth;
        }
    }

    // Between two marks, in seconds: whole minutes, hours or days where it is that long.
    private static double Step(double end)
    {
        foreach (var step in (double[])[1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800])
        {
            if (end / step <= Marks)
                return step;
        }
        return Math.Ceiling(end / Marks / 86_400 / 7) * 7 * 86_400;
    }

    private static string Shown(string text)
    {
        var shown = new StringBuilder();
        foreach (var rune in text.EnumerateRunes())
        {
            if (shown.Length >= LongestName)
                return shown.Append('…').ToString();
            shown.Append(Rune.IsControl(rune) ? "?" : rune.Value switch { '&' => "&amp;", '<' => "&lt;", _ => rune.ToString() });
        }
        return shown.ToString();
    }
}
