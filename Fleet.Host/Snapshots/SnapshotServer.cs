using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;
using System.Security.Cryptography.X509Certificates;
using Fleet.Host.Link;
using Fleet.Host.State;
using Fleet.Shared.Access;
using Fleet.Shared.Vms;
using Serilog;

namespace Fleet.Host.Snapshots;

/// <summary>
/// Gives snapshots to other hosts of the cell, each to the one host that the control plane named when it had it taken. Who asks is
/// known by its certificate, which must be of the enrolment that was then that host's newest; whoever is not that host hears the same as of what is not there.
/// </summary>
internal sealed class SnapshotServer : IAsyncDisposable
{
    /// <summary>Fetches at once: as many as move at once when a host is drained. Others wait, once it is known who they are and that there is something for them.</summary>
    private const int MostAtOnce = 8;

    /// <summary>Connections, of whomever; one more is closed.</summary>
    private const int MostConnections = 256;

    /// <summary>Connections of one address, or of one /64, that do not fetch yet; one more is closed, so that no stranger takes the others' place.</summary>
    private const int MostAskingOfOne = 2 * MostAtOnce;

    /// <summary>For the handshake and the question.</summary>
    private static readonly TimeSpan AskingPatience = TimeSpan.FromSeconds(10);

    /// <summary>For a place: as long as the other side waits for a word.</summary>
    private static readonly TimeSpan PlacePatience = TimeSpan.FromSeconds(20);

    private readonly TcpListener _listener;
    private readonly LinkCredentials _credentials;
    private readonly StateDirectory _state;
    private readonly NodeTrust _trust;
    private readonly ILogger _log;
    private readonly CancellationTokenSource _ending = new();
    private readonly SemaphoreSlim _places = new(MostAtOnce);
    private readonly SemaphoreSlim _connections = new(MostConnections);
    private readonly Dictionary<IPAddress, int> _asking = [];
    private readonly Task _accepting;

    private SnapshotServer(TcpListener listener, LinkCredentials credentials, StateDirectory state, TimeProvider clock, ILogger log)
    {
        _listener = listener;
        _credentials = credentials;
        _state = state;
        _trust = new NodeTrust(credentials.Authority, clock);
        _log = log.ForContext<SnapshotServer>();
        _accepting = AcceptAsync();
    }

    /// <summary>Where it listens.</summary>
    public IPEndPoint Endpoint => (IPEndPoint)_listener.LocalEndpoint;

    /// <exception cref="AgentStartException">The address can't be listened on.</exception>
    public static SnapshotServer Start(IPEndPoint endpoint, LinkCredentials credentials, StateDirectory state, TimeProvider clock, ILogger log)
    {
        var listener = new TcpListener(endpoint);
        try
        {
            listener.Start(backlog: 16);
        }
        catch (SocketException refused)
        {
            listener.Dispose();
            throw new AgentStartException($"--transfer: {endpoint} can't be listened on: {refused.Message}. Choose an address of this machine and a port that is free.", refused);
        }

        return new SnapshotServer(listener, credentials, state, clock, log);
    }

    public async ValueTask DisposeAsync()
    {
        await _ending.CancelAsync().ConfigureAwait(false);
        _listener.Dispose();
        await _accepting.ConfigureAwait(false);
        for (var connection = 0; connection < MostConnections; connection++)
            await _connections.WaitAsync().ConfigureAwait(false);
        _connections.Dispose();
        _places.Dispose();
        _ending.Dispose();
    }

    private async Task AcceptAsync()
    {
        await Task.Yield();
        while (!_ending.IsCancellationRequested)
        {
            try
            {
                var client = await _listener.AcceptTcpClientAsync(_ending.Token).ConfigureAwait(false);
                if (_connections.Wait(0))
                    _ = ServeAsync(client);
                else
                    client.Dispose();
            }
            catch (Exception ended) when (ended is OperationCanceledException or ObjectDisposedException)
            {
                return;
            }
            catch (SocketException failed)
            {
                _log.Warning("A host that wants a snapshot could not be let in: {Why:l}", failed.Message);
                await Task.Delay(TimeSpan.FromSeconds(1), _ending.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }
        }
    }

    private async Task ServeAsync(TcpClient client)
    {
        var hasPlace = false;
        try
        {
            using (client)
            {
                using var asking = Asking.TryBegin(_asking, ((IPEndPoint)client.Client.RemoteEndPoint!).Address);
                if (asking is null)
                    return;
                using var limit = CancellationTokenSource.CreateLinkedTokenSource(_ending.Token);
                limit.CancelAfter(AskingPatience);
                CertificateHolder? peer = null;
                await using var stream = new SslStream(client.GetStream());
                await stream.AuthenticateAsServerAsync(
                    new SslServerAuthenticationOptions
                    {
                        ServerCertificate = _credentials.Certificate,
                        ClientCertificateRequired = true,
                        CertificateChainPolicy = CellTls.Policy(_credentials.Authority),
                        RemoteCertificateValidationCallback = (_, shown, _, _) =>
                            (peer = _trust.Identify(shown as X509Certificate2, CertificateRole.Host).Holder) is not null,
                    },
                    limit.Token).ConfigureAwait(false);
                var wanted = await SnapshotStream.ReadAsync(stream, FetchSnapshot.Parser, limit.Token).ConfigureAwait(false);
                var folder = VmId.IsValid(wanted.VmId) ? _state.FolderOf(wanted.VmId) : "";
                var record = folder.Length > 0 ? SnapshotFiles.Find(folder, wanted.Epoch) : null;
                if (record is null || peer is null || record.ForHost != peer.Name || record.ForEnrolment != peer.Enrolment)
                {
                    _log.Warning("Host {Peer} asked for a snapshot of {VmId} under epoch {Epoch} that is not there or not for it, with a certificate of enrolment {Enrolment}", peer?.Name, wanted.VmId, wanted.Epoch, peer?.Enrolment);
                    await SnapshotStream.WriteAsync(stream, new FetchAnswer { Refusal = "There is no such snapshot for that host." }, limit.Token).ConfigureAwait(false);
                    return;
                }

                limit.CancelAfter(PlacePatience);
                await _places.WaitAsync(limit.Token).ConfigureAwait(false);
                hasPlace = true;
                asking.Dispose();
                limit.CancelAfter(SnapshotFetcher.PatienceFor(record.MemoryBytes));
                await SnapshotStream.WriteAsync(stream, new FetchAnswer { Record = record }, limit.Token).ConfigureAwait(false);
                await SnapshotStream.SendAsync(stream, folder, record, limit.Token).ConfigureAwait(false);
            }
        }
        catch (Exception failed) when (failed is IOException or SocketException or OperationCanceledException or AuthenticationException or InvalidDataException
            or UnauthorizedAccessException or ObjectDisposedException)
        {
            _log.Warning("A host did not get a snapshot from here: {Why:l}", failed.Message);
        }
        catch (Exception fault) when (fault is not OutOfMemoryException)
        {
            _log.Error(fault, "Giving a snapshot to a host failed");
        }
        finally
        {
            if (hasPlace)
                _places.Release();
            _connections.Release();
        }
    }

    /// <summary>One connection that does not fetch yet, counted for its address until it is disposed.</summary>
    private sealed class Asking : IDisposable
    {
        private readonly Dictionary<IPAddress, int> _counts;
        private readonly IPAddress _address;
        private bool _over;

        private Asking(Dictionary<IPAddress, int> counts, IPAddress address) => (_counts, _address) = (counts, address);

        /// <summary>Null: that address has too many.</summary>
        public static Asking? TryBegin(Dictionary<IPAddress, int> counts, IPAddress peer)
        {
            var address = NetworkOf(peer);
            lock (counts)
            {
                var count = counts.GetValueOrDefault(address);
                if (count >= MostAskingOfOne)
                    return null;
                counts[address] = count + 1;
                return new Asking(counts, address);
            }
        }

        public void Dispose()
        {
            lock (_counts)
            {
                if (_over)
                    return;
                _over = true;
                if (--_counts[_address] == 0)
                    _counts.Remove(_address);
            }
        }

        private static IPAddress NetworkOf(IPAddress peer)
        {
            if (peer.IsIPv4MappedToIPv6 || peer.AddressFamily != AddressFamily.InterNetworkV6)
                return peer.MapToIPv4();
            var bytes = peer.GetAddressBytes();
            Array.Clear(bytes, 8, 8);
            return new IPAddress(bytes);
        }
    }
}
