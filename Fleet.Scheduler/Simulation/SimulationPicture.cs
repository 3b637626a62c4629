using System.Globalization;
using System.Text;

namespace Fleet.Scheduler.Simulation;

/// <summary>What came of simulations as a drawing, SVG: of each how full the fleet was over time.</summary>
public static class SimulationPicture
{
    private const int Width = 920;
    private const int PanelHeight = 240;
    private const int Left = 60;
    private const int Top = 40;
    private const int PlotWidth = 820;
    private const int PlotHeight = 150;

    private static readonly (string Name, string Colour, Func<SimulationPoint, double?> Of)[] Lines =
    [
        ("CPU promised", "#1f6fb4", point => point.CpuPromised),
        ("memory promised", "#c2410c", point => point.MemoryPromised),
        ("CPU used", "#7fb3dd", point => point.CpuUsed),
        ("memory used", "#f0a878", point => point.MemoryUsed),
    ];

    public static string Draw(IReadOnlyList<SimulationResult> results)
    {
        ArgumentNullException.ThrowIfNull(results);
        var svg = new StringBuilder();
        svg.Append(CultureInfo.InvariantCulture, $"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{Width}\" height=\"{PanelHeight * results.Count}\" font-family=\"sans-serif\" font-size=\"12\">\n");
        svg.Append("<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n");
        for (var i = 0; i < results.Count; i++)
        {
            svg.Append(CultureInfo.InvariantCulture, $"<g transform=\"translate(0,{i * PanelHeight})\">\n");
            Panel(svg, results[i]);
            svg.Append("</g>\n");
        }
        return svg.Append("</svg>\n").ToString();
    }

    private static void Panel(StringBuilder svg, SimulationResult result)
    {
        // Quarters of it are whole tens of percents.
        var highest = result.Points.Max(point => Lines.Max(line => line.Of(point) ?? 0));
        var most = highest <= 1 ? 1 : Math.Ceiling(highest / 0.4) * 0.4;
        var end = Math.Max(1, result.Points[^1].At);
        svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{Left}\" y=\"18\" font-size=\"14\">{Escape(result.Plan.Trace.Name)}, {Escape(result.Plan.Policy)}, seed {result.Plan.Seed}: {result.Hosts} hosts, {result.Refused} of {result.Arrived} refused</text>\n");
        for (var quarter = 0; quarter <= 4; quarter++)
        {
            var y = Top + PlotHeight - (PlotHeight * quarter / 4.0);
            svg.Append(CultureInfo.InvariantCulture, $"<path d=\"M{Left} {y:0.#}h{PlotWidth}\" stroke=\"#ddd\"/><text x=\"{Left - 6}\" y=\"{y + 4:0.#}\" text-anchor=\"end\">{most * quarter * 25:0} %</text>\n");
            svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{Left + (PlotWidth * quarter / 4)}\" y=\"{Top + PlotHeight + 16}\" text-anchor=\"middle\">{end * quarter / 4 / 3600:0.#} h</text>\n");
        }
        var legend = Left;
        foreach (var (name, colour, of) in Lines)
        {
            if (of(result.Points[^1]) is null)
                continue;
            svg.Append(CultureInfo.InvariantCulture, $"<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"");
            foreach (var point in result.Points)
                svg.Append(CultureInfo.InvariantCulture, $"{Left + (PlotWidth * point.At / end):0.#},{Top + PlotHeight - (PlotHeight * (of(point) ?? 0) / most):0.#} ");
            svg.Append("\"/>\n");
            svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{legend}\" y=\"{Top + PlotHeight + 36}\" fill=\"{colour}\">{name}</text>\n");
            legend += 140;
        }
        // Where microVMs were refused, along the foot.
        for (var i = 1; i < result.Points.Count; i++)
        {
            if (result.Points[i].Refused > result.Points[i - 1].Refused)
                svg.Append(CultureInfo.InvariantCulture, $"<path d=\"M{Left + (PlotWidth * result.Points[i].At / end):0.#} {Top + PlotHeight}v-6\" stroke=\"#b91c1c\"/>\n");
        }
        if (result.Refused > 0)
            svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{legend}\" y=\"{Top + PlotHeight + 36}\" fill=\"#b91c1c\">refused</text>\n");
    }

    private static string Escape(string text) => text.Replace("&", "&amp;", StringComparison.Ordinal).Replace("<", "&lt;", StringComparison.Ordinal);
}
