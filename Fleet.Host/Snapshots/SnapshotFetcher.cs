using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;
using System.Security.Cryptography.X509Certificates;
using Fleet.Host.Drivers;
using Fleet.Host.Link;
using Fleet.Host.State;
using Fleet.Shared.Access;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Snapshots;

/// <summary>Fetches a snapshot from the host that has it, as a ticket of the control plane says; tried twice, and then given up.</summary>
internal sealed class SnapshotFetcher(LinkCredentials credentials, TimeProvider clock)
{
    private const int Tries = 2;

    /// <summary>The other side may be silent for so long.</summary>
    private static readonly TimeSpan Silence = TimeSpan.FromSeconds(20);

    private readonly NodeTrust _trust = new(credentials.Authority, clock);

    /// <summary>How long a whole fetch may take: a minute, and at 10 MiB a second.</summary>
    public static TimeSpan PatienceFor(ulong memoryBytes) => TimeSpan.FromSeconds(60 + (memoryBytes >> 20) / 10.0);

    /// <summary>Brings the snapshot into the microVM's directory, where it is complete then; nothing when it is there already.</summary>
    /// <exception cref="LaunchFailedException"><c>snapshot_unreachable</c>: it could not be had, or is not what the ticket says; nothing of it is left.</exception>
    public async Task FetchAsync(VmmLaunch launch, SnapshotTicket ticket, CancellationToken cancellation)
    {
        string why = "";
        try
        {
            if (SnapshotFiles.Find(launch.Directory, launch.SnapshotEpoch) is not null)
                return;
            if (Unfit(launch, ticket) is { } wrong)
                throw new LaunchFailedException(Code, $"The ticket for its snapshot can't be right: {wrong}");
            Directory.CreateDirectory(launch.Directory);
            SnapshotFiles.CheckRoom(launch.Directory, launch.Spec.MemoryMib);
            for (int tried = 0; tried < Tries; tried++)
            {
                using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
                using var whole = new CancellationTokenSource(PatienceFor(ticket.Digest.MemoryBytes), clock);
                using var both = CancellationTokenSource.CreateLinkedTokenSource(limit.Token, whole.Token);
                try
                {
                    limit.CancelAfter(Silence);
                    await TryAsync(launch, ticket, () => limit.CancelAfter(Silence), both.Token).ConfigureAwait(false);
                    return;
                }
                catch (Exception failed) when (!cancellation.IsCancellationRequested && failed is IOException or SocketException or OperationCanceledException
                    or AuthenticationException or InvalidDataException)
                {
                    why = failed is OperationCanceledException ? "it was silent or too slow" : failed.Message;
                }
            }
        }
        catch (SnapshotFailedException full)
        {
            why = full.Message;
        }
        catch (Exception failed) when (failed is IOException or UnauthorizedAccessException)
        {
            why = failed.Message;
        }

        SnapshotFiles.Delete(launch.Directory, launch.SnapshotEpoch);
        throw new LaunchFailedException(Code, $"What the microVM was saved in could not be fetched from host {ticket.Host} at {ticket.Address}: {why}");
    }

    public const string Code = "snapshot_unreachable";

    private static string? Unfit(VmmLaunch launch, SnapshotTicket ticket) =>
        ticket.Digest is not { StateSha256.Length: 32, MemorySha256.Length: 32 } digest ? "it has no digests"
        : digest.StateBytes + digest.MemoryBytes > (ulong)SnapshotFiles.LargestOf(launch.Spec.MemoryMib) || digest.MemoryBytes > (ulong)launch.Spec.MemoryMib << 20
            ? $"{digest.StateBytes} and {digest.MemoryBytes} bytes are more than a microVM of {launch.Spec.MemoryMib} MiB has"
            : null;

    private async Task TryAsync(VmmLaunch launch, SnapshotTicket ticket, Action moves, CancellationToken cancellation)
    {
        var colon = ticket.Address.LastIndexOf(':');
        if (colon <= 0 || !ushort.TryParse(ticket.Address.AsSpan(colon + 1), out var port))
            throw new InvalidDataException($"'{ticket.Address}' is no address and port");
        using var client = new TcpClient();
        await client.ConnectAsync(ticket.Address[..colon].Trim('[', ']'), port, cancellation).ConfigureAwait(false);
        await using var stream = new SslStream(client.GetStream());
        await stream.AuthenticateAsClientAsync(
            new SslClientAuthenticationOptions
            {
                TargetHost = ticket.Host,
                LocalCertificateSelectionCallback = (_, _, _, _, _) => credentials.Certificate,
                CertificateChainPolicy = CellTls.Policy(credentials.Authority),
                RemoteCertificateValidationCallback = (_, shown, _, _) =>
                    _trust.Identify(shown as X509Certificate2, CertificateRole.Host).Holder is { } holder && holder.Name == ticket.Host && holder.Enrolment == ticket.Enrolment,
            },
            cancellation).ConfigureAwait(false);
        await SnapshotStream.WriteAsync(stream, new FetchSnapshot { VmId = launch.VmId, Epoch = launch.SnapshotEpoch }, cancellation).ConfigureAwait(false);
        var answer = await SnapshotStream.ReadAsync(stream, FetchAnswer.Parser, cancellation).ConfigureAwait(false);
        if (answer.Record is not { } record)
            throw new InvalidDataException(Fleet.Shared.Vms.ReasonText.Shorten(answer.Refusal));
        var digest = ticket.Digest;
        if (record.VmId != launch.VmId || record.Epoch != launch.SnapshotEpoch || record.Driver != launch.Spec.Driver
            || record.StateBytes != digest.StateBytes || record.MemoryBytes != digest.MemoryBytes)
        {
            throw new InvalidDataException("it is another one than the ticket names");
        }

        await SnapshotStream.ReceiveAsync(stream, launch.Directory, record, moves, cancellation).ConfigureAwait(false);
        if (!SnapshotFiles.DigestOf(launch.Directory, SnapshotFiles.StateName(record.Epoch)).Equals(digest.StateSha256)
            || !SnapshotFiles.DigestOf(launch.Directory, SnapshotFiles.MemoryName(record.Epoch)).Equals(digest.MemorySha256))
        {
            throw new InvalidDataException("it is damaged: its digest is another one than the ticket has");
        }

        File.WriteAllBytes(Path.Combine(launch.Directory, VmmFiles.Status), record.Status.ToByteArray());
        SnapshotFiles.Complete(launch.Directory, new SnapshotRecord { VmId = record.VmId, Epoch = record.Epoch, Driver = record.Driver, Played = record.Played });
    }
}
