using System.Net;

namespace Fleet.Host.Networks;

/// <summary>A guest whose connections are counted, by its addresses.</summary>
internal readonly record struct CountedAddresses(string VmId, IPAddress Address4, IPAddress Address6);

/// <summary>Whose connections the kernel counts.</summary>
/// <param name="Of">Each guest.</param>
/// <param name="Most">That one of its addresses may have.</param>
internal sealed record CountedConnections(IReadOnlyList<CountedAddresses> Of, int Most)
{
    public static CountedConnections Each(IEnumerable<Attachment> all, int most) =>
        new([.. all.Select(one => new CountedAddresses(one.VmId, one.Address4, one.Address6))], most);
}
