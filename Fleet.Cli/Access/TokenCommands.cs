using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Output;

namespace Fleet.Cli.Access;

/// <summary><c>fleet token create | list | revoke</c>.</summary>
internal static class TokenCommands
{
    public static Command Create() => new("token", "Tokens: who may join, and who may use the API") { New(), List(), Revoke() };

    private static Command New()
    {
        var role = new Option<string>("--role") { Description = "host or scheduler to join, admin or tenant to use the API", Required = true };
        role.AcceptOnlyFromAmong("host", "scheduler", "admin", "tenant");
        var tenant = new Option<string?>("--tenant") { Description = "Whose token it is, with --role tenant" };
        var host = new Option<string?>("--host") { Description = "With --role host: only this host may join by it, and may be known already" };
        var ttl = new Option<TimeSpan?>("--ttl")
        {
            Description = "How long it lives: 90s, 15m, 12h, 30d (default: 1h for host and scheduler, else without end)",
            CustomParser = result => Duration(result.Tokens.Count == 1 ? result.Tokens[0].Value : "") ?? Wrong(result),
        };
        var note = new Option<string?>("--note") { Description = "What it is for" };
        return new Command("create", "Make a token and print it, this once") { role, tenant, host, ttl, note }.Calls(async (api, parsed, cancellation) =>
        {
            var body = new JsonObject { ["role"] = parsed.GetRequiredValue(role) };
            foreach (var (name, value) in new[] { ("tenant", parsed.GetValue(tenant)), ("host", parsed.GetValue(host)), ("note", parsed.GetValue(note)) })
            {
                if (value is not null)
                    body[name] = value;
            }
            if (parsed.GetValue(ttl) is { } life)
                body["ttl_seconds"] = (long)life.TotalSeconds;
            var made = await api.PostAsync("v1/tokens", body, cancellation);
            var output = parsed.InvocationConfiguration.Output;
            if (parsed.GetValue(CommandContext.Json))
                Render.Json(output, made);
            else
                output.WriteLine(made.Text("secret"));
            return ExitCodes.Ok;
        });

        static TimeSpan? Wrong(System.CommandLine.Parsing.ArgumentResult result)
        {
            result.AddError("--ttl wants a number and s, m, h or d, such as 12h.");
            return null;
        }
    }

    private static Command List() => new Command("list", "List tokens, ended ones for a week").Calls(async (api, parsed, cancellation) =>
    {
        var tokens = (await api.GetAsync("v1/tokens", cancellation)).GetProperty("items");
        var output = parsed.InvocationConfiguration.Output;
        if (parsed.GetValue(CommandContext.Json))
        {
            Render.Json(output, tokens);
            return ExitCodes.Ok;
        }

        var now = TimeProvider.System.GetUtcNow();
        Render.Table(output, ["TOKEN", "ROLE", "FOR", "AGE", "STATE", "NOTE"], tokens.EnumerateArray().Select(token => (IReadOnlyList<string>)
        [
            token.Text("id"), token.Text("role"), For(token), Render.Age(token.Text("created_at"), now),
            State(token, now), token.Text("note") is { Length: > 0 } note ? note : "-",
        ]));
        return ExitCodes.Ok;
    });

    private static Command Revoke()
    {
        var id = new Argument<string>("token") { Description = "Id of the token, as fleet token list has it" };
        return new Command("revoke", "End a token, everywhere within a second") { id }.Calls(async (api, parsed, cancellation) =>
        {
            var token = await api.DeleteAsync("v1/tokens/" + Uri.EscapeDataString(parsed.GetRequiredValue(id)), cancellation);
            var output = parsed.InvocationConfiguration.Output;
            if (parsed.GetValue(CommandContext.Json))
                Render.Json(output, token);
            else
                output.WriteLine($"{token.Text("id")}: revoked");
            return ExitCodes.Ok;
        });
    }

    private static string State(JsonElement token, DateTimeOffset now)
    {
        if (token.Text("revoked_at") != "-")
            return "revoked";
        if (token.Text("expires_at") is "-")
            return "valid";
        var end = token.Text("expires_at");
        return DateTimeOffset.Parse(end, CultureInfo.InvariantCulture) <= now ? "expired" : $"valid until {end}";
    }

    private static string For(JsonElement token) => token.Text("tenant") is not "-" and var tenant ? tenant : token.Text("host");

    /// <summary>A number and its unit; null: something else.</summary>
    internal static TimeSpan? Duration(string text)
    {
        if (text.Length < 2 || !int.TryParse(text.AsSpan(0, text.Length - 1), NumberStyles.None, CultureInfo.InvariantCulture, out var number))
            return null;
        return text[^1] switch
        {
            's' => TimeSpan.FromSeconds(number),
            'm' => TimeSpan.FromMinutes(number),
            'h' => TimeSpan.FromHours(number),
            'd' when number <= 36_500 => TimeSpan.FromDays(number),
            _ => null,
        };
    }
}
