using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Fleet.Cli.Output;

namespace Fleet.Cli.Vms;

/// <summary><c>fleet vm place</c>: where a microVM would go, why, and what would have to be different. Nothing is created.</summary>
internal static class PlaceCommand
{
    public static Command Create()
    {
        var wanted = new SpecOptions();
        var gangSize = new Option<int?>("--gang-size") { Description = "Of so many, placed all together or not at all" };
        var place = new Command("place", "Say where a microVM would go and why, without creating it") { gangSize };
        wanted.AddTo(place);
        return place.Calls(async (api, parsed, cancellation) =>
        {
            var review = await api.PostAsync("v1/placements" + (parsed.GetValue(gangSize) is { } size ? string.Create(CultureInfo.InvariantCulture, $"?gang_size={size}") : ""), wanted.Of(parsed), cancellation);
            if (parsed.GetValue(CommandContext.Json))
                Render.Json(parsed.InvocationConfiguration.Output, review);
            else
                Print(parsed.InvocationConfiguration.Output, review);
            return review.GetProperty("fits").GetBoolean() ? ExitCodes.Ok : ExitCodes.Failed;
        });
    }

    /// <summary>The review for people.</summary>
    public static void Print(TextWriter output, JsonElement review)
    {
        var candidates = review.GetProperty("candidates").EnumerateArray().ToList();
        output.WriteLine(!review.GetProperty("fits").GetBoolean() ? Render.Printable(review.GetProperty("reason").Text("message"))
            : review.GetProperty("preempts").GetBoolean() ? $"It would take the room of microVMs of lower classes{(candidates.Count == 0 ? "" : $" on {candidates[0].Text("host")}")}."
            : candidates.Count == 0 ? "It fits."
            : $"It would go to {candidates[0].Text("host")}; {review.Text("fitting_hosts")} would do.");
        if (candidates.Count > 0)
        {
            var parts = candidates[0].GetProperty("scores").EnumerateArray().Select(score => score.Text("name")).ToList();
            output.WriteLine();
            Render.Table(output, ["HOST", "COST", .. parts.Select(part => part.ToUpperInvariant())], candidates.Select(candidate => (IReadOnlyList<string>)
                [candidate.Text("host"), Cost(candidate), .. candidate.GetProperty("scores").EnumerateArray().Select(Cost)]));
        }

        if (review.GetProperty("rejections").EnumerateArray().ToList() is { Count: > 0 } rejections)
        {
            output.WriteLine();
            Render.Table(output, ["NOT", "HOSTS", "WANTED", "MOST FREE"], rejections.Select(rejection => (IReadOnlyList<string>)
                [rejection.Text("reason"), rejection.Text("hosts"), rejection.Text("wanted"), rejection.Text("most_free")]));
        }

        if (review.GetProperty("would_fit_if").EnumerateArray().ToList() is { Count: > 0 } changes)
        {
            output.WriteLine();
            output.WriteLine("Each of these alone would make it fit:");
            foreach (var change in changes)
                output.WriteLine($"  {Change(change)}");
        }
    }

    private static string Cost(JsonElement of) => of.GetProperty("cost").GetDouble().ToString("0.000", CultureInfo.InvariantCulture);

    private static string Change(JsonElement change) => change.Text("like_host") is var like and not "-" ? $"one more host like {like}"
        : change.Text("value") is var value and not "-" ? $"{change.Text("field")} of {value} or less"
        : $"without {change.Text("field")}";
}
