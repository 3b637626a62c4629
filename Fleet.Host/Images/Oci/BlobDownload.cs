using System.Security.Cryptography;
using Fleet.Host.Drivers;

namespace Fleet.Host.Images.Oci;

/// <summary>
/// Brings one blob into a file: goes on where it was broken off, also by an agent's end, and verifies the digest while the bytes come. Bytes beyond
/// the size that the manifest gives are never written.
/// </summary>
internal sealed class BlobDownload(Descriptor blob, string partial, RetryTerms terms, TimeProvider clock, Action<long> arrived)
{
    private const int Buffer = 256 * 1024;

    /// <summary>Leaves the whole, verified blob in the partial file, on the disk.</summary>
    /// <exception cref="LaunchFailedException">It can't be had, or is not what it is called: then the file is gone.</exception>
    /// <exception cref="IOException">The disk does not take it.</exception>
    public async Task RunAsync(IImageOrigin origin, CancellationToken cancellation)
    {
        await using var file = new FileStream(partial, new FileStreamOptions
        {
            Mode = FileMode.OpenOrCreate, Access = FileAccess.ReadWrite, Share = FileShare.Read, BufferSize = 0, Options = FileOptions.Asynchronous,
            UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
        });
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        var found = await RehashAsync(file, hash, cancellation).ConfigureAwait(false);
        arrived(file.Length);
        await terms.RunAsync(clock, async token =>
        {
            while (file.Length < blob.Size)
            {
                using var bytes = await origin.OpenBlobAsync(blob, file.Length, token).ConfigureAwait(false);
                if (bytes.From < file.Length) StartOver(file, hash, bytes.From);
                var before = file.Length;
                try
                {
                    await CopyAsync(bytes.Stream, file, hash, token).ConfigureAwait(false);
                    if (file.Length < blob.Size) throw new TransientFault($"A layer ended after {file.Length} of {blob.Size} bytes");
                }
                catch (TransientFault fault) when (bytes.From > 0 && file.Length > before)
                {
                    throw new TransientFault(fault.Message, fault.After, fault) { Progressed = true };
                }
            }
            if ("sha256:" + Convert.ToHexStringLower(hash.GetHashAndReset()) == blob.Digest) return true;
            StartOver(file, hash, 0);
            // What an earlier agent left may have been wrong, and the registry right.
            if (!found) throw Wrong($"a layer's bytes are not {blob.Digest}");
            found = false;
            throw new TransientFault("What was there of a layer was not right");
        }, cancellation).ConfigureAwait(false);
        file.Flush(flushToDisk: true);
    }

    private async Task CopyAsync(Stream from, FileStream file, IncrementalHash hash, CancellationToken cancellation)
    {
        var buffer = new byte[Buffer];
        file.Position = file.Length;
        while (true)
        {
            var read = await from.ReadAsync(buffer, cancellation).ConfigureAwait(false);
            if (read == 0) return;
            if (file.Length + read > blob.Size) throw Wrong($"a layer is longer than the {blob.Size} bytes that its manifest gives it");
            hash.AppendData(buffer, 0, read);
            await file.WriteAsync(buffer.AsMemory(0, read), cancellation).ConfigureAwait(false);
            arrived(file.Length);
        }
    }

    private async Task<bool> RehashAsync(FileStream file, IncrementalHash hash, CancellationToken cancellation)
    {
        if (file.Length > blob.Size) file.SetLength(0);
        var buffer = new byte[Buffer];
        int read;
        while ((read = await file.ReadAsync(buffer, cancellation).ConfigureAwait(false)) > 0) hash.AppendData(buffer, 0, read);
        return file.Length > 0;
    }

    private static void StartOver(FileStream file, IncrementalHash hash, long from)
    {
        if (from != 0) throw new TransientFault("The registry sent another part of a layer than it was asked for");
        file.SetLength(0);
        _ = hash.GetHashAndReset();
    }

    private LaunchFailedException Wrong(string why)
    {
        File.Delete(partial);
        return ImageFault.Refused(why);
    }
}

/// <summary>How often and how soon something is tried again.</summary>
/// <param name="Attempts">Faults in a row without progress that are borne.</param>
/// <param name="FirstPause">After the first fault; then twice that, and so on.</param>
internal sealed record RetryTerms(int Attempts, TimeSpan FirstPause)
{
    public static RetryTerms Default { get; } = new(5, TimeSpan.FromMilliseconds(500));

    /// <exception cref="LaunchFailedException"><c>registry_unavailable</c>, when it never worked.</exception>
    public async Task<T> RunAsync<T>(TimeProvider clock, Func<CancellationToken, Task<T>> work, CancellationToken cancellation)
    {
        for (var attempt = 1; ; attempt++)
        {
            TransientFault fault;
            try
            {
                return await work(cancellation).ConfigureAwait(false);
            }
            catch (TransientFault caught)
            {
                fault = caught;
            }

            if (fault.Progressed) attempt = 1;
            if (attempt >= Attempts)
                throw ImageFault.Unavailable($"{fault.Message}, {Attempts} times in a row. Try again later, or look at the network between this host and the registry.", fault);
            await Task.Delay(fault.After ?? FirstPause * Math.Pow(2, attempt - 1), clock, cancellation).ConfigureAwait(false);
        }
    }
}
