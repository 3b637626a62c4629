using System.Net;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>Credentials as people and machines use them: real processes, the command line, a host that joins.</summary>
public sealed class AccessTests
{
    [Fact]
    public async Task Should_let_in_by_token_and_refuse_by_code()
    {
        await using var fleet = await RunningFleet.StartAsync();
        using var nobody = new HttpClient { BaseAddress = fleet.Http.BaseAddress };
        Assert.Equal(HttpStatusCode.Unauthorized, (await nobody.GetAsync("/v1/vms")).StatusCode);

        // A tenant sees its own, by the command line too.
        var (exit, output, error) = await fleet.CliAsync("token", "create", "--role", "tenant", "--tenant", "acme", "--note", "CI");
        Assert.True(exit == 0, error);
        var acme = output.Trim();
        await fleet.CreateAsync(new JsonObject { ["name"] = "infra", ["driver"] = "simulated" });
        (exit, _, error) = await fleet.CliAsync("vm", "run", "--driver", "simulated", "--name", "web", "--detach", "--token", acme);
        Assert.True(exit == 0, error);
        (_, output, _) = await fleet.CliAsync("vm", "list", "--token", acme);
        Assert.Contains("web", output, StringComparison.Ordinal);
        Assert.DoesNotContain("infra", output, StringComparison.Ordinal);
        (_, output, _) = await fleet.CliAsync("vm", "list");
        Assert.Matches(@"(?m)^TENANT  NAME .*\n(.*\n)*acme    web ", output);
        (exit, _, error) = await fleet.CliAsync("vm", "show", "infra", "--token", acme);
        Assert.Equal(3, exit);
        // What to do is said in words of the command line too.
        Assert.Contains("The list of microVMs shows", error, StringComparison.Ordinal);
        Assert.DoesNotContain("/v1", error, StringComparison.Ordinal);
        (exit, _, error) = await fleet.CliAsync("host", "list", "--token", acme);
        Assert.Contains("forbidden", error, StringComparison.Ordinal);

        (_, output, _) = await fleet.CliAsync("token", "list");
        var line = output.Split('\n').Single(row => row.Contains("acme", StringComparison.Ordinal));
        Assert.Contains("valid", line, StringComparison.Ordinal);
        Assert.Contains("CI", line, StringComparison.Ordinal);
        (exit, _, error) = await fleet.CliAsync("token", "revoke", line.Split(' ')[0]);
        Assert.True(exit == 0, error);
        (exit, _, error) = await fleet.CliAsync("vm", "list", "--token", acme);
        Assert.NotEqual(0, exit);
        Assert.Contains("unauthenticated", error, StringComparison.Ordinal);
        Assert.Contains("was revoked", error, StringComparison.Ordinal);
        (exit, _, error) = await fleet.CliAsync("vm", "list", "--token", "nonsense");
        Assert.Contains("token_malformed", error, StringComparison.Ordinal);

        // The log has the refusals, and no secret.
        var log = string.Join('\n', Directory.GetFiles(Path.Combine(fleet.Data, "log")).Select(ReadShared));
        Assert.Contains("was refused: unauthenticated", log, StringComparison.Ordinal);
        foreach (var token in new[] { acme, fleet.Token })
            Assert.DoesNotContain(token.Split('.')[2], log, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_have_a_host_join_once_come_back_without_a_token_and_stay_out_when_it_was_removed()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var folder = Path.Combine(fleet.Files, "two");
        string[] Words(string data) => ["host", "--data", data, "--join", fleet.Link.ToString(), "--id", "two", "--cpus", "1", "--memory", "256"];
        var words = Words(folder);

        Assert.Contains("not_joined", await EndAsync("none", words), StringComparison.Ordinal);
        Assert.Contains("token_role", await EndAsync("admin", [.. words, "--token", fleet.Token]), StringComparison.Ordinal);
        Assert.Contains("wrong_cell", await EndAsync("other", [.. words, "--token", Fleet.Shared.Access.AccessToken.New(new string('p', 43)).Text]), StringComparison.Ordinal);

        var token = await fleet.TokenAsync("host");
        await WhileAsync("first", [.. words, "--token", token], () => StateAsync("connected"));
        await StateAsync("disconnected");
        await WhileAsync("second", words, () => StateAsync("connected"));
        // The token stays in the unit's file, and is of no use any more: nothing is asked of it.
        await StateAsync("disconnected");
        await fleet.CliAsync("token", "revoke", token.Split('.')[1]);
        await WhileAsync("third", [.. words, "--token", token], () => StateAsync("connected"));
        // So is one that was never used here: it is refused, and the host goes on with the certificate that it has.
        await StateAsync("disconnected");
        var ended = await fleet.TokenAsync("host");
        await fleet.CliAsync("token", "revoke", ended.Split('.')[1]);
        await WhileAsync("fourth", [.. words, "--token", ended], () => StateAsync("connected"));
        Assert.Contains("token_revoked", File.ReadAllText(Path.Combine(fleet.Files, "fourth.out")), StringComparison.Ordinal);
        // Damaged credentials are said to be so, and a token for the host mends them.
        await StateAsync("disconnected");
        await File.WriteAllTextAsync(Path.Combine(folder, "host", "link", "link.pem"), "damaged");
        Assert.Contains("credentials_damaged", await EndAsync("damaged", words), StringComparison.Ordinal);
        Assert.Contains("token_revoked", await EndAsync("damaged-revoked", [.. words, "--token", ended]), StringComparison.Ordinal);
        await WhileAsync("mended", [.. words, "--token", await fleet.TokenAsync("host", "host", "two")], () => StateAsync("connected"));
        Assert.Contains("host_exists", await EndAsync("thief", [.. Words(folder + "-thief"), "--token", await fleet.TokenAsync("host")]), StringComparison.Ordinal);

        var removed = Path.Combine(fleet.Files, "removed.out");
        await RunningFleet.WaitAsync("the host to be forgotten", async () => (await fleet.CliAsync("host", "remove", "two")).Exit == 0);
        await WhileAsync("removed", words, () => RunningFleet.WaitAsync("the refusal", () =>
            Task.FromResult(File.Exists(removed) && File.ReadAllText(removed).Contains("certificate_revoked", StringComparison.Ordinal))));
        await WhileAsync("again", [.. words, "--token", await fleet.TokenAsync("host", "host", "two")], () => StateAsync("connected"));
        await RunningFleet.WaitAsync("the host to be forgotten", async () => (await fleet.CliAsync("host", "remove", "two")).Exit == 0);

        Task StateAsync(string state) => RunningFleet.WaitAsync($"the host to be {state}", async () =>
            (await fleet.SendAsync(HttpMethod.Get, "/v1/hosts/two")).Body is { ValueKind: JsonValueKind.Object } host
            && host.TryGetProperty("state", out var now) && now.GetString() == state);

        async Task<string> EndAsync(string name, string[] command)
        {
            using var process = fleet.Start(name, command);
            await process.WaitForExitAsync(new CancellationTokenSource(TimeSpan.FromSeconds(60)).Token);
            Assert.NotEqual(0, process.ExitCode);
            return File.ReadAllText(Path.Combine(fleet.Files, $"{name}.out"));
        }

        async Task WhileAsync(string name, string[] command, Func<Task> act)
        {
            using var process = fleet.Start(name, command);
            try
            {
                await act();
            }
            finally
            {
                using var kill = System.Diagnostics.Process.Start("kill", ["-TERM", $"{process.Id}"]);
                await kill.WaitForExitAsync();
                if (!process.WaitForExit(TimeSpan.FromSeconds(20)))
                    process.Kill();
            }
        }
    }

    [Fact]
    public async Task Should_make_a_cells_credentials_before_its_first_start()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-init-").FullName;
        try
        {
            var (exit, output) = await RunAsync("scheduler", "init", "--data", folder, "--json");
            Assert.Equal(0, exit);
            var made = JsonDocument.Parse(output).RootElement;
            var token = Fleet.Shared.Access.AccessToken.Parse(File.ReadAllText(made.GetProperty("admin_token").GetString()!).Trim())!;
            Assert.Equal(made.GetProperty("pin").GetString(), token.Pin);
            Assert.Equal(4, (await RunAsync("scheduler", "init", "--data", folder)).Exit);

            // The node takes up what was made, and the command line finds it over HTTPS, by the token's pin.
            var (api, link) = (FreePort.Next(), FreePort.Next());
            using var node = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo("dotnet",
                [RunningFleet.Program, "scheduler", "--data", folder, "--api", $"https://127.0.0.1:{api}", "--link", $"127.0.0.1:{link}"]) { RedirectStandardOutput = true })!;
            _ = node.StandardOutput.ReadToEndAsync();
            try
            {
                await RunningFleet.WaitAsync("the node", async () => (await RunAsync("vm", "list", "--data", folder, "--api", $"https://127.0.0.1:{api}")).Exit == 0);
                Assert.Equal(0, (await RunAsync("vm", "list", "--data", folder + "-none", "--token", token.Text, "--api", $"https://127.0.0.1:{api}")).Exit);
                // Another cell's token does not even get as far as being shown.
                (exit, output) = await RunAsync("vm", "list", "--data", folder, "--token", Fleet.Shared.Access.AccessToken.New(new string('p', 43)).Text, "--api", $"https://127.0.0.1:{api}", "--json");
                Assert.Contains("wrong_cell", output, StringComparison.Ordinal);
            }
            finally
            {
                using var kill = System.Diagnostics.Process.Start("kill", ["-TERM", $"{node.Id}"]);
                await kill.WaitForExitAsync();
                if (!node.WaitForExit(TimeSpan.FromSeconds(20)))
                    node.Kill();
            }
        }
        finally
        {
            Directory.Delete(folder, true);
        }

        static async Task<(int Exit, string Output)> RunAsync(params string[] words)
        {
            using var process = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo("dotnet", [RunningFleet.Program, .. words]) { RedirectStandardOutput = true, RedirectStandardError = true })!;
            var error = process.StandardError.ReadToEndAsync();
            var output = await process.StandardOutput.ReadToEndAsync();
            await process.WaitForExitAsync();
            await error;
            return (process.ExitCode, output);
        }
    }

    // The node still writes it.
    private static string ReadShared(string path)
    {
        using var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
        using var reader = new StreamReader(file);
        return reader.ReadToEnd();
    }
}
