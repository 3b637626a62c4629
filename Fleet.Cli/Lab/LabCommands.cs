using System.CommandLine;
using System.Globalization;
using System.Net;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;
using Fleet.Cli.Node;
using Fleet.Cli.Output;
using Fleet.Host.Drivers;
using Fleet.Host.Images;
using Fleet.Host.Lab;
using Fleet.Host.Link;
using Fleet.Shared.Access;

namespace Fleet.Cli.Lab;

/// <summary><c>fleet lab up | list | log | poweroff | remove | down</c>: bare-metal hosts as QEMU machines.</summary>
internal static class LabCommands
{
    /// <summary>An agent in a node is compiled by a JIT under emulation before it dials.</summary>
    private static readonly TimeSpan AgentPatience = TimeSpan.FromMinutes(4);

    /// <summary>Twice the default lease with its margin, and a connection that is found dead.</summary>
    private static readonly TimeSpan ForgetPatience = TimeSpan.FromSeconds(60);

    public static Command Create() => new("lab", "Bare-metal hosts as QEMU machines with real (emulated-SVM) KVM, joined to the fleet")
    {
        Up(), List(), Log(), PowerOff(), Remove(), Down(),
    };

    private static Command Up()
    {
        var nodes = new Option<int>("--nodes", "-n") { Description = "How many nodes", DefaultValueFactory = _ => 1 };
        var memory = new Option<int>("--memory") { Description = "MiB of each node", DefaultValueFactory = _ => 3072 };
        var cpus = new Option<int>("--cpus") { Description = "CPUs of each node", DefaultValueFactory = _ => 2 };
        var link = NodeOptions.Link();
        return Guarded(new Command("up", "Start nodes and wait until they have joined") { nodes, memory, cpus, link }, async (api, parsed, cancellation) =>
        {
            await api.GetAsync("v1/health", cancellation);
            var directory = DataDirectory.Of(parsed.GetRequiredValue(CommandContext.Data));
            var log = Logs.ToStandardError();
            var tokens = new Dictionary<string, string>();
            for (var number = 1; number <= Math.Min(parsed.GetValue(nodes), Host.Lab.Lab.MostNodes); number++)
            {
                var made = await api.PostAsync("v1/tokens", new JsonObject { ["role"] = "host", ["host"] = $"lab-{number}", ["note"] = "of fleet lab up" }, cancellation);
                tokens[$"lab-{number}"] = made.Text("secret");
                // Nodes boot for minutes: that nobody takes them in is found before.
                if (number == 1)
                    await RequireLinkAsync(api, made, parsed.GetRequiredValue(link), cancellation);
            }

            var images = new ImageOptions(directory.Cache, Programs.Init);
            using (var store = new DefaultImageStore(images, log))
                await store.GetDefaultAsync(cancellation);
            var lab = Open(directory, log, parsed.GetValue(memory), parsed.GetValue(cpus), parsed.GetRequiredValue(link), tokens);
            var before = lab.List().Where(node => node.State == LabNodeState.Running).Select(node => node.Name).ToHashSet();
            var started = await lab.UpAsync(parsed.GetValue(nodes), cancellation);
            try
            {
                foreach (var node in started)
                    await JoinedAsync(api, node, cancellation);
            }
            catch
            {
                // Ctrl-C or a node that never joined: what this call started goes with it.
                foreach (var node in started.Where(node => !before.Contains(node.Name)))
                    await lab.RemoveAsync(node.Name, CancellationToken.None);
                throw;
            }

            Print(parsed, lab);
            return ExitCodes.Ok;
        });
    }

    private static Command List()
    {
        return Guarded(new Command("list", "List the lab's nodes"), (_, parsed, _) =>
        {
            Print(parsed, Open(parsed));
            return Task.FromResult(ExitCodes.Ok);
        });
    }

    private static Command Log()
    {
        var name = NodeArgument();
        return Guarded(new Command("log", "Show a node's serial console and its agent's log") { name }, async (_, parsed, cancellation) =>
        {
            var node = Open(parsed).List().FirstOrDefault(node => node.Name == parsed.GetRequiredValue(name))
                ?? throw new LabException("node_not_found", $"There is no lab node '{parsed.GetRequiredValue(name)}'; fleet lab list shows what there is.");
            foreach (var file in new[] { node.SerialLog, node.AgentLog }.Where(File.Exists))
            {
                parsed.InvocationConfiguration.Output.WriteLine($"== {file}");
                await foreach (var line in File.ReadLinesAsync(file, cancellation))
                    parsed.InvocationConfiguration.Output.WriteLine(Render.Printable(line));
            }

            return ExitCodes.Ok;
        });
    }

    private static Command PowerOff()
    {
        var name = NodeArgument();
        return Guarded(new Command("poweroff", "Pull a node's plug") { name }, async (_, parsed, cancellation) =>
        {
            await Open(parsed).PowerOffAsync(parsed.GetRequiredValue(name), cancellation);
            return ExitCodes.Ok;
        });
    }

    private static Command Remove()
    {
        var name = NodeArgument();
        return Guarded(new Command("remove", "Power a node off and forget it") { name }, async (api, parsed, cancellation) =>
        {
            var node = parsed.GetRequiredValue(name);
            await Open(parsed).RemoveAsync(node, cancellation);
            await ForgetAsync(api, parsed, node, cancellation);
            return ExitCodes.Ok;
        });
    }

    private static Command Down()
    {
        return Guarded(new Command("down", "Power off and remove every node"), async (api, parsed, cancellation) =>
        {
            var lab = Open(parsed);
            var names = lab.List().Select(node => node.Name).ToArray();
            await lab.DownAsync(cancellation);
            foreach (var node in names)
                await ForgetAsync(api, parsed, node, cancellation);
            return ExitCodes.Ok;
        });
    }

    /// <summary>
    /// Takes the host out of the fleet's books. While microVMs are placed on it that waits until its lease is over, and they go elsewhere. The
    /// machine is gone already, so a host that can't be forgotten is told to the user and no failure, and a control plane that is not there is none.
    /// </summary>
    private static async Task ForgetAsync(ApiClient api, ParseResult parsed, string node, CancellationToken cancellation)
    {
        var since = TimeProvider.System.GetTimestamp();
        var told = false;
        while (true)
        {
            try
            {
                await api.DeleteAsync("v1/hosts/" + node, cancellation);
                return;
            }
            catch (ApiException left) when (left.Code is "not_found" or ApiException.Unreachable)
            {
                return;
            }
            catch (ApiException stillThere) when (stillThere.Code is "host_connected" or "host_in_use" && TimeProvider.System.GetElapsedTime(since) < ForgetPatience)
            {
                if (stillThere.Code == "host_in_use" && !told)
                    await parsed.InvocationConfiguration.Error.WriteLineAsync($"fleet: {stillThere.Message} Waiting for that.");
                told |= stillThere.Code == "host_in_use";
                await Task.Delay(200, cancellation);
            }
            catch (ApiException kept)
            {
                await parsed.InvocationConfiguration.Error.WriteLineAsync($"fleet: host {node} stays in the list: {kept.Message} ({kept.Code}) Then: fleet host remove {node}");
                return;
            }
        }
    }

    /// <exception cref="LabException">No node of the cell that made the token takes hosts there.</exception>
    private static async Task RequireLinkAsync(ApiClient api, JsonElement made, IPEndPoint link, CancellationToken cancellation)
    {
        try
        {
            await HostEnrolment.CheckAsync(new Uri($"https://{link}"), AccessToken.Parse(made.Text("secret"))!.Pin, cancellation);
        }
        catch (LinkException elsewhere)
        {
            await api.DeleteAsync("v1/tokens/" + made.GetProperty("token").Text("id"), cancellation);
            throw new LabException(elsewhere.Code, $"{elsewhere.Message} No node was started. Give the --link of the fleet at {api.Endpoint}.", elsewhere);
        }
    }

    private static async Task JoinedAsync(ApiClient api, LabNode node, CancellationToken cancellation)
    {
        var since = TimeProvider.System.GetTimestamp();
        while (true)
        {
            try
            {
                var host = await api.GetAsync("v1/hosts/" + node.Name, cancellation);
                // A host of that name may have been connected before its machine was started anew.
                if (host.Text("state") == "connected"
                    && DateTimeOffset.TryParse(host.Text("connected_at"), CultureInfo.InvariantCulture, out var at) && at >= node.StartedAt)
                    return;
            }
            catch (ApiException notYet) when (notYet.Code == "not_found")
            {
                // Its agent has not dialled yet.
            }

            if (TimeProvider.System.GetElapsedTime(since) > AgentPatience)
            {
                // The log goes with the node, so its end is told here.
                var tail = File.Exists(node.AgentLog) ? string.Join('\n', File.ReadLines(node.AgentLog).TakeLast(12)) : "(it wrote no log)";
                throw new LabException("node_not_joined", $"Node {node.Name} runs, but its agent did not join within {AgentPatience.TotalMinutes} minutes. It said last:\n{tail}");
            }

            await Task.Delay(250, cancellation);
        }
    }

    private static void Print(ParseResult parsed, Host.Lab.Lab lab)
    {
        var nodes = lab.List();
        var output = parsed.InvocationConfiguration.Output;
        if (parsed.GetValue(CommandContext.Json))
        {
            Render.Json(output, new JsonArray([.. nodes.Select(node => (JsonNode)new JsonObject
            {
                ["name"] = node.Name,
                ["state"] = Word(node.State),
                ["pid"] = node.Pid,
                ["cpus"] = node.Cpus,
                ["memory_mib"] = node.MemoryMib,
                ["started_at"] = node.StartedAt?.ToString("O", CultureInfo.InvariantCulture),
                ["serial_log"] = node.SerialLog,
                ["agent_log"] = node.AgentLog,
            })]));
            return;
        }

        var now = TimeProvider.System.GetUtcNow();
        Render.Table(output, ["NODE", "STATE", "CPUS", "MiB", "PID", "AGE"], nodes.Select(node => (IReadOnlyList<string>)
        [
            node.Name, Word(node.State), $"{node.Cpus}", $"{node.MemoryMib}", node.Pid == 0 ? "-" : $"{node.Pid}",
            Render.Age(node.StartedAt?.ToString("O", CultureInfo.InvariantCulture), now),
        ]));
    }

    private static string Word(LabNodeState state) => JsonNamingPolicy.SnakeCaseLower.ConvertName(state.ToString());

    private static Argument<string> NodeArgument() => new("node") { Description = "Name of the node, for example lab-1" };

    private static Host.Lab.Lab Open(ParseResult parsed) =>
        Open(DataDirectory.Of(parsed.GetRequiredValue(CommandContext.Data)), Logs.ToStandardError(), 3072, 2, new IPEndPoint(IPAddress.Loopback, 7071), new Dictionary<string, string>());

    private static Host.Lab.Lab Open(DataDirectory data, Serilog.ILogger log, int memory, int cpus, IPEndPoint link, IReadOnlyDictionary<string, string> tokens) => new(
        new LabOptions
        {
            StateDirectory = data.Lab,
            CacheDirectory = data.Cache,
            MemoryMib = memory,
            Cpus = cpus,
            Agent = LabAgent.Fleet(Programs.Build, Environment.ProcessPath!, new Uri($"https://{link}"), data.Cache) with { Tokens = tokens },
        },
        log);

    private static Command Guarded(Command command, Func<ApiClient, ParseResult, CancellationToken, Task<int>> action) => command.Calls(async (api, parsed, cancellation) =>
    {
        try
        {
            return await action(api, parsed, cancellation);
        }
        catch (LabException failed)
        {
            CommandContext.Tell(parsed, failed.Code, failed.Message);
            return failed.Code == "node_not_found" ? ExitCodes.NotFound : ExitCodes.Failed;
        }
        catch (LaunchFailedException failed)
        {
            CommandContext.Tell(parsed, failed.Code, failed.Message);
            return ExitCodes.Failed;
        }
    });
}
