using System.CommandLine;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;
using Fleet.Cli.Output;

namespace Fleet.Cli.Volumes;

/// <summary><c>fleet volume create | list | remove | clone | snapshot</c>.</summary>
internal static class VolumeCommands
{
    private static readonly TimeSpan Look = TimeSpan.FromMilliseconds(300);

    public static Command Create() => new("volume", "Disks that outlive their microVMs")
    {
        New(), List(), Remove(),
        Copy("clone", "Copy a volume that no microVM has"),
        Copy("snapshot", "Copy a volume that no microVM has, to one that is only cloned and never written to"),
    };

    private static Command New()
    {
        var name = new Argument<string>("name") { Description = "Of the volume" };
        var host = new Option<string>("--host") { Description = "Where it is, for ever", Required = true };
        var size = new Option<string?>("--size") { Description = "MiB, or such as 10G (default 1G)" };
        var tenant = Tenant();
        return new Command("create", "Create a volume on a host, which makes it when it is used first") { name, host, size, tenant }.Calls(async (api, parsed, cancellation) =>
        {
            var body = new JsonObject { ["name"] = parsed.GetRequiredValue(name), ["host"] = parsed.GetRequiredValue(host) };
            if (parsed.GetValue(size) is { } text)
                body["size_mib"] = VolumeText.Mib(text) ?? throw new ApiException("invalid_field", $"--size wants MiB, or such as 10G, not '{text}'.");
            if (parsed.GetValue(tenant) is { } whose)
                body["tenant"] = whose;
            return Tell(parsed, await api.PostAsync("v1/volumes", body, cancellation));
        });
    }

    private static Command List() => new Command("list", "List volumes").Calls(async (api, parsed, cancellation) =>
    {
        var volumes = (await api.GetAsync("v1/volumes", cancellation)).GetProperty("items");
        var output = parsed.InvocationConfiguration.Output;
        if (parsed.GetValue(CommandContext.Json))
        {
            Render.Json(output, volumes);
            return ExitCodes.Ok;
        }

        var now = TimeProvider.System.GetUtcNow();
        Render.Table(output, ["VOLUME", "TENANT", "STATE", "MIB", "HOST", "GIVEN TO", "COPY OF", "AGE"], volumes.EnumerateArray().Select(volume => (IReadOnlyList<string>)
        [
            volume.Text("name"), volume.Text("tenant"), State(volume), volume.Text("size_mib"), volume.Text("host"), volume.Text("vm_id"), volume.Text("copy_of"),
            Render.Age(volume.Text("created_at"), now),
        ]));
        return ExitCodes.Ok;
    });

    private static Command Remove()
    {
        var name = new Argument<string>("name") { Description = "Of the volume" };
        var tenant = Tenant();
        return new Command("remove", "Remove a volume with all that it holds") { name, tenant }.Calls(async (api, parsed, cancellation) =>
            Tell(parsed, await api.DeleteAsync(Path(parsed.GetRequiredValue(name), "", parsed.GetValue(tenant)), cancellation)));
    }

    private static Command Copy(string verb, string description)
    {
        var name = new Argument<string>("name") { Description = "Of the volume" };
        var copy = new Argument<string>("copy") { Description = "Of the copy" };
        var tenant = Tenant();
        var noWait = new Option<bool>("--no-wait") { Description = "Return when the request is accepted" };
        return new Command(verb, description) { name, copy, tenant, noWait }.Calls(async (api, parsed, cancellation) =>
        {
            var path = Path(parsed.GetRequiredValue(name), "/" + verb, parsed.GetValue(tenant));
            var volume = await api.PostAsync(path, new JsonObject { ["name"] = parsed.GetRequiredValue(copy) }, cancellation);
            while (!parsed.GetValue(noWait) && volume.Text("state") == "copying")
            {
                await Task.Delay(Look, cancellation);
                var (wanted, whose) = (volume.Text("name"), volume.Text("tenant"));
                volume = (await Persistence.AskAsync(answered: true, () => api.GetAsync("v1/volumes", cancellation), cancellation)).GetProperty("items").EnumerateArray()
                    .FirstOrDefault(one => one.Text("name") == wanted && one.Text("tenant") == whose);
                if (volume.ValueKind == JsonValueKind.Undefined)
                    throw new ApiException("not_found", $"The volume {wanted} was removed before it was copied.");
            }

            Tell(parsed, volume);
            return volume.Text("state") == "failed" ? ExitCodes.Failed : ExitCodes.Ok;
        });
    }

    private static Option<string?> Tenant() => new("--tenant") { Description = "Whose it is; only with a token of role admin" };

    private static string Path(string name, string verb, string? tenant) =>
        $"v1/volumes/{Uri.EscapeDataString(name)}{verb}" + (tenant is null ? "" : "?tenant=" + Uri.EscapeDataString(tenant));

    private static int Tell(ParseResult parsed, JsonElement volume)
    {
        var output = parsed.InvocationConfiguration.Output;
        if (parsed.GetValue(CommandContext.Json))
            Render.Json(output, volume);
        else
            output.WriteLine($"{volume.Text("name")}: {State(volume)}{(volume.GetProperty("reason") is { ValueKind: JsonValueKind.Object } reason ? ": " + Render.Printable(reason.Text("message")) : "")}");
        return ExitCodes.Ok;
    }

    private static string State(JsonElement volume) =>
        volume.Text("state") + (volume.GetProperty("snapshot").ValueKind == JsonValueKind.True ? ", snapshot" : "");
}
