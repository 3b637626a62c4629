using System.CommandLine;
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
        var wanted = new SpecOptions();
        var detach = new Option<bool>("--detach", "-d") { Description = "Return when it runs, and print its name and state" };
        var remove = new Option<bool>("--rm") { Description = "Delete the microVM when it has ended" };
        var gang = new Option<string?>("--gang") { Description = "With --gang-size and --detach: run as many, NAME-0, NAME-1 and so on, and none before there is room for all" };
        var gangSize = new Option<int?>("--gang-size") { Description = "How many; 1 to 100" };
        var interactive = new Option<bool>("--interactive", "-i") { Description = "Send standard input to the guest. Ctrl-C stops the microVM; a shell that has that key for itself is fleet vm exec -it" };

        var run = new Command("run", "Run a command in a new microVM") { detach, remove, interactive, gang, gangSize };
        wanted.AddTo(run);
        return run.Calls(
            async (api, parsed, cancellation) =>
            {
                var spec = wanted.Of(parsed);
                // One key for all the tries of this one command: a request that was answered and lost is not run twice.
                var key = Guid.NewGuid().ToString("n");
                if (parsed.GetValue(gang) is { } name)
                {
                    if (!parsed.GetValue(detach) || parsed.GetValue(gangSize) is not { } size)
                        throw new ApiException("invalid_field", "--gang goes with --gang-size and --detach: each member has a console of its own.");
                    return await GangAsync(api, parsed, new JsonObject { ["name"] = name, ["size"] = size, ["vm"] = spec }, key, cancellation);
                }

                if (parsed.GetValue(gangSize) is not null)
                    throw new ApiException("invalid_field", "--gang-size goes with --gang.");
                JsonElement vm;
                try
                {
                    vm = await Persistence.AskAsync(answered: false, () => api.PostAsync("v1/vms", spec, cancellation, key), cancellation, Waits(parsed));
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

    private static Action<string> Waits(ParseResult parsed) => why => CommandContext.Warn(parsed, $"{why} Trying again for a minute (Ctrl-C to give up)");

    private static async Task<int> GangAsync(ApiClient api, ParseResult parsed, JsonObject wanted, string key, CancellationToken cancellation)
    {
        var gang = await Persistence.AskAsync(answered: false, () => api.PostAsync("v1/gangs", wanted, cancellation, key), cancellation, Waits(parsed));
        var worst = ExitCodes.Ok;
        foreach (var member in gang.GetProperty("vms").EnumerateArray())
            worst = Math.Max(worst, await DetachedAsync(api, parsed, member, cancellation));

        return worst;
    }

    private static async Task<int> DetachedAsync(ApiClient api, ParseResult parsed, JsonElement vm, CancellationToken cancellation)
    {
        while (true)
        {
            try
            {
                vm = await VmCommands.WaitAsync(api, vm.Text("id"), "running,unplaced," + Ended, TimeSpan.FromSeconds(120), cancellation);
                break;
            }
            catch (ApiException slow) when (slow.Code == "timeout")
            {
                // A large image takes longer, and its host gives it up by itself.
                vm = await api.GetAsync(VmCommands.PathOf(vm.Text("id")), cancellation);
                if (vm.GetProperty("reason") is not { ValueKind: JsonValueKind.Object } reason || reason.Text("code") != "pulling_image")
                    throw;
                CommandContext.Warn(parsed, $"{vm.Text("name")} waits for its image: {reason.Text("message")}");
            }
        }

        VmCommands.Say(parsed, vm);
        if (vm.Text("state") != "unplaced")
            return vm.Text("state") == "failed" ? ExitCodes.RunFailed : ExitCodes.Ok;
        // Nothing failed: it is there, and whoever tries again is told that its name is taken.
        CommandContext.Warn(parsed, $"{vm.Text("name")} was created, and runs as soon as there is room; fleet vm delete {vm.Text("name")} ends that");
        return ExitCodes.Incomplete;
    }

    private static async Task<int> AttachedAsync(ApiClient api, ParseResult parsed, JsonElement vm, bool interactive, bool remove, CancellationToken cancellation)
    {
        var id = vm.Text("id");
        // The guest's terminal echoes, also what is typed before it is there.
        using var terminal = interactive ? RawTerminal.TryEnter(keepSignals: true) : null;
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
        catch (ApiException refused)
        {
            // The console is the smaller half: how the command ended still counts. A host that could not launch it has none, and one that is deleted has no end either.
            if (refused.Code != "not_found")
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
}
