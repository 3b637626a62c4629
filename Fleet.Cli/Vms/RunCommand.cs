using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;
using Fleet.Cli.Output;

namespace Fleet.Cli.Vms;

/// <summary><c>fleet vm run</c>: create, stream the console, end with the command's own status.</summary>
internal static class RunCommand
{
    private const string Ended = "stopped,failed";

    public static Command Create()
    {
        var name = new Option<string?>("--name") { Description = "Unique name; made up when absent" };
        var cpus = new Option<int?>("--cpus") { Description = "vCPUs, 1 to 32 (default 1)" };
        var memory = new Option<int?>("--memory") { Description = "MiB of memory (default 256)" };
        var driver = new Option<string?>("--driver") { Description = "auto, kvm, qemu or simulated (default auto)" };
        var host = new Option<string?>("--host") { Description = "Only this host may carry it" };
        var env = new Option<string[]>("--env", "-e") { Description = "KEY=VALUE for the command; may be repeated" };
        var label = new Option<string[]>("--label", "-l") { Description = "KEY=VALUE label; may be repeated" };
        var hostLabel = new Option<string[]>("--host-label") { Description = "KEY=VALUE label that its host must have; may be repeated" };
        var zone = new Option<string[]>("--zone") { Description = "A zone that it may be in (default: any); may be repeated" };
        var limit = new Option<string[]>("--limit") { Description = $"A rate limit: {LimitText.Form}; may be repeated" };
        var kernel = new Option<string?>("--kernel") { Description = "A kernel of your own: absolute path on the host" };
        var initrd = new Option<string?>("--initrd") { Description = "Its initrd" };
        var bootArgs = new Option<string?>("--boot-args") { Description = "Its command line" };
        var bootTimeout = new Option<int?>("--boot-timeout") { Description = "Seconds until the guest must be ready; 0: never given up" };
        var restart = new Option<string?>("--restart") { Description = "What follows its end: never (default), on_failure or always" };
        var fencing = new Option<string?>("--fencing") { Description = "While its host is cut off: strict (default) stands still, relaxed runs on and may run twice" };
        var simulate = new Option<string?>("--simulate") { Description = "With --driver simulated: boot_ms=5,run_ms=0,exit_status=0,fault=,cpu_percent=20/80,memory_percent=50,step_ms=60000" };
        var detach = new Option<bool>("--detach", "-d") { Description = "Print the id and return when it runs" };
        var remove = new Option<bool>("--rm") { Description = "Delete the microVM when it has ended" };
        var interactive = new Option<bool>("--interactive", "-i") { Description = "Send standard input to the guest" };
        var command = new Argument<string[]>("command") { Description = "What to run, after --; without it the image's shell", Arity = ArgumentArity.ZeroOrMore };

        var run = new Command("run", "Run a command in a new microVM")
        {
            name, cpus, memory, driver, host, hostLabel, zone, env, label, limit, kernel, initrd, bootArgs, bootTimeout, restart, fencing, simulate, detach, remove, interactive, command,
        };
        return run.Calls(
            async (api, parsed, cancellation) =>
            {
                // An option that is not ours would be taken for the command, and run.
                var behindDashes = parsed.Tokens.Reverse().TakeWhile(token => token.Type != TokenType.DoubleDash).Count();
                if (parsed.GetValue(command) is [['-', ..] unknown, ..] given && (given.Length > behindDashes || parsed.Tokens.All(token => token.Type != TokenType.DoubleDash)))
                    throw new ApiException("invalid_field", $"vm run has no option {unknown}; a command that begins with '-' goes after --.");
                var spec = new JsonObject();
                Put(spec, "name", parsed.GetValue(name));
                Put(spec, "cpus", parsed.GetValue(cpus));
                Put(spec, "memory_mib", parsed.GetValue(memory));
                Put(spec, "driver", parsed.GetValue(driver));
                Put(spec, "host", parsed.GetValue(host));
                Put(spec, "boot_timeout_seconds", parsed.GetValue(bootTimeout));
                Put(spec, "fencing", parsed.GetValue(fencing));
                Put(spec, "restart", parsed.GetValue(restart));
                if (parsed.GetValue(command) is { Length: > 0 } words)
                    spec["command"] = new JsonArray([.. words.Select(word => JsonValue.Create(word))]);
                spec["env"] = Pairs(parsed.GetValue(env), "--env");
                spec["labels"] = Pairs(parsed.GetValue(label), "--label");
                if (parsed.GetValue(hostLabel) is { Length: > 0 } wanted)
                    spec["host_labels"] = Pairs(wanted, "--host-label");
                if (parsed.GetValue(zone) is { Length: > 0 } zones)
                    spec["zones"] = new JsonArray([.. zones.Select(one => JsonValue.Create(one))]);
                if (LimitsCommand.Of(parsed.GetValue(limit)) is { } limits)
                    spec["rate_limits"] = limits;
                if (parsed.GetValue(kernel) is { } path)
                {
                    var boot = new JsonObject { ["kernel_path"] = path };
                    Put(boot, "initrd_path", parsed.GetValue(initrd));
                    Put(boot, "boot_args", parsed.GetValue(bootArgs));
                    spec["boot"] = boot;
                }
                else if (parsed.GetValue(initrd) is not null || parsed.GetValue(bootArgs) is not null)
                {
                    throw new ApiException("invalid_field", "--initrd and --boot-args go with --kernel.");
                }

                if (parsed.GetValue(simulate) is { } script)
                    spec["simulated"] = Simulated(script);

                // One key for all the tries of this one command: a request that was answered and lost is not run twice.
                var key = Guid.NewGuid().ToString("n");
                JsonElement vm;
                try
                {
                    vm = await Persistence.AskAsync(answered: false, () => api.PostAsync("v1/vms", spec, cancellation, key), cancellation);
                }
                catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
                {
                    await ForgetAsync(api, parsed, spec, key);
                    return ExitCodes.Interrupted;
                }

                return parsed.GetValue(detach)
                    ? await DetachedAsync(api, parsed, vm, cancellation)
                    : await AttachedAsync(api, parsed, vm, parsed.GetValue(interactive), parsed.GetValue(remove), cancellation);
            },
            _ => ExitCodes.RunFailed);
    }

    /// <summary>
    /// Whoever gave up before the create was answered saw no microVM, and none may stay. Whether there is one the same key tells: it
    /// gives the one that was made, or makes one only to be deleted.
    /// </summary>
    private static async Task ForgetAsync(ApiClient api, ParseResult parsed, JsonObject spec, string key)
    {
        using var bounded = new CancellationTokenSource(TimeSpan.FromSeconds(10));
        try
        {
            var vm = await api.PostAsync("v1/vms", spec, bounded.Token, key);
            await api.DeleteAsync(VmCommands.PathOf(vm.Text("id")), bounded.Token);
        }
        catch (Exception unknown) when (unknown is ApiException or OperationCanceledException)
        {
            var name = spec["name"]?.GetValue<string>();
            await parsed.InvocationConfiguration.Error.WriteLineAsync(
                $"fleet: whether {(name is null ? "a microVM" : Render.Printable(name))} was created could not be found out ({unknown.Message}); fleet vm list shows it");
        }
    }

    private static async Task<int> DetachedAsync(ApiClient api, ParseResult parsed, JsonElement vm, CancellationToken cancellation)
    {
        vm = await VmCommands.WaitAsync(api, vm.Text("id"), "running,unplaced," + Ended, TimeSpan.FromSeconds(120), cancellation);
        VmCommands.Say(parsed, vm);
        return vm.Text("state") is "failed" or "unplaced" ? ExitCodes.RunFailed : ExitCodes.Ok;
    }

    private static async Task<int> AttachedAsync(ApiClient api, ParseResult parsed, JsonElement vm, bool interactive, bool remove, CancellationToken cancellation)
    {
        var id = vm.Text("id");
        try
        {
            vm = await PlacedAsync(api, parsed, vm, cancellation);
            using var input = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
            if (vm.Text("epoch") is not ("0" or "-"))
            {
                var typing = interactive ? TypeAsync(api, parsed, id, input.Token) : Task.CompletedTask;
                await ShowConsoleAsync(api, parsed, id, cancellation);
                await input.CancelAsync();
                // A read of a terminal can't be called off: it is not waited for, it ends with us.
                if (typing.IsFaulted)
                    await typing;
            }

            vm = await EndAsync(api, id, cancellation);
        }
        catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
        {
            // Ctrl-C ends what it started, as for any command in the foreground.
            await parsed.InvocationConfiguration.Error.WriteLineAsync("fleet: stopping the microVM");
            using var bounded = new CancellationTokenSource(TimeSpan.FromSeconds(30));
            try
            {
                await api.PostAsync(VmCommands.PathOf(id) + "/stop", null, bounded.Token);
                await VmCommands.WaitAsync(api, id, Ended, TimeSpan.FromSeconds(25), bounded.Token);
            }
            catch (ApiException late) when (remove)
            {
                // A delete ends it too, when its host is back at the latest.
                await parsed.InvocationConfiguration.Error.WriteLineAsync($"fleet: {late.Message} ({late.Code})");
            }

            if (remove)
                await api.DeleteAsync(VmCommands.PathOf(id), CancellationToken.None);
            return ExitCodes.Interrupted;
        }

        if (remove)
            await VmCommands.DeletedAsync(api, await api.DeleteAsync(VmCommands.PathOf(id), cancellation), cancellation);
        if (parsed.GetValue(CommandContext.Json))
            Render.Json(parsed.InvocationConfiguration.Error, vm);
        if (vm.TryGetProperty("exit_status", out var status) && status.ValueKind == JsonValueKind.Number)
            return status.GetInt32();
        if (vm.Text("state") == "stopped")
            return ExitCodes.Ok;
        var reason = vm.GetProperty("reason");
        if (!parsed.GetValue(CommandContext.Json))
            await parsed.InvocationConfiguration.Error.WriteLineAsync($"fleet: {vm.Text("name")} failed: {Render.Printable(reason.Text("message"))} ({reason.Text("code")})");
        return ExitCodes.RunFailed;
    }

    /// <summary>Waits for a host; says once why there is none yet and goes on waiting, since capacity may come.</summary>
    private static async Task<JsonElement> PlacedAsync(ApiClient api, ParseResult parsed, JsonElement vm, CancellationToken cancellation)
    {
        var states = "unplaced,starting,running,stopping," + Ended;
        while (true)
        {
            try
            {
                vm = await Persistence.AskAsync(answered: true, () => VmCommands.WaitAsync(api, vm.Text("id"), states, TimeSpan.FromSeconds(60), cancellation), cancellation);
                if (vm.Text("state") != "unplaced")
                    return vm;
                await parsed.InvocationConfiguration.Error.WriteLineAsync(
                    $"fleet: {vm.Text("name")} waits for a host: {Render.Printable(vm.GetProperty("reason").Text("message"))} (Ctrl-C to give up)");
                states = "starting,running,stopping," + Ended;
            }
            catch (ApiException passing) when (passing.Code == "timeout")
            {
                // Still waiting; ask again.
            }
        }
    }

    private static async Task ShowConsoleAsync(ApiClient api, ParseResult parsed, string id, CancellationToken cancellation)
    {
        try
        {
            await ConsoleCommand.CopyAsync(api, id, 0, true, cancellation);
        }
        catch (ApiException refused) when (refused.Code is not "not_found")
        {
            // The console is the smaller half: how the command ended still counts.
            await parsed.InvocationConfiguration.Error.WriteLineAsync($"fleet: no console: {refused.Message} ({refused.Code})");
        }
    }

    private static async Task TypeAsync(ApiClient api, ParseResult parsed, string id, CancellationToken cancellation)
    {
        try
        {
            // Nobody takes input before there is a VMM; from then on it is kept until the guest reads.
            await VmCommands.WaitAsync(api, id, "running,stopping," + Ended, TimeSpan.FromSeconds(120), cancellation);
            await ConsoleCommand.SendInputAsync(api, id, endToo: true, cancellation);
        }
        catch (ApiException refused)
        {
            await parsed.InvocationConfiguration.Error.WriteLineAsync($"fleet: input does not reach the guest: {refused.Message} ({refused.Code})");
        }
        catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
        {
            // It ended before anybody read.
        }
    }

    private static async Task<JsonElement> EndAsync(ApiClient api, string id, CancellationToken cancellation)
    {
        while (true)
        {
            try
            {
                return await Persistence.AskAsync(answered: true, () => VmCommands.WaitAsync(api, id, Ended, TimeSpan.FromSeconds(600), cancellation), cancellation);
            }
            catch (ApiException passing) when (passing.Code == "timeout")
            {
                // Still at it; ask again.
            }
        }
    }

    private static void Put(JsonObject target, string member, string? value)
    {
        if (value is not null)
            target[member] = value;
    }

    private static void Put(JsonObject target, string member, int? value)
    {
        if (value is not null)
            target[member] = value;
    }

    private static JsonObject Pairs(string[]? words, string option)
    {
        var pairs = new JsonObject();
        foreach (var word in words ?? [])
        {
            var (key, value) = KeyValue.Parse(word) ?? throw new ApiException("invalid_field", $"{option} wants KEY=VALUE, not '{word}'.");
            pairs[key] = value;
        }

        return pairs;
    }

    private static JsonObject Simulated(string script)
    {
        var guest = new JsonObject();
        foreach (var word in script.Split(',', StringSplitOptions.RemoveEmptyEntries))
        {
            var (key, value) = KeyValue.Parse(word) ?? throw new ApiException("invalid_field", $"--simulate wants KEY=VALUE, not '{word}'.");
            guest[key] = key.EndsWith("_percent", StringComparison.Ordinal) ? Curve(value)
                : int.TryParse(value, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var number) ? number : value;
        }

        return guest;
    }

    private static JsonArray Curve(string steps) => [.. steps.Split('/').Select(step => (JsonNode?)(
        int.TryParse(step, NumberStyles.None, CultureInfo.InvariantCulture, out var percent) ? JsonValue.Create(percent) : JsonValue.Create(step)))];
}
