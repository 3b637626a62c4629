using System.Net.NetworkInformation;
using System.Security.Cryptography.X509Certificates;

namespace Fleet.Scheduler.Access;

/// <summary>The certificate that this node shows, made by the authority that every node holds. A new one is made while a third of the old one's time is left.</summary>
/// <param name="authority">Signs it.</param>
/// <param name="name">The node's name.</param>
/// <param name="names">More names and addresses that other programs (curl) may reach it by; Fleet's own look at the role only.</param>
/// <param name="clock">What time it is.</param>
internal sealed class NodeIdentity(CertificateAuthority authority, string name, IReadOnlyList<string> names, TimeProvider clock)
{
    private readonly Lock _lock = new();
    private X509Certificate2? _certificate;

    /// <summary>With its key. Earlier ones stay usable for handshakes under way.</summary>
    public X509Certificate2 Certificate
    {
        get
        {
            lock (_lock)
            {
                if (_certificate is null || _certificate.NotAfter.ToUniversalTime() - clock.GetUtcNow().UtcDateTime < CertificateAuthority.NodeLife / 3)
                    _certificate = authority.IssueNode(name, Addresses());
                return _certificate;
            }
        }
    }

    private IEnumerable<string> Addresses()
    {
        var own = NetworkInterface.GetAllNetworkInterfaces()
            .SelectMany(card => card.GetIPProperties().UnicastAddresses)
            .Select(address => address.Address)
            .Where(address => !address.IsIPv6LinkLocal)
            .Select(address => address.ToString());
        return new[] { "localhost", "127.0.0.1", "::1", name, Environment.MachineName }.Concat(names).Concat(own)
            .Where(address => Uri.CheckHostName(address) != UriHostNameType.Unknown);
    }
}
