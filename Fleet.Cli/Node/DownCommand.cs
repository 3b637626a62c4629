using System.CommandLine;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;
using Fleet.Cli.Output;
using Fleet.Cli.Vms;
using Fleet.Host.State;

namespace Fleet.Cli.Node;

/// <summary><c>fleet down</c>: ends the node that runs on this data directory. MicroVMs go on and files stay, unless told otherwise.</summary>
internal static class DownCommand
{
    /// <summary>So often it is looked whether the host of a microVM that does not end is still there.</summary>
    private static readonly TimeSpan HostLook = TimeSpan.FromSeconds(2);

    /// <summary>Half a minute: longer than the default lease, after which the host is given up and its microVMs are free to end.</summary>
    private const int MostLooks = 15;

    /// <summary>Two minutes for one whose host is there.</summary>
    private const int GivenUpAfter = 60;

    public static Command Create()
    {
        var withVms = new Option<bool>("--vms") { Description = "Delete every microVM of this fleet first" };
        var purge = new Option<bool>("--purge") { Description = "Delete every microVM of this fleet first, and then all that Fleet keeps on this machine: volumes, images, journal, tokens, logs" };
        return new Command("down", "End what fleet up started; microVMs go on and are found again by the next fleet up") { withVms, purge }.Calls(async (api, parsed, cancellation) =>
        {
            var directory = DataDirectory.Of(parsed.GetRequiredValue(CommandContext.Data));
            if (parsed.GetValue(purge) && Purge.Obstacle(directory) is { } obstacle)
            {
                CommandContext.Tell(parsed, obstacle.Code, obstacle.Message);
                return ExitCodes.Conflict;
            }

            if (!NodeLock.IsHeld(directory))
            {
                // A node that was ended before left its files.
                if (parsed.GetValue(purge) && Directory.Exists(directory.Root))
                    return Purged(parsed, directory);
                CommandContext.Tell(parsed, "not_running", $"No Fleet runs on {directory.Root}.");
                return ExitCodes.NotFound;
            }

            var stranded = new List<Stranded>();
            if (parsed.GetValue(withVms) || parsed.GetValue(purge))
            {
                // Two addresses lead here, the directory's and the API's: only of one and the same node may it delete.
                if (NodeLock.Holder(directory) is not { } holder || !await api.IsServedByAsync(holder, cancellation))
                {
                    CommandContext.Tell(parsed, "other_fleet", $"{api.Endpoint} is not the API of the Fleet on {directory.Root}. Nothing was deleted; give the --api that belongs to this --data.");
                    return ExitCodes.Conflict;
                }

                stranded = await DeleteAllAsync(api, cancellation);
                foreach (var host in stranded)
                    CommandContext.Warn(parsed, host.ToString());
            }

            if (!await NodeLock.EndHolderAsync(directory, TimeSpan.FromSeconds(30), cancellation))
            {
                CommandContext.Tell(parsed, "still_running", $"The process on {directory.Root} did not end; its pid is in {directory.Root}/fleet.pid.");
                return ExitCodes.Failed;
            }

            // The journal is all that knows of microVMs whose host is away.
            if (parsed.GetValue(purge) && stranded.Count == 0)
                return Purged(parsed, directory);
            var left = StateDirectory.CountUnended(directory.Host);
            if (!parsed.GetValue(CommandContext.Json))
            {
                var goOn = left == 0 ? "" : $" This host keeps {left} microVM{(left == 1 ? "" : "s")}; fleet up finds {(left == 1 ? "it" : "them")} again.";
                parsed.InvocationConfiguration.Output.WriteLine("Fleet is down." + goOn);
            }
            else
            {
                Render.Json(parsed.InvocationConfiguration.Output, new JsonObject
                {
                    ["vms_left"] = left,
                    ["stranded"] = new JsonArray([.. stranded.Select(host => (JsonNode)new JsonObject { ["host"] = host.Host, ["state"] = host.State, ["vms"] = host.Vms })]),
                });
            }

            return stranded.Count == 0 ? ExitCodes.Ok : ExitCodes.Incomplete;
        });
    }

    private static int Purged(ParseResult parsed, DataDirectory directory)
    {
        if (Purge.Remove(directory) is { } failure)
        {
            CommandContext.Tell(parsed, failure.Code, failure.Message);
            return ExitCodes.Failed;
        }

        if (parsed.GetValue(CommandContext.Json))
            Render.Json(parsed.InvocationConfiguration.Output, new JsonObject { ["vms_left"] = 0, ["stranded"] = new JsonArray(), ["purged"] = directory.Root });
        else
            parsed.InvocationConfiguration.Output.WriteLine($"Fleet is down, and nothing of it is left in {directory.Root}.");
        return ExitCodes.Ok;
    }

    /// <summary>MicroVMs whose deletion waits for a host that is not there.</summary>
    private sealed record Stranded(string Host, string State, int Vms)
    {
        public override string ToString() =>
            $"{Vms} microVM{(Vms == 1 ? " is" : "s are")} on host {Host}, which is {State}: deleted when it is back or given up. If it never comes back, the next time that Fleet is up: fleet host remove {Host}";
    }

    /// <summary>Waits for all but those on hosts that are not there: that may be for ever, and what was asked for is in the journal.</summary>
    private static async Task<List<Stranded>> DeleteAllAsync(ApiClient api, CancellationToken cancellation)
    {
        var vms = (await api.ListAsync("v1/vms", cancellation)).Select(node => JsonSerializer.SerializeToElement(node)).ToArray();
        foreach (var vm in vms)
            await api.DeleteAsync(VmCommands.PathOf(vm.Text("id")), cancellation);
        var stranded = new SortedDictionary<string, Stranded>(StringComparer.Ordinal);
        foreach (var vm in vms)
        {
            // A host that was found away is not waited for again.
            for (var look = 1; !await IsGoneAsync(api, vm.Text("id"), stranded.ContainsKey(vm.Text("host")) ? TimeSpan.Zero : HostLook, cancellation); look++)
            {
                if (await AwayAsync(api, vm.Text("id"), cancellation) is not { } host || (look < MostLooks && !stranded.ContainsKey(host.Host)))
                {
                    if (look == GivenUpAfter)
                        throw new ApiException("timeout", $"{vm.Text("id")} does not end, and its host is there: fleet vm show {vm.Text("id")}. Fleet goes on.");
                    continue;
                }

                stranded[host.Host] = host with { Vms = (stranded.GetValueOrDefault(host.Host)?.Vms ?? 0) + 1 };
                break;
            }
        }

        return [.. stranded.Values];
    }

    private static async Task<bool> IsGoneAsync(ApiClient api, string id, TimeSpan patience, CancellationToken cancellation)
    {
        try
        {
            await VmCommands.WaitAsync(api, id, "deleted", patience, cancellation);
            return true;
        }
        catch (ApiException notYet) when (notYet.Code is "timeout" or "not_found")
        {
            return notYet.Code == "not_found";
        }
    }

    /// <summary>The host that a microVM is on, if that is not there; null: it is, or the microVM is nowhere.</summary>
    private static async Task<Stranded?> AwayAsync(ApiClient api, string id, CancellationToken cancellation)
    {
        try
        {
            if ((await api.GetAsync(VmCommands.PathOf(id), cancellation)).Text("host") is not { } name || name == "-")
                return null;
            var host = await api.GetAsync("v1/hosts/" + Uri.EscapeDataString(name), cancellation);
            return host.Text("state") == "connected" ? null : new Stranded(name, host.Text("state"), 0);
        }
        catch (ApiException gone) when (gone.Code == "not_found")
        {
            return null;
        }
    }
}
