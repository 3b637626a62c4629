using System.Text.Json.Nodes;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Host.Drivers;

/// <summary>A microVM's network interface as fleet-vmm's configuration file has it, and what its metadata service tells.</summary>
internal static class VmmNetwork
{
    /// <summary>Of the one interface.</summary>
    public const string Id = "net";

    /// <param name="spec">The microVM's.</param>
    /// <param name="link">Its interface.</param>
    /// <param name="tap">As the VMM names it.</param>
    public static JsonObject Configuration(VmSpec spec, VmmInterface link, string tap) => new()
    {
        ["iface_id"] = Id,
        ["host_dev_name"] = tap,
        ["guest_mac"] = link.Place.Mac,
        ["rx_rate_limiter"] = VmmLimiters.Write(spec.RateLimits.GetValueOrDefault(NetworkRules.ReceiveLimiter)),
        ["tx_rate_limiter"] = VmmLimiters.Write(spec.RateLimits.GetValueOrDefault(NetworkRules.SendLimiter)),
    };

    /// <summary>With tokens: what a guest's program fetches for somebody outside by mistake does not lead here.</summary>
    public static JsonObject MetadataConfiguration() => new() { ["network_interfaces"] = new JsonArray { Id }, ["version"] = "V2" };

    /// <summary>What a guest may know of itself, its environment too.</summary>
    public static JsonObject Metadata(VmmLaunch launch)
    {
        var place = launch.Link!.Place;
        return new()
        {
            ["id"] = launch.VmId,
            ["name"] = launch.Spec.Name,
            ["tenant"] = launch.Spec.Tenant,
            ["env"] = Map(launch.Spec.Env),
            ["labels"] = Map(launch.Spec.Labels),
            ["network"] = new JsonObject
            {
                ["mac"] = place.Mac,
                ["ipv4"] = $"{place.Address4}/{place.Subnet4.PrefixLength}",
                ["gateway4"] = place.Gateway4.ToString(),
                ["ipv6"] = $"{place.Address6}/{place.Subnet6.PrefixLength}",
                ["gateway6"] = place.Gateway6.ToString(),
                ["resolver"] = place.Gateway4.ToString(),
            },
        };
    }

    private static JsonObject Map(IEnumerable<KeyValuePair<string, string>> pairs) =>
        new(pairs.Select(pair => KeyValuePair.Create(pair.Key, (JsonNode?)JsonValue.Create(pair.Value))));
}
