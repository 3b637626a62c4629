using System.CommandLine;
using System.Text.Json;
using Fleet.Cli.Api;
using Fleet.Cli.Output;
using Fleet.Cli.Vms;
using Fleet.Host.State;

namespace Fleet.Cli.Node;

/// <summary><c>fleet down</c>: ends the node that runs on this data directory. MicroVMs go on, unless told otherwise.</summary>
internal static class DownCommand
{
    public static Command Create()
    {
        var withVms = new Option<bool>("--vms") { Description = "Delete every microVM of this fleet first" };
        return new Command("down", "End what fleet up started; microVMs go on and are found again by the next fleet up") { withVms }.Calls(async (api, parsed, cancellation) =>
        {
            var directory = DataDirectory.Of(parsed.GetRequiredValue(CommandContext.Data));
            if (!NodeLock.IsHeld(directory))
            {
                CommandContext.Tell(parsed, "not_running", $"No Fleet runs on {directory.Root}.");
                return ExitCodes.NotFound;
            }

            if (parsed.GetValue(withVms))
            {
                // Two addresses lead here, the directory's and the API's: only of one and the same node may it delete.
                if (NodeLock.Holder(directory) is not { } holder || !await api.IsServedByAsync(holder, cancellation))
                {
                    CommandContext.Tell(parsed, "other_fleet", $"{api.Endpoint} is not the API of the Fleet on {directory.Root}. Nothing was deleted; give the --api that belongs to this --data.");
                    return ExitCodes.Conflict;
                }

                await DeleteAllAsync(api, cancellation);
            }

            if (!await NodeLock.EndHolderAsync(directory, TimeSpan.FromSeconds(30), cancellation))
            {
                CommandContext.Tell(parsed, "still_running", $"The process on {directory.Root} did not end; its pid is in {directory.Root}/fleet.pid.");
                return ExitCodes.Failed;
            }

            var left = StateDirectory.CountUnended(directory.Host);
            if (!parsed.GetValue(CommandContext.Json))
            {
                var goOn = left == 0 ? "" : $" This host keeps {left} microVM{(left == 1 ? "" : "s")}; fleet up finds {(left == 1 ? "it" : "them")} again.";
                parsed.InvocationConfiguration.Output.WriteLine("Fleet is down." + goOn);
            }
            else
            {
                Render.Json(parsed.InvocationConfiguration.Output, new System.Text.Json.Nodes.JsonObject { ["vms_left"] = left });
            }

            return ExitCodes.Ok;
        });
    }

    private static async Task DeleteAllAsync(ApiClient api, CancellationToken cancellation)
    {
        var vms = (await api.ListAsync("v1/vms", cancellation)).Select(node => JsonSerializer.SerializeToElement(node)).ToArray();
        foreach (var vm in vms)
            await api.DeleteAsync(VmCommands.PathOf(vm.Text("id")), cancellation);
        foreach (var vm in vms)
            await VmCommands.DeletedAsync(api, vm, cancellation);
    }
}
