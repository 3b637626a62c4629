using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;
using Fleet.Cli.Output;

namespace Fleet.Cli.Hosts;

/// <summary><c>fleet host list | show | cordon | uncordon | drain | undrain | remove</c>.</summary>
internal static class HostCommands
{
    private static readonly TimeSpan DrainLook = TimeSpan.FromMilliseconds(500);
    private static readonly TimeSpan PlacingPatience = TimeSpan.FromSeconds(15);

    /// <summary>The verbs; <paramref name="host"/> is also the command that runs an agent.</summary>
    public static void AddTo(Command host)
    {
        host.Subcommands.Add(List());
        host.Subcommands.Add(Show());
        host.Subcommands.Add(Cordon("cordon", "Have a host take no new microVM; those that it has stay"));
        host.Subcommands.Add(Cordon("uncordon", "Have a host take microVMs again, also one in quarantine"));
        host.Subcommands.Add(Cordon("undrain", "The same as uncordon: ends a drain; what moves already goes on", "uncordon"));
        host.Subcommands.Add(Drain());
        host.Subcommands.Add(Remove());
    }

    private static Command List() => new Command("list", "List the hosts of the fleet: what is promised of what each may promise, and why it gets no microVM").Calls(async (api, parsed, cancellation) =>
    {
        var hosts = await api.ListAsync("v1/hosts", cancellation);
        var output = parsed.InvocationConfiguration.Output;
        if (parsed.GetValue(CommandContext.Json))
        {
            Render.Json(output, hosts);
            return ExitCodes.Ok;
        }

        var now = TimeProvider.System.GetUtcNow();
        Render.Table(output, ["HOST", "STATE", "vCPUS", "MEMORY MiB", "VMS", "DRIVERS", "AUTO", "REASON"], hosts.Select(node => Row(JsonSerializer.SerializeToElement(node), now)));
        return ExitCodes.Ok;
    });

    internal static IReadOnlyList<string> Row(JsonElement host, DateTimeOffset now)
    {
        var caps = host.GetProperty("usage");
        return
        [
            host.Text("id"), State(host), $"{host.Text("reserved_cpus")}/{caps.Text("cap_cpus")}", $"{host.Text("reserved_memory_mib")}/{caps.Text("cap_memory_mib")}",
            host.Text("vms"), Drivers(host), host.Text("auto_driver"), Reason(host, now),
        ];
    }

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

            output.WriteLine($"host          {host.Text("id")} ({State(host)}, {Since(host)})");
            if (host.TryGetProperty("quarantine", out var quarantine) && quarantine.ValueKind == JsonValueKind.Object)
            {
                output.WriteLine($"quarantine    since {quarantine.Text("since")}: {quarantine.GetProperty("reason").Text("message")}");
                output.WriteLine($"              one microVM is tried at {quarantine.Text("retry_at")}; fleet host uncordon ends it now");
            }

            if (host.GetProperty("drain").ValueKind == JsonValueKind.Object)
            {
                output.WriteLine($"drain         {Progress(host)[(host.Text("id").Length + 2)..]}");
                foreach (var one in host.GetProperty("drain").GetProperty("staying").EnumerateArray())
                    output.WriteLine($"              {one.Text("id")} stays: {one.GetProperty("reason").Text("message")}");
            }

            if (host.GetProperty("pressure") is { ValueKind: JsonValueKind.Object } pressure)
                output.WriteLine($"short         takes no microVM: {pressure.Text("cpu")} for CPU, {pressure.Text("memory")} for memory: {Render.Printable(pressure.Text("why"))}");
            output.WriteLine($"machine       {host.Text("architecture")}, Linux {host.Text("kernel")}, agent {host.Text("agent_version")}");
            var usage = host.GetProperty("usage");
            output.WriteLine($"cpus          {host.Text("cpus")}: {host.Text("reserved_cpus")} promised of {usage.Text("cap_cpus")}, {Number(usage, "used_cpus")} used{Forecast(usage, "peak_cpus", "room_cpus")}");
            output.WriteLine($"memory        {host.Text("memory_mib")} MiB: {host.Text("reserved_memory_mib")} promised of {usage.Text("cap_memory_mib")}, {Number(usage, "used_memory_mib")} used{Forecast(usage, "peak_memory_mib", "room_memory_mib")}");
            output.WriteLine($"disk          {Of(host, "disk_mib", "MiB")}: {host.Text("reserved_disk_mib")} promised{Cap(usage, "cap_disk_mib")}, {Number(usage, "volumes_mib")} for volumes, {Number(usage, "saved_mib")} for suspended microVMs");
            output.WriteLine($"network       {Of(host, "network_mbit", "Mbit/s each way")}: {host.Text("reserved_network_mbit")} promised{Cap(usage, "cap_network_mbit")}");
            output.WriteLine($"disk ops      {Of(host, "iops", "a second")}: {host.Text("reserved_iops")} promised{Cap(usage, "cap_iops")}");
            if (host.GetProperty("cpu_templates").EnumerateArray().ToList() is { Count: > 0 } templates)
                output.WriteLine($"CPU templates {string.Join(", ", templates.Select(template => template.GetString()))}");
            if (usage.GetProperty("forecast") is { ValueKind: JsonValueKind.Object } by)
                output.WriteLine($"predicted by  {(by.Text("host_class") is var own and not "-" ? $"class {own}: " : "")}{by.Text("cpu_predictor")} for CPU, {by.Text("memory_predictor")} for memory, {Number(by, "reserve")} left free");
            output.WriteLine($"pressure      {Number(usage, "waiting_cpus")} vCPUs wait for a CPU, {Percent(usage, "stolen_share")} stolen; stalls: {Stalls(usage)}");
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

    internal static string Since(JsonElement host) =>
        host.Text("silent_since") is "-" ? $"since {host.Text("connected_at")}"
        : host.GetProperty("given_up_in_seconds") is { ValueKind: JsonValueKind.Number } left
            ? $"silent since {host.Text("silent_since")}, given up in {Math.Ceiling(left.GetDouble()).ToString("0", CultureInfo.InvariantCulture)} s"
        : $"silent since {host.Text("silent_since")}";

    private static string Of(JsonElement host, string name, string unit) => host.Text(name) is "-" ? "not known" : $"{host.Text(name)} {unit}";

    private static string Cap(JsonElement usage, string name) => usage.Text(name) is "-" ? "" : $" of {usage.Text(name)}";

    private static string Number(JsonElement json, string name) =>
        json.GetProperty(name) is { ValueKind: JsonValueKind.Number } number ? number.GetDouble().ToString("0.##", CultureInfo.InvariantCulture) : "-";

    private static string Percent(JsonElement json, string name) =>
        json.GetProperty(name) is { ValueKind: JsonValueKind.Number } share ? share.GetDouble().ToString("0.#%", CultureInfo.InvariantCulture) : "-";

    private static string Stalls(JsonElement usage) =>
        usage.GetProperty("stalls") is { ValueKind: JsonValueKind.Object } stalls
            ? $"cpu {Percent(stalls, "cpu_some")}, memory {Percent(stalls, "memory_some")}, io {Percent(stalls, "io_some")}"
            : "not told by its kernel";

    /// <summary>Empty where hosts promise by their ratios alone.</summary>
    private static string Forecast(JsonElement usage, string peak, string room) =>
        usage.GetProperty("forecast") is { ValueKind: JsonValueKind.Object } forecast ? $", {Number(forecast, peak)} predicted of {Number(forecast, room)}" : "";

    private static Command Drain()
    {
        var id = new Argument<string>("host") { Description = "Id of the host" };
        var deadline = new Option<TimeSpan>("--deadline")
        {
            Description = "Then what is left is stopped at once and placed again: 90s, 10m, 2h; up to 7d. Memory is taken along while 30 s are left",
            DefaultValueFactory = _ => TimeSpan.FromHours(1),
            CustomParser = DurationText.Parse,
        };
        var grace = new Option<int>("--grace") { Description = "How long each guest may take to shut down: 10 (seconds), 10s, 2m", DefaultValueFactory = _ => 10, CustomParser = DurationText.Seconds };
        var noWait = new Option<bool>("--no-wait") { Description = "Return when the request is accepted" };
        return new Command("drain", "Have a host take no new microVM, and those that it has move elsewhere: with their memory where it runs with --transfer, else by a restart") { id, deadline, grace, noWait }.Calls(async (api, parsed, cancellation) =>
        {
            var name = Uri.EscapeDataString(parsed.GetRequiredValue(id));
            var path = "v1/hosts/" + name;
            var moving = (await api.ListAsync("v1/vms?host=" + name, cancellation)).Select(vm => JsonSerializer.SerializeToElement(vm).Text("id")).ToHashSet();
            var body = new JsonObject { ["deadline_seconds"] = (long)parsed.GetValue(deadline).TotalSeconds, ["grace_seconds"] = parsed.GetValue(grace) };
            var host = await api.PostAsync(path + "/drain", body, cancellation);
            var output = parsed.InvocationConfiguration.Output;
            var quiet = parsed.GetValue(CommandContext.Json);
            var told = "";
            while (!parsed.GetValue(noWait) && IsDraining(host))
            {
                if (Progress(host) is var progress && progress != told && !quiet)
                    output.WriteLine(progress);
                told = Progress(host);
                await Task.Delay(DrainLook, cancellation);
                host = await Persistence.AskAsync(answered: true, () => api.GetAsync(path, cancellation), cancellation);
            }

            var drained = host.GetProperty("drain").ValueKind == JsonValueKind.Object;
            var over = drained && !IsDraining(host);
            var unplaced = over ? await UnplacedAsync(api, moving, cancellation) : [];
            if (quiet)
                Render.Json(output, host);
            else
                output.WriteLine(drained ? Progress(host) + (over ? Moves(await GoneAsync(api, moving, cancellation), host.Text("id")) : "") + Summary(unplaced) : $"{host.Text("id")}: the drain was ended");
            return unplaced.Count == 0 ? ExitCodes.Ok : ExitCodes.Incomplete;
        });
    }

    /// <summary>Why those of the microVMs that have no place have none, once all have found one or been refused, or <see cref="PlacingPatience"/> is over.</summary>
    private static async Task<IReadOnlyList<string>> UnplacedAsync(ApiClient api, HashSet<string> moving, CancellationToken cancellation)
    {
        var since = TimeProvider.System.GetTimestamp();
        while (true)
        {
            var waiting = (await Persistence.AskAsync(answered: true, async () => JsonSerializer.SerializeToElement(await api.ListAsync("v1/vms?state=pending,unplaced", cancellation)), cancellation))
                .EnumerateArray().Where(vm => moving.Contains(vm.Text("id"))).ToList();
            if (waiting.All(vm => vm.Text("state") == "unplaced") || TimeProvider.System.GetElapsedTime(since) > PlacingPatience)
                return [.. waiting.Select(vm => vm.GetProperty("reason") is { ValueKind: JsonValueKind.Object } reason ? reason.Text("message") : "It is being placed.")];
            await Task.Delay(DrainLook, cancellation);
        }
    }

    /// <summary>Those that were there as they are now; what has been deleted since is left out.</summary>
    private static async Task<IReadOnlyList<JsonElement>> GoneAsync(ApiClient api, HashSet<string> moving, CancellationToken cancellation)
    {
        var gone = new List<JsonElement>();
        foreach (var id in moving)
        {
            try
            {
                gone.Add(await Persistence.AskAsync(answered: true, () => api.GetAsync("v1/vms/" + id, cancellation), cancellation));
            }
            catch (ApiException deleted) when (deleted.Code == "not_found")
            {
                // It went nowhere.
            }
        }
        return gone;
    }

    /// <summary>How those that have a place again left that host: with their memory, or by a restart, and why most of those.</summary>
    internal static string Moves(IReadOnlyList<JsonElement> gone, string host)
    {
        var moves = gone.Where(vm => vm.Text("state") is not ("pending" or "unplaced")).Select(vm => vm.GetProperty("moved")).Where(moved => moved.ValueKind == JsonValueKind.Object && moved.Text("from") == host).ToLookup(moved => moved.GetProperty("with_memory").GetBoolean());
        var (along, anew) = (moves[true].Count(), moves[false].Count());
        return (along == 0 ? "" : $"; {along} moved with {(along == 1 ? "its" : "their")} memory")
            + (anew == 0 ? "" : $"; {anew} restarted: {moves[false].Select(moved => moved.GetProperty("reason").Text("message")).CountBy(why => why).MaxBy(why => why.Value).Key.TrimEnd('.')}");
    }

    private static string Summary(IReadOnlyList<string> unplaced) => unplaced.Count == 0 ? ""
        : $"; {unplaced.Count} of its microVMs {(unplaced.Count == 1 ? "is" : "are")} unplaced: {unplaced.CountBy(reason => reason).MaxBy(reason => reason.Value).Key}";

    private static bool IsDraining(JsonElement host) =>
        host.GetProperty("drain") is { ValueKind: JsonValueKind.Object } drain && drain.Text("done_at") == "-";

    private static string Progress(JsonElement host)
    {
        var drain = host.GetProperty("drain");
        if (drain.Text("done_at") != "-")
            return $"{host.Text("id")}: drained, no microVM is left";
        var staying = drain.GetProperty("staying").EnumerateArray().ToList();
        var text = $"{host.Text("id")}: {drain.Text("left")} of {drain.Text("vms")} microVMs left, until {drain.Text("deadline")}";
        return staying.Count == 0 ? text : $"{text}; {staying.Count} find no place elsewhere, such as {staying[0].Text("id")}: {staying[0].GetProperty("reason").Text("message")}";
    }

    private static Command Cordon(string verb, string description, string? path = null)
    {
        var id = new Argument<string>("host") { Description = "Id of the host" };
        return new Command(verb, description) { id }.Calls(async (api, parsed, cancellation) =>
        {
            var host = await api.PostAsync($"v1/hosts/{Uri.EscapeDataString(parsed.GetRequiredValue(id))}/{path ?? verb}", null, cancellation);
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
        + (host.Text("drain") == "-" ? "" : IsDraining(host) ? ", draining" : ", drained")
        + (host.Text("quarantine") != "-" ? ", quarantined" : "")
        + (host.Text("pressure") != "-" ? ", short" : "");

    private static Command Remove()
    {
        var id = new Argument<string>("host") { Description = "Id of a host that is lost, or carries no microVM and is not connected" };
        var force = new Option<bool>("--force") { Description = "Its machine is off, for certain: what a host without a lease carried is placed elsewhere" };
        return new Command("remove", "Forget a host; what it carried is placed elsewhere") { id, force }.Calls(async (api, parsed, cancellation) =>
        {
            await api.DeleteAsync("v1/hosts/" + Uri.EscapeDataString(parsed.GetRequiredValue(id)) + (parsed.GetValue(force) ? "?force=true" : ""), cancellation);
            if (parsed.GetValue(CommandContext.Json))
                Render.Json(parsed.InvocationConfiguration.Output, new JsonObject { ["id"] = parsed.GetRequiredValue(id), ["removed"] = true });
            else
                parsed.InvocationConfiguration.Output.WriteLine($"{Render.Printable(parsed.GetRequiredValue(id))}: removed");
            return ExitCodes.Ok;
        });
    }

    /// <summary>Why it gets no microVM; empty: it does, or is cordoned, which its state says.</summary>
    private static string Reason(JsonElement host, DateTimeOffset now) =>
        host.Text("silent_since") is not "-" and var silent ? $"silent for {Render.Age(silent, now)}{(host.Text("state") == "lost" ? ": given up, its microVMs are placed again" : "")}"
        : host.GetProperty("quarantine") is { ValueKind: JsonValueKind.Object } quarantine ? quarantine.GetProperty("reason").Text("message")
        : host.GetProperty("drain") is { ValueKind: JsonValueKind.Object } drain ? IsDraining(host) ? $"{drain.Text("left")} of {drain.Text("vms")} microVMs left" : "fleet host undrain brings it back"
        : host.GetProperty("pressure") is { ValueKind: JsonValueKind.Object } pressure ? Render.Printable(pressure.Text("why"))
        : "";

    private static string Drivers(JsonElement host) => string.Join(",", host.GetProperty("drivers").EnumerateArray()
        .Where(driver => driver.GetProperty("usable").GetBoolean())
        .Select(driver => driver.Text("name")));
}
