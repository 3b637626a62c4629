using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;
using Fleet.Cli.Output;
using Fleet.Shared.Vms;

namespace Fleet.Cli.Vms;

/// <summary><c>fleet vm run | place | list | show | logs | console | exec | cp | stop | start | suspend | resume | delete | wait | limits</c>.</summary>
internal static class VmCommands
{
    private const int WaitSeconds = 120;

    public static Command Create()
    {
        var vm = new Command("vm", "MicroVMs: run, look at, stop, delete");
        vm.Subcommands.Add(RunCommand.Create());
        vm.Subcommands.Add(PlaceCommand.Create());
        vm.Subcommands.Add(List());
        vm.Subcommands.Add(Show());
        vm.Subcommands.Add(LogsCommand.Create());
        vm.Subcommands.Add(ConsoleCommand.Create());
        vm.Subcommands.Add(ExecCommand.Create());
        vm.Subcommands.Add(CopyCommand.Create());
        vm.Subcommands.Add(Stop());
        vm.Subcommands.Add(Start());
        vm.Subcommands.Add(Verb("suspend", "Save a running microVM on its host, which gets its room back", "suspended,running,stopped,failed", "suspended"));
        vm.Subcommands.Add(Verb("resume", "Have a suspended microVM go on where it was saved", "running,unplaced,suspended,stopped,failed", "running"));
        vm.Subcommands.Add(Delete());
        vm.Subcommands.Add(Wait());
        vm.Subcommands.Add(LimitsCommand.Create());
        return vm;
    }

    public static Argument<string> NameArgument() => new("vm") { Description = "Name or id of the microVM; for an admin TENANT/NAME where it is a tenant's" };

    public static string PathOf(string nameOrId) => "v1/vms/" + Uri.EscapeDataString(nameOrId);

    /// <summary>Waits as long as asked, which the API bounds (600 s); the microVM as it then is.</summary>
    public static Task<JsonElement> WaitAsync(ApiClient api, string nameOrId, string states, TimeSpan timeout, CancellationToken cancellation)
    {
        var seconds = timeout.TotalSeconds.ToString("0.###", CultureInfo.InvariantCulture);
        return api.GetAsync($"{PathOf(nameOrId)}/wait?state={states}&timeout={seconds}", cancellation, timeout);
    }

    private static Command List()
    {
        var state = new Option<string?>("--state") { Description = "Only microVMs in this state" };
        var host = new Option<string?>("--host") { Description = "Only microVMs on this host" };
        var tenant = new Option<string?>("--tenant") { Description = "Only microVMs of this tenant" };
        var label = new Option<string[]>("--label") { Description = "Only microVMs with this label, KEY=VALUE" };
        return new Command("list", "List microVMs") { state, host, tenant, label }.Calls(async (api, parsed, cancellation) =>
        {
            var query = new List<string>();
            if (parsed.GetValue(state) is { } wantedState)
                query.Add("state=" + Uri.EscapeDataString(wantedState));
            if (parsed.GetValue(host) is { } wantedHost)
                query.Add("host=" + Uri.EscapeDataString(wantedHost));
            if (parsed.GetValue(tenant) is { } wantedTenant)
                query.Add("tenant=" + Uri.EscapeDataString(wantedTenant));
            foreach (var pair in parsed.GetValue(label) ?? [])
            {
                if (KeyValue.Parse(pair) is not { } wanted)
                {
                    CommandContext.Tell(parsed, "invalid_query", $"--label wants KEY=VALUE, not '{pair}'.");
                    return ExitCodes.Usage;
                }

                query.Add($"label.{Uri.EscapeDataString(wanted.Key)}={Uri.EscapeDataString(wanted.Value)}");
            }

            var vms = await api.ListAsync("v1/vms" + (query.Count == 0 ? "" : "?" + string.Join('&', query)), cancellation);
            var output = parsed.InvocationConfiguration.Output;
            if (parsed.GetValue(CommandContext.Json))
            {
                Render.Json(output, vms);
                return ExitCodes.Ok;
            }

            var now = TimeProvider.System.GetUtcNow();
            var all = vms.Select(node => JsonSerializer.SerializeToElement(node)).ToList();
            // Names are each tenant's own.
            var tenants = all.Exists(one => one.Text("tenant") != "-");
            var rows = all.Select(one => (IReadOnlyList<string>)
            [
                .. tenants ? [one.Text("tenant")] : Array.Empty<string>(), one.Text("name"), StateText(one), one.GetProperty("spec").Text("cpus"), one.GetProperty("spec").Text("memory_mib"),
                one.Text("host"), one.Text("driver"), Render.Age(one.Text("created_at"), now), ReasonText(one),
            ]);
            Render.Table(output, [.. tenants ? ["TENANT"] : Array.Empty<string>(), "NAME", "STATE", "CPUS", "MiB", "HOST", "DRIVER", "AGE", "REASON"], rows);
            return ExitCodes.Ok;
        });
    }

    private static Command Show()
    {
        var name = NameArgument();
        return new Command("show", "Show one microVM") { name }.Calls(async (api, parsed, cancellation) =>
        {
            var vm = await api.GetAsync(PathOf(parsed.GetRequiredValue(name)), cancellation);
            Print(parsed, vm);
            return ExitCodes.Ok;
        });
    }

    private static Command Stop()
    {
        var name = NameArgument();
        var grace = new Option<int?>("--grace") { Description = "How long the guest may take to shut down: 10 (seconds), 10s, 2m (default: its own --stop-grace, else 10 s)", CustomParser = result => DurationText.Seconds(result) };
        var noWait = NoWait();
        return new Command("stop", "Stop a microVM; its record stays") { name, grace, noWait }.Calls(async (api, parsed, cancellation) =>
        {
            var vm = await api.PostAsync(PathOf(parsed.GetRequiredValue(name)) + "/stop", parsed.GetValue(grace) is { } seconds ? new JsonObject { ["grace_seconds"] = seconds } : null, cancellation);
            if (!parsed.GetValue(noWait))
                vm = await WaitAsync(api, vm.Text("id"), "stopped,failed", TimeSpan.FromSeconds((parsed.GetValue(grace) ?? VmLimits.MaxGraceSeconds) + WaitSeconds), cancellation);
            Say(parsed, vm);
            return ExitCodes.Ok;
        });
    }

    private static Command Start()
    {
        var name = NameArgument();
        var noWait = NoWait();
        return new Command("start", "Place and boot a stopped or failed microVM again") { name, noWait }.Calls(async (api, parsed, cancellation) =>
        {
            var vm = await api.PostAsync(PathOf(parsed.GetRequiredValue(name)) + "/start", null, cancellation);
            if (!parsed.GetValue(noWait))
                vm = await WaitAsync(api, vm.Text("id"), "running,stopped,failed", TimeSpan.FromSeconds(WaitSeconds), cancellation);
            Say(parsed, vm);
            return vm.Text("state") == "failed" ? ExitCodes.Failed : ExitCodes.Ok;
        });
    }

    /// <summary>A verb that has done its work when the microVM is in that one state.</summary>
    private static Command Verb(string verb, string description, string awaited, string wanted)
    {
        var name = NameArgument();
        var noWait = NoWait();
        return new Command(verb, description) { name, noWait }.Calls(async (api, parsed, cancellation) =>
        {
            var vm = await api.PostAsync($"{PathOf(parsed.GetRequiredValue(name))}/{verb}", null, cancellation);
            if (!parsed.GetValue(noWait))
                vm = await WaitAsync(api, vm.Text("id"), awaited, TimeSpan.FromSeconds(WaitSeconds), cancellation);
            Say(parsed, vm);
            return parsed.GetValue(noWait) || vm.Text("state") == wanted ? ExitCodes.Ok : ExitCodes.Failed;
        });
    }

    private static Command Delete()
    {
        var name = NameArgument();
        var noWait = NoWait();
        return new Command("delete", "Stop a microVM if need be and forget it") { name, noWait }.Calls(async (api, parsed, cancellation) =>
        {
            var vm = await api.DeleteAsync(PathOf(parsed.GetRequiredValue(name)), cancellation);
            if (!parsed.GetValue(noWait))
                vm = await DeletedAsync(api, vm, cancellation);
            Say(parsed, vm);
            return ExitCodes.Ok;
        });
    }

    /// <summary>Waits until a microVM that is being deleted is gone; gone already is as good.</summary>
    public static async Task<JsonElement> DeletedAsync(ApiClient api, JsonElement vm, CancellationToken cancellation)
    {
        try
        {
            return await WaitAsync(api, vm.Text("id"), "deleted", TimeSpan.FromSeconds(WaitSeconds), cancellation);
        }
        catch (ApiException gone) when (gone.Code == "not_found")
        {
            return vm;
        }
    }

    private static Command Wait()
    {
        var name = NameArgument();
        var state = new Option<string>("--state") { Description = "States to wait for, by commas", DefaultValueFactory = _ => "running,stopped,failed" };
        var timeout = new Option<int>("--timeout") { Description = "60 (seconds), 60s, 10m, which is the most", DefaultValueFactory = _ => 60, CustomParser = DurationText.Seconds };
        return new Command("wait", "Wait until a microVM is in a state") { name, state, timeout }.Calls(async (api, parsed, cancellation) =>
        {
            var vm = await WaitAsync(api, parsed.GetRequiredValue(name), Uri.EscapeDataString(parsed.GetRequiredValue(state)), TimeSpan.FromSeconds(parsed.GetValue(timeout)), cancellation);
            Say(parsed, vm);
            return ExitCodes.Ok;
        });
    }

    private static Option<bool> NoWait() => new("--no-wait") { Description = "Return when the request is accepted" };

    /// <summary>One line on what became of a microVM, or the whole of it with --json.</summary>
    public static void Say(ParseResult parsed, JsonElement vm)
    {
        var output = parsed.InvocationConfiguration.Output;
        if (parsed.GetValue(CommandContext.Json))
            Render.Json(output, vm);
        else
            output.WriteLine($"{vm.Text("name")}: {StateText(vm)}" + (ReasonText(vm) is { Length: > 1 } reason ? $" - {reason}" : ""));
    }

    private static void Print(ParseResult parsed, JsonElement vm)
    {
        var output = parsed.InvocationConfiguration.Output;
        if (parsed.GetValue(CommandContext.Json))
        {
            Render.Json(output, vm);
            return;
        }

        var spec = vm.GetProperty("spec");
        output.WriteLine($"name     {vm.Text("name")}");
        output.WriteLine($"id       {vm.Text("id")}");
        output.WriteLine($"state    {StateText(vm)}");
        if (ReasonText(vm) is { Length: > 1 } reason)
            output.WriteLine($"reason   {reason} ({vm.GetProperty("reason").Text("code")})");
        output.WriteLine($"host     {vm.Text("host")}, epoch {vm.Text("epoch")}, driver {vm.Text("driver")}, VMM pid {vm.Text("vmm_pid")}");
        if (vm.GetProperty("moved") is { ValueKind: JsonValueKind.Object } moved)
            output.WriteLine($"moved    from {moved.Text("from")} {(moved.GetProperty("with_memory").GetBoolean() ? "with its memory" : $"by a restart: {moved.GetProperty("reason").Text("message")}")}");
        if (vm.TryGetProperty("addresses", out var addresses) && addresses.ValueKind == JsonValueKind.Object)
            output.WriteLine($"address  {addresses.Text("ipv4")}, {addresses.Text("ipv6")}");
        if (spec.GetProperty("ports") is { } ports && ports.GetArrayLength() > 0)
            output.WriteLine($"ports    {string.Join(", ", ports.EnumerateArray().Select(PortText.Of))}");
        output.WriteLine($"size     {spec.Text("cpus")} vCPUs, {spec.Text("memory_mib")} MiB{Asked(spec, "disk_mib", "MiB of disk")}{Asked(spec, "network_mbit", "Mbit/s")}{Asked(spec, "iops", "disk operations/s")}");
        if (vm.TryGetProperty("usage", out var usage) && usage.ValueKind == JsonValueKind.Object)
            PrintUsage(output, usage);
        output.WriteLine($"command  {Render.Printable(string.Join(' ', spec.GetProperty("command").EnumerateArray().Select(word => Quote(word.GetString() ?? ""))))}");
        if (spec.Text("restart") is var policy and not "never")
            output.WriteLine($"restart  {policy}, {vm.Text("restarts")} so far" + (vm.Text("restart_at") is var at and not "-" ? $", next at {at}" : ""));
        if (spec.Text("fencing") == "relaxed")
            output.WriteLine("fencing  relaxed: it runs on while its host is cut off, and may run twice");
        if (spec.Text("priority") is var priority and not "normal")
            output.WriteLine($"priority {priority}");
        output.WriteLine($"created  {vm.Text("created_at")}");
        output.WriteLine($"changed  {vm.Text("changed_at")}");
    }

    private static string Asked(JsonElement spec, string member, string unit) => spec.Text(member) is "0" or "-" ? "" : $", {spec.Text(member)} {unit}";

    private static void PrintUsage(TextWriter output, JsonElement usage)
    {
        output.WriteLine($"uses     {usage.Text("cpus")} CPUs, {usage.Text("memory_mib")} MiB");
        if (usage.GetProperty("cpu_credits") is { ValueKind: JsonValueKind.Object } credits)
            output.WriteLine($"credits  {credits.Text("balance_seconds")} s of CPU time saved" + (credits.Text("vcpus_held_back") is var held and not "0" ? $", {held} vCPUs held to their baseline" : ""));
        if (usage.GetProperty("guest") is not { ValueKind: JsonValueKind.Object } guest)
            return;
        var load = string.Join(' ', guest.GetProperty("load").EnumerateArray().Select(one => one.GetDouble().ToString("0.00", CultureInfo.InvariantCulture)));
        output.WriteLine($"guest    says: {guest.Text("available_mib")} of {guest.Text("memory_mib")} MiB available, load {load}, {guest.Text("tasks")} tasks");
        if (guest.GetProperty("health") is { ValueKind: JsonValueKind.Object } health)
            output.WriteLine($"health   {health.Text("state")}" + (health.Text("failures") is var failures and not "0" ? $", {failures} failures in a row" : ""));
    }

    private static string StateText(JsonElement vm) =>
        vm.Text("exit_status") is var status and not "-" ? $"{vm.Text("state")} ({status})" : vm.Text("state");

    private static string ReasonText(JsonElement vm) =>
        vm.TryGetProperty("reason", out var reason) && reason.ValueKind == JsonValueKind.Object ? Render.Printable(reason.Text("message")) : "";

    private static string Quote(string word) =>
        word.Length > 0 && word.All(c => char.IsLetterOrDigit(c) || "-_./=:,+@%".Contains(c)) ? word : "'" + word.Replace("'", "'\\''") + "'";
}
