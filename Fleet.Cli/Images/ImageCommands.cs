using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Fleet.Cli.Node;
using Fleet.Cli.Output;
using Fleet.Host.Drivers;
using Fleet.Host.Images.Oci;

namespace Fleet.Cli.Images;

/// <summary><c>fleet image list | pull | remove</c>: the OCI images of the host on this machine, beside its agent.</summary>
internal static class ImageCommands
{
    private static readonly TimeSpan TellEvery = TimeSpan.FromMilliseconds(500);

    public static Command Create() => new("image", "OCI images of the host on this machine") { List(), Pull(), Remove() };

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
            var image = await store.GetAsync(parsed.GetRequiredValue(name), progress, again: true, cancellation);
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

    private static Argument<string> Name() => new("image") { Description = "registry/name:tag, registry/name@sha256:…, oci:/folder or docker-archive:/file.tar" };

    private static Command Guarded(Command command, Func<ImageStore, ParseResult, CancellationToken, Task<int>> action)
    {
        command.SetAction(async (parsed, cancellation) =>
        {
            try
            {
                var folder = Path.Combine(DataDirectory.Of(parsed.GetRequiredValue(CommandContext.Data)).Host, "images");
                if (!Directory.Exists(folder))
                    throw new LaunchFailedException("image_not_found", $"There is no host's store of images in {folder}; start a host there first, or name its --data.");
                return await action(new ImageStore(folder, new ImageStoreOptions()), parsed, cancellation);
            }
            catch (LaunchFailedException failed)
            {
                CommandContext.Tell(parsed, failed.Code, failed.Message);
                return failed.Code == "image_not_found" ? ExitCodes.NotFound : ExitCodes.Failed;
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
