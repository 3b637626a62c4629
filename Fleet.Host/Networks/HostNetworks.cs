using System.Net;
using System.Net.Sockets;
using Fleet.Host.Drivers;
using Fleet.Host.Images;
using Fleet.Host.State;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Serilog;

namespace Fleet.Host.Networks;

/// <summary>
/// The networks of this host: makes the kernel look as the <see cref="NetworkTable"/> says, and nothing else. There is one way to
/// do that, whether a microVM comes, goes, or an agent was killed in the middle: look at what there is, remove what is too much, make what is missing, write
/// every rule. While no microVM wants a network nothing of the machine is touched.
/// </summary>
/// <remarks>Safe for several threads. Changes that come while one is being made are made together.</remarks>
internal sealed class HostNetworks : IAsyncDisposable
{
    public const string Unavailable = "network_unavailable";

    private static readonly TimeSpan CommandLimit = TimeSpan.FromSeconds(30);

    private readonly Lock _gate = new();
    private readonly NetworkTable _table;
    private readonly LinkPlan _links;
    private readonly PortHolds _ports;
    private readonly Forwarding _forwarding;
    private readonly Dictionary<string, TenantResolver> _resolvers = new(StringComparer.Ordinal);
    private readonly string _folder;
    private readonly ILogger _log;
    private readonly SemaphoreSlim _turn = new(1);
    private Socket? _claim;
    private int _changes;
    private int _made;
    private bool _sound;
    // What the rules that were written last count; null: it is not known what they are.
    private CountedConnections? _counted;

    /// <param name="options">Checked.</param>
    /// <param name="hostId">The host's.</param>
    /// <param name="stateDirectory">The agent's: holds what the machine's settings were.</param>
    /// <param name="log">The agent's.</param>
    public HostNetworks(NetworkOptions options, string hostId, string stateDirectory, ILogger log)
    {
        _table = new NetworkTable(options.Pool, options.SiteOf(hostId));
        _links = new LinkPlan(stateDirectory);
        _folder = FolderIn(stateDirectory);
        _log = log.ForContext<HostNetworks>();
        _ports = new PortHolds(_log);
        _forwarding = new Forwarding(Path.Combine(_folder, "settings"));
    }

    /// <summary>There from the first interface to the last rule that is removed.</summary>
    public static string FolderIn(string stateDirectory) => Path.Combine(stateDirectory, "network");

    /// <summary>Where a microVM's tap is found.</summary>
    public string TapOf(Attachment one) => _links.TapOf(one);

    public Attachment? Find(string vmId)
    {
        lock (_gate)
            return _table.Find(vmId);
    }

    /// <summary>
    /// Takes up what an earlier agent wrote down, and puts everything right: what was cut or half made is made, what belongs to nobody is
    /// removed. Never throws: microVMs without a network don't wait for one.
    /// </summary>
    public async Task TakeUpAsync(IReadOnlyList<LaunchRecord> found)
    {
        lock (_gate)
        {
            foreach (var record in found.Where(record => record.Report.State.HasVmm() && record.Network is not null))
            {
                if (Attachment.Of(record) is not { } one || !_table.TryPut(one))
                    _log.Error("The place of {VmId} in its network can't be read from its record, or is another's; it has no network until it is started anew", record.Launch.VmId);
                else
                    _ports.TryHold(one, told: true);
            }

            if (_table.All.Count == 0 && !LinkNames.Present().Any(_links.IsOurs) && !_forwarding.IsChanged)
                return;
            _changes++;
        }

        await SettleAsync().ConfigureAwait(false);
    }

    /// <summary>Gives a microVM its address and its ports of the host; the same as before when it has them.</summary>
    /// <exception cref="NetworkRefusedException">With a reason's code.</exception>
    public Attachment Assign(string vmId, VmSpec spec)
    {
        lock (_gate)
        {
            var one = _table.Assign(vmId, spec, _table.HasNetworkOf(spec.Tenant) ? null : Taken());
            if (_ports.TryHold(one, told: false) is { } taken)
            {
                _table.Remove(vmId);
                throw new NetworkRefusedException("port_taken", $"Port {taken.Host}/{taken.Protocol} of this host is used by another program. Choose another, or another host.");
            }
            _changes++;
            return one;
        }
    }

    /// <summary>Completes when the microVM's interface is there, with every rule that guards it.</summary>
    /// <exception cref="LaunchFailedException"><c>network_unavailable</c>.</exception>
    public async Task AttachAsync(CancellationToken cancellation)
    {
        try
        {
            await ApplyAsync(cancellation).ConfigureAwait(false);
        }
        catch (Exception failed) when (failed is IOException or UnauthorizedAccessException or SocketException or LaunchFailedException)
        {
            throw new LaunchFailedException(Unavailable, $"The host can't give it a network: {failed.Message}", failed);
        }
    }

    /// <summary>Its address and ports are free from now on. Nothing when it has none. What the kernel keeps of it is removed by <see cref="SettleAsync"/>.</summary>
    public bool Release(string vmId)
    {
        lock (_gate)
        {
            if (!_table.Remove(vmId))
                return false;
            _ports.Release(vmId);
            _changes++;
            return true;
        }
    }

    /// <summary>As <see cref="AttachAsync"/>, for what nobody waits for: failures are told, and the next change tries again. Never throws.</summary>
    public async Task SettleAsync()
    {
        try
        {
            await ApplyAsync(CancellationToken.None).ConfigureAwait(false);
        }
        catch (Exception failed) when (failed is IOException or UnauthorizedAccessException or SocketException or LaunchFailedException or ObjectDisposedException)
        {
            _log.Error("The networks of this host could not be put right: {Why:l}. The next change tries again", failed.Message);
        }
    }

    /// <summary>Ends the resolvers and gives up the ports; interfaces and rules stay for the microVMs, which run on.</summary>
    public async ValueTask DisposeAsync()
    {
        await _turn.WaitAsync().ConfigureAwait(false);
        foreach (var resolver in _resolvers.Values)
            await resolver.DisposeAsync().ConfigureAwait(false);
        _resolvers.Clear();
        lock (_gate)
            _ports.Dispose();
        _claim?.Dispose();
        _turn.Dispose();
    }

    private IReadOnlyList<IPNetwork>? Taken()
    {
        try
        {
            return HostRoutes.Read("/proc", LinkNames.Present());
        }
        catch (Exception silent) when (silent is IOException or UnauthorizedAccessException)
        {
            _log.Warning("The routes of this host can't be read, so that a tenant's network may be laid over one of its own: {Why:l}", silent.Message);
            return null;
        }
    }

    private async Task ApplyAsync(CancellationToken cancellation)
    {
        await _turn.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            List<Attachment> wanted;
            int changes;
            lock (_gate)
            {
                (wanted, changes) = ([.. _table.All], _changes);
                if (changes == _made)
                    return;
            }

            // Half of it is worse than late: what has begun is not given up.
            await MakeAsync(wanted).ConfigureAwait(false);
            (_made, _sound) = (changes, true);
        }
        catch
        {
            (_sound, _counted) = (false, null);
            throw;
        }
        finally
        {
            _turn.Release();
        }
    }

    private async Task MakeAsync(List<Attachment> wanted)
    {
        var present = LinkNames.Present();
        // What could not even begin has left nothing, and must not keep its microVM from being deleted.
        if (wanted.Count == 0 && !Directory.Exists(_folder) && !present.Any(_links.IsOurs))
            return;
        foreach (var program in (string[])["ip", "nft"])
        {
            if (!ExternalCommand.IsThere(program))
                throw new IOException($"{program} is missing; on Debian: apt-get install iproute2 nftables");
        }

        Claim(present);
        Directory.CreateDirectory(_folder);
        // A tap that goes is gone before its rules are, and one that comes gets its guest when the rules are there.
        await RunAsync("ip", "-batch", "links", _links.Unmake(wanted, present)).ConfigureAwait(false);
        if (wanted.Count > 0)
        {
            _forwarding.Note();
            await RunAsync("ip", "-batch", "links", _links.Make(wanted, present, Forwarding.HasIpv6, whole: !_sound)).ConfigureAwait(false);
            foreach (var bridge in wanted.Select(_links.BridgeOf).Distinct())
                Forwarding.SetUpBridge(bridge);
        }

        // The machine forwards only as long as the rules are there that say what.
        if (wanted.Count == 0)
            _forwarding.Restore();
        var counted = CountedConnections.Each(wanted, Ruleset.ConnectionsOf(Forwarding.MostTracked, wanted.Count, _counted?.Most));
        await RunAsync("nft", "-f", "rules", [Ruleset.Write(wanted, _links, _forwarding.Closed(), counted, _counted)]).ConfigureAwait(false);
        _counted = wanted.Count > 0 ? counted : null;
        if (wanted.Count > 0)
            _forwarding.Change();
        await ResolveAsync(wanted).ConfigureAwait(false);
        if (wanted.Count > 0)
            return;
        Directory.Delete(_folder, recursive: true);
        _claim?.Dispose();
        _claim = null;
    }

    // Two agents would write each other's rules away. The name is the network namespace's, and goes with the process.
    private void Claim(IReadOnlySet<string> present)
    {
        if (_claim is not null)
            return;
        if (present.FirstOrDefault(name => LinkPlan.IsFleets(name) && !_links.IsOurs(name)) is { } foreign)
            throw new IOException($"another agent of Fleet left networks on this machine ({foreign}), and only one can have them. Start that agent and delete its microVMs, or remove its interfaces (ip link delete {foreign}).");
        var claim = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            claim.Bind(new UnixDomainSocketEndPoint("\0fleet-networks"));
        }
        catch (SocketException taken)
        {
            claim.Dispose();
            throw new IOException("another agent of Fleet has networks on this machine, and only one can. Run its microVMs there, or this agent on another machine.", taken);
        }

        _claim = claim;
    }

    private async Task ResolveAsync(List<Attachment> wanted)
    {
        var networks = wanted.GroupBy(_links.BridgeOf, StringComparer.Ordinal).ToDictionary(group => group.Key, group => group.ToList(), StringComparer.Ordinal);
        foreach (var gone in _resolvers.Keys.Where(bridge => !networks.ContainsKey(bridge)).ToList())
        {
            await _resolvers[gone].DisposeAsync().ConfigureAwait(false);
            _resolvers.Remove(gone);
        }

        foreach (var (bridge, members) in networks)
        {
            if (!_resolvers.TryGetValue(bridge, out var resolver))
                _resolvers[bridge] = resolver = TenantResolver.Start(members[0].Gateway4, members[0].Gateway6, _log);
            resolver.Know(members);
        }
    }

    private async Task RunAsync(string program, string option, string file, IReadOnlyList<string> lines)
    {
        if (lines.Count == 0)
            return;
        var path = Path.Combine(_folder, file);
        await File.WriteAllLinesAsync(path, lines).ConfigureAwait(false);
        await ExternalCommand.RunAsync(program, [option, path], null, CommandLimit, CancellationToken.None).ConfigureAwait(false);
    }
}
