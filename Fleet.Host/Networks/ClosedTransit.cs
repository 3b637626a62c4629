namespace Fleet.Host.Networks;

/// <summary>
/// Packets of one IP version between two interfaces that are both not Fleet's, which this machine passes on only because Fleet switched
/// forwarding on: they are dropped, as they were before.
/// </summary>
/// <param name="Protocol">As nftables' <c>nfproto</c> calls it.</param>
/// <param name="Open">Interfaces that forwarded before: what arrives there goes on passing.</param>
/// <param name="Frames">Frames that pass through a bridge of the machine's come by the same rules (br_netfilter): these are not forwarded, and pass.</param>
internal sealed record ClosedTransit(string Protocol, IReadOnlyList<string> Open, bool Frames);
