using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>A section of the README that shows a session: commands, what is typed into them, and what they print.</summary>
internal sealed partial class ReadmeSession
{
    private const string Indent = "    ";
    private const string Prompt = "$ ";
    private const string GuestPrompt = "/ # ";

    /// <summary>Before what the step of the number behind it prints.</summary>
    private const char Mark = '\u001e';

    private readonly List<Step> _steps = [];

    private ReadmeSession()
    {
    }

    private sealed record Step(string Command)
    {
        public List<string> Typed { get; } = [];

        public StringBuilder Printed { get; } = new();
    }

    /// <param name="heading">Of the section, which ends with the next one.</param>
    public static ReadmeSession Under(string heading)
    {
        var session = new ReadmeSession();
        var lines = File.ReadLines(Path.Combine(Checkout.Root, "README.md")).SkipWhile(line => line != heading).Skip(1).TakeWhile(line => !line.StartsWith('#'));
        foreach (var line in lines.Where(line => line.StartsWith(Indent, StringComparison.Ordinal)).Select(line => line[Indent.Length..]))
        {
            if (line.StartsWith(Prompt, StringComparison.Ordinal))
            {
                session._steps.Add(new Step(line[Prompt.Length..]));
                continue;
            }

            var step = session._steps[^1];
            if (line.StartsWith(GuestPrompt, StringComparison.Ordinal))
                step.Typed.Add(line[GuestPrompt.Length..]);
            step.Printed.Append(line).Append('\n');
        }

        Assert.NotEmpty(session._steps);
        return session;
    }

    /// <summary>For bash: each command with its mark before it, the status of the last one in <c>$?</c>.</summary>
    public string ToScript()
    {
        var script = new StringBuilder("status=0\n");
        foreach (var (number, step) in _steps.Index())
        {
            script.Append(CultureInfo.InvariantCulture, $"printf '\\036{number}\\n'; echo \"$SECONDS s: step {number}\" >>/mnt/times.trace; (exit $status)\n");
            script.Append(step.Typed.Count == 0 ? step.Command : $"type_into {Quote(step.Command)} {string.Join(' ', step.Typed.Select(Quote))}");
            script.Append("\nstatus=$?\n");
        }

        return script.ToString();
    }

    /// <summary>What is printed must be as the README has it, but for what differs from run to run; and the machine must be as it was.</summary>
    public void AssertPrinted(string output)
    {
        var parts = output.Split(Mark).Skip(1).Select(part => part.Split('\n', 2)).ToDictionary(part => part[0], part => part[1]);
        foreach (var (number, step) in _steps.Index())
        {
            var printed = parts.GetValueOrDefault(number.ToString(CultureInfo.InvariantCulture), "(nothing: the session ended before)");
            Assert.True(Normal(step.Printed.ToString()) == Normal(printed), $"$ {step.Command}\nmust print\n{step.Printed}\nbut printed\n{printed}\n\nthe whole session:\n{output}");
        }

        Assert.True(parts.GetValueOrDefault("traces") == "as before\n", $"the machine is not as before:\n{output}");
    }

    // Without what a terminal is told, numbers (but for a line that is one, a status), times, the driver, how wide a column is, empty lines, and what a start says when it takes long.
    private static string Normal(string text)
    {
        var lines = Terminal().Replace(text, "").Replace("/var/lib/fleet", "/mnt/fleet-data", StringComparison.Ordinal).Split('\n')
            .Where(line => !string.IsNullOrWhiteSpace(line) && !TakesLong().IsMatch(line));
        return string.Join('\n', lines.Select(line => StatusOnly().IsMatch(line) ? line : Spaces().Replace(Varying().Replace(line, "?"), " ").Trim()));
    }

    private static string Quote(string word) => $"'{word.Replace("'", "'\\''", StringComparison.Ordinal)}'";

    [GeneratedRegex(@"\r|\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")]
    private static partial Regex Terminal();

    // What starts, and what is asked for the first time, is slow under emulation.
    [GeneratedRegex(@"^fleet: (not ready yet: |\S+ waits for a host: .* 1 host gave no answer\.)")]
    private static partial Regex TakesLong();

    [GeneratedRegex(@"^\d{1,3}$")]
    private static partial Regex StatusOnly();

    [GeneratedRegex(@"\[[^\]]*\]|\b[0-9a-f]*(:[0-9a-f]*){2,}|\d+[smh]?\b|\d+|\b(kvm|qemu)\b")]
    private static partial Regex Varying();

    [GeneratedRegex(@"\s+")]
    private static partial Regex Spaces();
}
