using System.CommandLine;
using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using Fleet.Cli.Node;
using Fleet.Cli.Output;
using Fleet.Host.Drivers;
using Fleet.Host.Images.Oci;

namespace Fleet.Cli.Images;

/// <summary><c>fleet image list | pull | remove | login | logout</c>: the OCI images of the host on this machine, beside its agent.</summary>
internal static class ImageCommands
{
    private static readonly TimeSpan TellEvery = TimeSpan.FromMilliseconds(500);

    public static Command Create() => new("image", "OCI images of the host on this machine") { List(), Pull(), Remove(), Login(), Logout() };

    private static Command List() => Guarded(new Command("list", "The images that are here, the last used first"), (store, parsed, _) =>
    {
        var images = store.List();
        var output = parsed.InvocationConfiguration.Output;
        if (parsed.GetValue(CommandContext.Json))
            Render.Json(output, new JsonArray([.. images.Select(image => (JsonNode)Body(store, image))]));
        else
            Render.Table(output, ["IMAGE", "DIGEST", "SIZE"], images.Select(image => (IReadOnlyList<string>)[image.Reference, image.Digest[..19], Size(BytesOf(store, image))]));
        return Task.FromResult(ExitCodes.Ok);
    });

    private static Command Pull()
    {
        var name = Name();
        return Guarded(new Command("pull", "Pull an image before it is needed, or a tag that has moved") { name }, async (store, parsed, cancellation) =>
        {
            var progress = parsed.GetValue(CommandContext.Json) ? null : new Progress(parsed.InvocationConfiguration.Error);
            var image = await store.GetAsync(parsed.GetRequiredValue(name), "", progress, again: true, cancellation);
            if (parsed.GetValue(CommandContext.Json))
                Render.Json(parsed.InvocationConfiguration.Output, Body(store, image));
            else
                parsed.InvocationConfiguration.Output.WriteLine($"{image.Reference} {image.Digest}");
            return ExitCodes.Ok;
        });
    }

    private static Command Remove()
    {
        var name = Name();
        return Guarded(new Command("remove", "Remove an image; microVMs that run from it go on") { name }, (store, parsed, _) =>
        {
            var wanted = parsed.GetRequiredValue(name);
            if (store.Remove(wanted))
                return Task.FromResult(ExitCodes.Ok);
            throw new LaunchFailedException("image_not_found", $"This host has no image {wanted}; fleet image list shows what it has.");
        });
    }

    private static Command Login()
    {
        var registry = Registry();
        var user = new Option<string>("--user", "-u") { Description = "Who the host is to the registry", Required = true };
        return GuardedInFolder(new Command("login", "Have this host pull as a user of a registry; the password comes on standard input") { registry, user }, (folder, parsed, _) =>
        {
            var at = parsed.GetRequiredValue(registry);
            var password = Password(parsed) ?? throw new LaunchFailedException("invalid_field", "The password comes on standard input, and there was none.");
            if (new RegistryCredentials(folder).Set(at, parsed.GetRequiredValue(user), password) is { } problem)
                throw new LaunchFailedException("invalid_field", problem);
            parsed.InvocationConfiguration.Output.WriteLine($"Whoever may run microVMs on this host, tenants too, can use what this user may read at {at}.");
            return Task.FromResult(ExitCodes.Ok);
        });
    }

    private static Command Logout()
    {
        var registry = Registry();
        return GuardedInFolder(new Command("logout", "Have this host be nobody to a registry again") { registry }, (folder, parsed, _) =>
        {
            var wanted = parsed.GetRequiredValue(registry);
            if (new RegistryCredentials(folder).Remove(wanted))
                return Task.FromResult(ExitCodes.Ok);
            throw new LaunchFailedException("image_not_found", $"This host is nobody to {wanted} already.");
        });
    }

    private static string? Password(ParseResult parsed)
    {
        // Typed, it is not shown.
        using var terminal = RawTerminal.TryEnter(keepSignals: true);
        if (terminal is null)
            return Console.In.ReadLine();
        parsed.InvocationConfiguration.Error.Write("Password: ");
        using var input = new StreamReader(RawTerminal.OpenInput());
        var password = new StringBuilder();
        while (input.Read() is var next and not (-1 or '\r' or '\n' or '\x04'))
        {
            if (next is '\b' or '\x7f')
                password.Length = Math.Max(0, password.Length - 1);
            else
                password.Append((char)next);
        }

        parsed.InvocationConfiguration.Error.WriteLine();
        return password.Length > 0 ? password.ToString() : null;
    }

    private static Argument<string> Registry() => new("registry") { Description = "HOST or HOST:PORT, as in an image's name" };

    private static Argument<string> Name() => new("image") { Description = "registry/name:tag, registry/name@sha256:…, oci:/folder or docker-archive:/file.tar" };

    private static Command Guarded(Command command, Func<ImageStore, ParseResult, CancellationToken, Task<int>> action) =>
        GuardedInFolder(command, (folder, parsed, cancellation) => action(new ImageStore(folder, new ImageStoreOptions()), parsed, cancellation));

    private static Command GuardedInFolder(Command command, Func<string, ParseResult, CancellationToken, Task<int>> action)
    {
        command.SetAction(async (parsed, cancellation) =>
        {
            try
            {
                var folder = Path.Combine(DataDirectory.Of(parsed.GetRequiredValue(CommandContext.Data)).Host, "images");
                if (!Directory.Exists(folder))
                    throw new LaunchFailedException("image_not_found", $"There is no host's store of images in {folder}; start a host there first, or name its --data.");
                return await action(folder, parsed, cancellation);
            }
            catch (LaunchFailedException failed)
            {
                CommandContext.Tell(parsed, failed.Code, failed.Message);
                return failed.Code switch { "image_not_found" => ExitCodes.NotFound, "invalid_field" => ExitCodes.Usage, _ => ExitCodes.Failed };
            }
            catch (Exception failed) when (failed is IOException or UnauthorizedAccessException)
            {
                CommandContext.Tell(parsed, "image_unavailable", $"The host's images can't be used: {failed.Message}");
                return ExitCodes.Failed;
            }
            catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
            {
                return ExitCodes.Interrupted;
            }
        });
        return command;
    }

    private static JsonObject Body(ImageStore store, StoredImage image) => new() { ["image"] = image.Reference, ["digest"] = image.Digest, ["bytes"] = BytesOf(store, image) };

    private static long BytesOf(ImageStore store, StoredImage image) => new FileInfo(store.RootOf(image)).Length;

    private static string Size(long bytes) => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1048576.0:0.0} MiB");

    private sealed class Progress(TextWriter output) : IProgress<PullProgress>
    {
        private readonly Lock _gate = new();
        private long _told = TimeProvider.System.GetTimestamp();

        public void Report(PullProgress value)
        {
            lock (_gate)
            {
                if (!value.Unpacking && TimeProvider.System.GetElapsedTime(_told) < TellEvery)
                    return;
                _told = TimeProvider.System.GetTimestamp();
                output.WriteLine(value.Unpacking ? "making the root file system" : $"{Size(value.Bytes)} of {Size(value.Total)}");
            }
        }
    }
}
