using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Fleet.Cli.Output;

namespace Fleet.Cli.Hosts;

/// <summary><c>fleet host list | show | cordon | uncordon | remove</c>.</summary>
internal static class HostCommands
{
    /// <summary>The verbs; <paramref name="host"/> is also the command that runs an agent.</summary>
    public static void AddTo(Command host)
    {
        host.Subcommands.Add(List());
        host.Subcommands.Add(Show());
        host.Subcommands.Add(Cordon("cordon", "Have a host take no new microVM; those that it has stay"));
        host.Subcommands.Add(Cordon("uncordon", "Have a host take microVMs again, also one in quarantine"));
        host.Subcommands.Add(Remove());
    }

    private static Command List() => new Command("list", "List the hosts of the fleet").Calls(async (api, parsed, cancellation) =>
    {
        var hosts = await api.ListAsync("v1/hosts", cancellation);
        var output = parsed.InvocationConfiguration.Output;
        if (parsed.GetValue(CommandContext.Json))
        {
            Render.Json(output, hosts);
            return ExitCodes.Ok;
        }

        var rows = hosts.Select(node => JsonSerializer.SerializeToElement(node)).Select(host => (IReadOnlyList<string>)
        [
            host.Text("id"), State(host), $"{host.Text("reserved_cpus")}/{host.Text("cpus")}",
            $"{host.Text("reserved_memory_mib")}/{host.Text("memory_mib")}", host.Text("vms"), Drivers(host), host.Text("auto_driver"),
        ]);
        Render.Table(output, ["HOST", "STATE", "CPUS", "MEMORY MiB", "VMS", "DRIVERS", "AUTO"], rows);
        return ExitCodes.Ok;
    });

    private static Command Show()
    {
        var id = new Argument<string>("host") { Description = "Id of the host" };
        return new Command("show", "Show one host") { id }.Calls(async (api, parsed, cancellation) =>
        {
            var host = await api.GetAsync("v1/hosts/" + Uri.EscapeDataString(parsed.GetRequiredValue(id)), cancellation);
            var output = parsed.InvocationConfiguration.Output;
            if (parsed.GetValue(CommandContext.Json))
            {
                Render.Json(output, host);
                return ExitCodes.Ok;
            }

            output.WriteLine($"host          {host.Text("id")} ({State(host)}, {(host.Text("state") == "connected" ? "since" : "connected last at")} {host.Text("connected_at")})");
            if (host.TryGetProperty("quarantine", out var quarantine) && quarantine.ValueKind == JsonValueKind.Object)
            {
                output.WriteLine($"quarantine    since {quarantine.Text("since")}: {quarantine.GetProperty("reason").Text("message")}");
                output.WriteLine($"              one microVM is tried at {quarantine.Text("retry_at")}; fleet host uncordon ends it now");
            }

            output.WriteLine($"machine       {host.Text("architecture")}, Linux {host.Text("kernel")}, agent {host.Text("agent_version")}");
            output.WriteLine($"cpus          {host.Text("reserved_cpus")} reserved of {host.Text("cpus")}");
            output.WriteLine($"memory        {host.Text("reserved_memory_mib")} MiB reserved of {host.Text("memory_mib")}");
            output.WriteLine($"microVMs      {host.Text("vms")}");
            foreach (var driver in host.GetProperty("drivers").EnumerateArray())
            {
                var mark = driver.GetProperty("usable").GetBoolean() ? "usable" : "not usable";
                output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"driver        {driver.Text("name"),-10} {mark}: {Render.Printable(driver.Text("detail"))}"));
            }

            output.WriteLine($"auto picks    {host.Text("auto_driver")}");
            return ExitCodes.Ok;
        });
    }

    private static Command Cordon(string verb, string description)
    {
        var id = new Argument<string>("host") { Description = "Id of the host" };
        return new Command(verb, description) { id }.Calls(async (api, parsed, cancellation) =>
        {
            var host = await api.PostAsync($"v1/hosts/{Uri.EscapeDataString(parsed.GetRequiredValue(id))}/{verb}", null, cancellation);
            var output = parsed.InvocationConfiguration.Output;
            if (parsed.GetValue(CommandContext.Json))
                Render.Json(output, host);
            else
                output.WriteLine($"{host.Text("id")}: {State(host)}");
            return ExitCodes.Ok;
        });
    }

    private static string State(JsonElement host) =>
        host.Text("state")
        + (host.TryGetProperty("cordoned", out var cordoned) && cordoned.ValueKind == JsonValueKind.True ? ", cordoned" : "")
        + (host.Text("quarantine") != "-" ? ", quarantined" : "");

    private static Command Remove()
    {
        var id = new Argument<string>("host") { Description = "Id of a host that is not connected and carries no microVM" };
        return new Command("remove", "Forget a host") { id }.Calls(async (api, parsed, cancellation) =>
        {
            await api.DeleteAsync("v1/hosts/" + Uri.EscapeDataString(parsed.GetRequiredValue(id)), cancellation);
            return ExitCodes.Ok;
        });
    }

    private static string Drivers(JsonElement host) => string.Join(",", host.GetProperty("drivers").EnumerateArray()
        .Where(driver => driver.GetProperty("usable").GetBoolean())
        .Select(driver => driver.Text("name")));
}
