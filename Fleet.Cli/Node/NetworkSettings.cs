using System.CommandLine;
using System.Net;
using Fleet.Host.Networks;

namespace Fleet.Cli.Node;

/// <summary>What the networks of a host's tenants are cut from, as options of every command that runs a host.</summary>
internal sealed class NetworkSettings
{
    private readonly Option<IPNetwork?> _pool = Prefix("--network-pool", "IPv4 prefix, /8 to /22, that tenants' networks on this host are cut from, a /22 each (default: 10.144.0.0/12)", "10.144.0.0/12", four: true);
    private readonly Option<IPNetwork?> _pool6 = Prefix("--network-pool6", "IPv6 prefix, a /48, that they are cut from, a /64 each (default: a unique local one that follows from --id)", "fd12:3456:789a::/48", four: false);

    public void AddTo(Command command)
    {
        command.Options.Add(_pool);
        command.Options.Add(_pool6);
    }

    public NetworkOptions Of(ParseResult parsed)
    {
        var options = new NetworkOptions();
        return options with { Pool = parsed.GetValue(_pool) ?? options.Pool, Pool6 = parsed.GetValue(_pool6) };
    }

    /// <summary>As another process is given them.</summary>
    public IEnumerable<string> Words(ParseResult parsed)
    {
        foreach (var option in (Option<IPNetwork?>[])[_pool, _pool6])
        {
            if (parsed.GetValue(option) is { } prefix)
                yield return $"{option.Name}={prefix}";
        }
    }

    private static Option<IPNetwork?> Prefix(string name, string description, string example, bool four) => new(name)
    {
        Description = description,
        CustomParser = result =>
        {
            var text = result.Tokens.Count == 1 ? result.Tokens[0].Value : "";
            if (IPNetwork.TryParse(text, out var prefix)
                && (four ? new NetworkOptions { Pool = prefix } : new NetworkOptions { Pool6 = prefix }).FirstProblem() is null)
            {
                return prefix;
            }

            result.AddError($"{name} wants a prefix such as {example}, not '{text}'.");
            return null;
        },
    };
}
