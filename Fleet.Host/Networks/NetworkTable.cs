using System.Buffers.Binary;
using System.Net;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Host.Networks;

/// <summary>
/// Who is in which tenant's network of this host, under which address, and whose the published ports are. Pure: what the kernel
/// is to look like follows from it (<see cref="LinkPlan"/>, <see cref="Ruleset"/>). Not safe for several threads.
/// </summary>
internal sealed class NetworkTable(IPNetwork pool, IPNetwork site)
{
    private readonly Dictionary<string, Attachment> _attachments = new(StringComparer.Ordinal);

    public IReadOnlyCollection<Attachment> All => _attachments.Values;

    public bool HasNetworkOf(string tenant) => _attachments.Values.Any(one => one.Tenant == tenant);

    public Attachment? Find(string vmId) => _attachments.GetValueOrDefault(vmId);

    /// <summary>
    /// Gives the microVM an address, beside others of its tenant. One that it has it keeps.
    /// </summary>
    /// <param name="vmId">Whose.</param>
    /// <param name="spec">Its.</param>
    /// <param name="taken">The host's own networks, which no network that begins is laid over; null: none are known.</param>
    /// <exception cref="NetworkRefusedException"><c>addresses_exhausted</c> or <c>port_taken</c>.</exception>
    public Attachment Assign(string vmId, VmSpec spec, IReadOnlyCollection<IPNetwork>? taken = null)
    {
        if (_attachments.TryGetValue(vmId, out var known))
            return known;
        foreach (var port in spec.Ports)
        {
            if (HolderOf(port) is { } holder)
                throw new NetworkRefusedException("port_taken", $"Port {port.Host}/{port.Protocol} of this host leads to {holder.Name} ({holder.VmId}) already. Choose another, or another host.");
        }

        var neighbours = _attachments.Values.Where(one => one.Tenant == spec.Tenant).ToList();
        // Of two subnets, which only a change of the prefix can leave, the one with room.
        var place = neighbours.DistinctBy(one => one.Subnet4)
            .Select(one => (one.Subnet4, one.Subnet6, Number: FreeNumber(neighbours.Where(other => other.Subnet4.Equals(one.Subnet4)))))
            .FirstOrDefault(one => one.Number is not null);
        if (place.Number is null && neighbours.Count > 0)
            throw new NetworkRefusedException("addresses_exhausted", $"The tenant's network on this host has no address left: {neighbours.Count} microVMs have one. Delete some, or use another host.");
        var (four, six) = place.Number is null ? FreeSubnet(taken ?? []) : (place.Subnet4, place.Subnet6);
        return _attachments[vmId] = new(vmId, spec.Tenant, spec.Name, four, six, place.Number ?? Attachment.GatewayNumber + 1, [.. spec.Ports]);
    }

    /// <summary>One that an earlier agent gave. False when its place is another's, which only a changed record can say.</summary>
    public bool TryPut(Attachment found)
    {
        if (_attachments.Values.Any(one => (one.Subnet4.Equals(found.Subnet4) || one.Subnet6.Equals(found.Subnet6)) && (one.Tenant != found.Tenant || one.Number == found.Number)))
            return false;
        return _attachments.TryAdd(found.VmId, found);
    }

    public bool Remove(string vmId) => _attachments.Remove(vmId);

    private static bool Overlap(IPNetwork one, IPNetwork other) => one.Contains(other.BaseAddress) || other.Contains(one.BaseAddress);

    private Attachment? HolderOf(PublishedPort port) =>
        _attachments.Values.FirstOrDefault(one => one.Ports.Any(other => other.Host == port.Host && other.Protocol == port.Protocol));

    private static uint? FreeNumber(IEnumerable<Attachment> taken)
    {
        var numbers = taken.Select(one => one.Number).ToHashSet();
        for (var number = Attachment.GatewayNumber + 1; number < Attachment.MostNumber; number++)
        {
            if (!numbers.Contains(number))
                return number;
        }

        return null;
    }

    private (IPNetwork Four, IPNetwork Six) FreeSubnet(IReadOnlyCollection<IPNetwork> taken)
    {
        var near = taken.Where(one => Overlap(one, pool) || Overlap(one, site)).ToList();
        var lost = 0;
        var taken4 = _attachments.Values.Select(one => one.Subnet4).ToHashSet();
        var taken6 = _attachments.Values.Select(one => one.Subnet6).ToHashSet();
        var first = pool.BaseAddress.GetAddressBytes();
        var site6 = site.BaseAddress.GetAddressBytes();
        var most = 1u << (NetworkOptions.TenantPrefix - pool.PrefixLength);
        for (var index = 0u; index < most; index++)
        {
            var four = first.AsSpan().ToArray();
            BinaryPrimitives.WriteUInt32BigEndian(four, BinaryPrimitives.ReadUInt32BigEndian(four) + (index << (32 - NetworkOptions.TenantPrefix)));
            var six = site6.AsSpan().ToArray();
            BinaryPrimitives.WriteUInt16BigEndian(six.AsSpan(6), (ushort)index);
            var (subnet4, subnet6) = (new IPNetwork(new IPAddress(four), NetworkOptions.TenantPrefix), new IPNetwork(new IPAddress(six), NetworkOptions.TenantPrefix6));
            if (taken4.Contains(subnet4) || taken6.Contains(subnet6))
                continue;
            if (!near.Exists(one => Overlap(one, subnet4) || Overlap(one, subnet6)))
                return (subnet4, subnet6);
            lost++;
        }

        if (lost > 0)
            throw new NetworkRefusedException("addresses_exhausted", $"This host has no network left for another tenant: of the {most} that its address pool {pool} holds, {lost} lie where it has routes or addresses of its own ({string.Join(", ", near.Take(3))}). Give it another pool (--network-pool), or use another host.");

        throw new NetworkRefusedException("addresses_exhausted", $"This host has networks of {most} tenants, which is all that its address pool {pool} holds. Give it a larger one (--network-pool), or use another host.");
    }
}

/// <summary>A microVM gets no place in a network of this host: a stable code, and a sentence that says what to do.</summary>
internal sealed class NetworkRefusedException(string code, string message) : Exception(message)
{
    public string Code { get; } = code;
}
