using System.CommandLine;
using System.IO.Pipelines;
using System.Text;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;
using Fleet.Cli.Output;
using Fleet.Shared.Files;
using Fleet.Shared.Vms;

namespace Fleet.Cli.Vms;

/// <summary><c>fleet vm cp</c>: files and folders into a running microVM and out of it.</summary>
internal static class CopyCommand
{
    /// <summary>fleet-init itself, whatever the guest's root is.</summary>
    private const string Copier = "/proc/1/exe";

    private const int MostWords = 4096;

    public static Command Create()
    {
        var source = new Argument<string>("source") { Description = "PATH here, or VM:PATH; for an admin TENANT/NAME:PATH where it is a tenant's" };
        var target = new Argument<string>("target") { Description = "VM:PATH, or PATH here; into it if it is a folder, else as it" };
        return new Command("cp", "Copy a file or a folder into a running microVM, or out of it: at most 1,000,000 files of 128 GiB together") { source, target }.Calls(async (api, parsed, cancellation) =>
        {
            switch (Split(parsed.GetRequiredValue(source)), Split(parsed.GetRequiredValue(target)))
            {
                case ({ Vm: null } here, { Vm: { } vm } there):
                    await InAsync(api, here.Path, vm, there.Path, cancellation);
                    return ExitCodes.Ok;
                case ({ Vm: { } vm } there, { Vm: null } here):
                    await OutAsync(api, vm, there.Path, here.Path, cancellation);
                    return ExitCodes.Ok;
                default:
                    throw new ApiException("invalid_field", "One side must be VM:PATH, and the other a path here. A path here with a colon is written with a slash before it: ./a:b.");
            }
        });
    }

    /// <summary>A colon behind what may be a name, or a tenant's and a name, makes it a place in a microVM.</summary>
    internal static (string? Vm, string Path) Split(string word)
    {
        var colon = word.IndexOf(':', StringComparison.Ordinal);
        if (colon <= 0)
            return (null, word);
        var names = word[..colon].Split('/');
        return names.Length == 1 || (names.Length == 2 && VmSpecRules.IsHostId(names[0]) && VmSpecRules.IsName(names[1]))
            ? (word[..colon], word.Length > colon + 1 ? word[(colon + 1)..] : "/")
            : (null, word);
    }

    private static Task InAsync(ApiClient api, string here, string vm, string there, CancellationToken cancellation)
    {
        if (!Path.Exists(here))
            throw new ApiException("not_found", $"There is nothing at {here}.");
        return CarryAsync(api, vm, "unpack", there, stream => TreeCopy.Pack(here, stream), packs: true, cancellation);
    }

    private static Task OutAsync(ApiClient api, string vm, string there, string here, CancellationToken cancellation) =>
        CarryAsync(api, vm, "pack", there, stream => TreeCopy.Unpack(stream, here, TreeCopy.NameOf(Path.GetFullPath(there, "/"))), packs: false, cancellation);

    private static async Task CarryAsync(ApiClient api, string vm, string verb, string there, Action<Stream> ours, bool packs, CancellationToken cancellation)
    {
        var request = new JsonObject { ["command"] = new JsonArray(Copier, verb, there), ["user"] = "0" };
        await using var stream = await ExecStream.OpenAsync(api, vm, request, cancellation);
        // A pipe holds back whoever is faster.
        var pipe = new Pipe();
        using var words = new MemoryStream();
        using var over = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        using var end = packs ? pipe.Writer.AsStream() : pipe.Reader.AsStream();
        var copying = Task.Run(async () =>
        {
            try
            {
                using (end)
                    ours(end);
            }
            catch
            {
                // The other side may be a stranger who goes on for ever.
                await over.CancelAsync();
                throw;
            }
        }, CancellationToken.None);
        var status = 0;
        try
        {
            if (packs)
            {
                using var input = pipe.Reader.AsStream();
                status = await stream.RunAsync(input, Stream.Null, new Bounded(words, MostWords), over.Token);
            }
            else
            {
                try
                {
                    await using var output = pipe.Writer.AsStream();
                    status = await stream.RunAsync(null, output, new Bounded(words, MostWords), over.Token);
                }
                finally
                {
                    // What has come by halves is removed before we go.
                    await copying.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
                }
            }
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            // Ours failed, and says why below.
        }
        // What failed here made a guest fail that unpacks. One that packs and fails leaves us half of a copy: it knows why.
        if (status != 0 && !(packs && copying.IsFaulted))
            throw new ApiException("copy_failed", $"The guest could not {verb} {there}: {Render.Printable(Encoding.UTF8.GetString(words.ToArray()).Trim())}");
        try
        {
            await copying;
        }
        catch (Exception failed) when (failed is IOException or UnauthorizedAccessException)
        {
            throw new ApiException("copy_failed", failed.Message);
        }
    }

    /// <summary>Keeps the beginning and drops the rest.</summary>
    private sealed class Bounded(MemoryStream kept, int most) : Stream
    {
        public override bool CanRead => false;

        public override bool CanSeek => false;

        public override bool CanWrite => true;

        public override long Length => throw new NotSupportedException();

        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

        public override void Flush()
        {
        }

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int count) => kept.Write(buffer, offset, (int)Math.Clamp(most - kept.Length, 0, count));
    }
}
