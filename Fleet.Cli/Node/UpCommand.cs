using Fleet.Shared.Vms;
using Fleet.Cli.Vms;
using System.CommandLine;
using System.CommandLine.Parsing;
using System.Net;
using Fleet.Cli.Access;
using Fleet.Cli.Output;
using Fleet.Host.Agent;
using Fleet.Scheduler.Journal;
using Fleet.Scheduler.Membership;
using Fleet.Scheduler.Node;

namespace Fleet.Cli.Node;

/// <summary><c>fleet up</c>: scheduler and host in one process, SQLite, nothing else needed.</summary>
internal static class UpCommand
{
    public static Command Create()
    {
        var link = NodeOptions.Link();
        var hostId = NodeOptions.HostId();
        var cpus = NodeOptions.Cpus();
        var memory = NodeOptions.Memory();
        var label = NodeOptions.HostLabel();
        var zone = NodeOptions.Zone();
        var detach = new Option<bool>("--detach", "-d") { Description = "Return when the fleet is ready; fleet down ends it" };
        var detached = new Option<bool>("--detached") { Hidden = true };
        var noHost = new Option<bool>("--no-host") { Description = "Scheduler only: this machine carries no microVMs" };
        var lease = NodeOptions.Lease();
        var name = NodeOptions.Names();
        var runLog = NodeOptions.RunLog();
        var tenantQemu = NodeOptions.TenantQemu();
        var oversubscription = new OversubscriptionOptions();
        var up = new Command("up", "Run a whole fleet on this machine: scheduler and host in one process") { link, hostId, cpus, memory, label, zone, lease, name, runLog, tenantQemu, detach, detached, noHost };
        oversubscription.AddTo(up);
        up.Validators.Add(NodeOptions.ListensOn);
        var reaction = new ReactionSettings();
        reaction.AddTo(up);
        var network = new NetworkSettings();
        network.AddTo(up);
        var offer = new OfferSettings();
        offer.AddTo(up);
        up.SetAction(async (parsed, cancellation) =>
        {
            var directory = DataDirectory.Of(parsed.GetRequiredValue(CommandContext.Data));
            var api = parsed.GetRequiredValue(CommandContext.Api);
            if (parsed.GetValue(detach))
                return await Detached.StartAsync(parsed, directory, api, Arguments(parsed), !parsed.GetValue(noHost), cancellation);
            var roles = new NodeRoles
            {
                Data = directory,
                Detached = parsed.GetValue(detached),
                Api = NodeOptions.EndPoint(api),
                ApiEncrypted = api.Scheme == Uri.UriSchemeHttps,
                Names = parsed.GetValue(name) ?? [],
                Link = parsed.GetRequiredValue(link),
                Lease = parsed.GetValue(lease),
                TenantQemu = parsed.GetValue(tenantQemu),
                Oversubscription = oversubscription.Of(parsed),
                Host = parsed.GetValue(noHost) ? null : new HostRole(
                    parsed.GetRequiredValue(hostId), [new Uri($"https://{parsed.GetRequiredValue(link)}")], parsed.GetValue(cpus), parsed.GetValue(memory),
                    // Nobody is left to place its microVMs elsewhere when it is silent, and they outlive it.
                    Fenced: false)
                {
                    RunLog = parsed.GetValue(runLog),
                    Labels = NodeOptions.Labels(parsed.GetValue(label), parsed.GetValue(zone)),
                    Offer = offer.Of(parsed),
                    Reaction = reaction.Of(parsed),
                    Networks = network.Of(parsed),
                },
            };
            return await NodeProcess.RunAsync(parsed, roles, cancellation);
        });
        return up;

        // The same words for the process that stays, less the one that makes it stay.
        string[] Arguments(ParseResult parsed)
        {
            List<string> words =
            [
                "up", "--detached", "--api", parsed.GetRequiredValue(CommandContext.Api).OriginalString, "--data", parsed.GetRequiredValue(CommandContext.Data).FullName,
                "--link", parsed.GetRequiredValue(link).ToString(), "--id", parsed.GetRequiredValue(hostId),
            ];
            if (parsed.GetValue(cpus) is { } c)
                words.AddRange(["--cpus", $"{c}"]);
            if (parsed.GetValue(memory) is { } m)
                words.AddRange(["--memory", $"{m}"]);
            foreach (var one in parsed.GetValue(label) ?? [])
                words.AddRange(["--label", one]);
            if (parsed.GetValue(zone) is { } z)
                words.AddRange(["--zone", z]);
            if (parsed.GetValue(lease) is { } seconds)
                words.AddRange(["--lease", $"{seconds}"]);
            words.AddRange(oversubscription.Words(parsed));
            words.AddRange(reaction.Words(parsed));
            words.AddRange(network.Words(parsed));
            words.AddRange(offer.Words(parsed));
            if (parsed.GetValue(runLog) is { } runs)
                words.AddRange(["--run-log", runs.FullName]);
            foreach (var other in parsed.GetValue(name) ?? [])
                words.AddRange(["--name", other]);
            if (parsed.GetValue(tenantQemu))
                words.Add("--tenant-qemu");
            if (parsed.GetValue(noHost))
                words.Add("--no-host");
            return [.. words];
        }
    }
}

/// <summary><c>fleet scheduler</c>: a control-plane node alone.</summary>
internal static class SchedulerCommand
{
    public static Command Create()
    {
        var link = NodeOptions.Link();
        var lease = NodeOptions.Lease();
        var database = NodeOptions.Database();
        var cluster = NodeOptions.Cluster();
        var join = NodeOptions.Join("Link address of a node of the cell that this one is to join, the first time with a token of role scheduler in FLEET_TOKEN");
        var name = NodeOptions.Names();
        var tenantQemu = NodeOptions.TenantQemu();
        var scheduler = new Command("scheduler", "Run a node of the control plane") { link, lease, database, cluster, join, name, tenantQemu, InitCommand.Create() };
        var oversubscription = new OversubscriptionOptions();
        oversubscription.AddTo(scheduler);
        scheduler.Validators.Add(NodeOptions.ListensOn);
        scheduler.Validators.Add(result =>
        {
            if (NodeOptions.IsGiven(result, database, NodeOptions.DatabaseVariable) != NodeOptions.IsGiven(result, cluster))
                result.AddError($"Several nodes share a database and reach each other: --database (or {NodeOptions.DatabaseVariable}) and --cluster go together.");
            if (NodeOptions.IsGiven(result, join) && !NodeOptions.IsGiven(result, cluster))
                result.AddError("A node that joins others shares their database: --join goes with --database and --cluster.");
        });
        scheduler.SetAction((parsed, cancellation) => NodeProcess.RunAsync(
            parsed,
            new NodeRoles
            {
                Data = DataDirectory.Of(parsed.GetRequiredValue(CommandContext.Data)),
                Api = NodeOptions.EndPoint(parsed.GetRequiredValue(CommandContext.Api)),
                ApiEncrypted = parsed.GetRequiredValue(CommandContext.Api).Scheme == Uri.UriSchemeHttps,
                Names = parsed.GetValue(name) ?? [],
                Join = parsed.GetValue(join),
                Token = parsed.GetValue(CommandContext.Token),
                Link = parsed.GetRequiredValue(link),
                Lease = parsed.GetValue(lease),
                TenantQemu = parsed.GetValue(tenantQemu),
                Oversubscription = oversubscription.Of(parsed),
                Database = parsed.GetValue(database),
                Cluster = parsed.GetValue(cluster),
            },
            cancellation));
        return scheduler;
    }
}

/// <summary><c>fleet host --join</c>: a host agent alone. Also the noun of <c>fleet host list</c>.</summary>
internal static class HostCommand
{
    public static Command Create()
    {
        var join = NodeOptions.JoinAny("Link addresses of the cell's nodes, for example https://10.0.0.1:7071; one that is away is passed over. The first time with a token of role host in FLEET_TOKEN");
        var hostId = NodeOptions.HostId();
        var cpus = NodeOptions.Cpus();
        var memory = NodeOptions.Memory();
        var label = NodeOptions.HostLabel();
        var zone = NodeOptions.Zone();
        var runLog = NodeOptions.RunLog();
        var transfer = NodeOptions.Transfer();
        var host = new Command("host", "Hosts: run an agent (--join), list, show, remove") { join, hostId, cpus, memory, label, zone, runLog, transfer };
        var reaction = new ReactionSettings();
        reaction.AddTo(host);
        var network = new NetworkSettings();
        network.AddTo(host);
        var offer = new OfferSettings();
        offer.AddTo(host);
        host.SetAction(async (parsed, cancellation) =>
        {
            if (parsed.GetValue(join) is not { Length: > 0 } schedulers)
            {
                CommandContext.Tell(parsed, "invalid_field", "fleet host runs an agent with --join https://SCHEDULER:7071; to look at hosts: fleet host list");
                return ExitCodes.Usage;
            }

            return await NodeProcess.RunAsync(
                parsed,
                new NodeRoles
                {
                    Data = DataDirectory.Of(parsed.GetRequiredValue(CommandContext.Data)),
                    Token = parsed.GetValue(CommandContext.Token),
                    Host = new HostRole(parsed.GetRequiredValue(hostId), schedulers, parsed.GetValue(cpus), parsed.GetValue(memory), Fenced: true)
                    {
                        RunLog = parsed.GetValue(runLog),
                        Transfer = parsed.GetValue(transfer),
                        Labels = NodeOptions.Labels(parsed.GetValue(label), parsed.GetValue(zone)),
                        Offer = offer.Of(parsed),
                        Reaction = reaction.Of(parsed),
                        Networks = network.Of(parsed),
                    },
                },
                cancellation);
        });
        return host;
    }
}

/// <summary>Options that several ways to run a node share.</summary>
internal static class NodeOptions
{
    /// <summary>Environment variable that names the database.</summary>
    public const string DatabaseVariable = "FLEET_DATABASE";

    /// <summary>Of a validator, to which the parser does not show defaults: whether an option has a value, of the command line or of an environment variable.</summary>
    public static bool IsGiven(CommandResult result, Option option, string? variable = null) =>
        result.GetResult(option) is { Implicit: false } || (variable is not null && Environment.GetEnvironmentVariable(variable) is { Length: > 0 });

    public static Option<IPEndPoint> Link() => new("--link")
    {
        Description = "Address that host agents dial",
        DefaultValueFactory = _ => new IPEndPoint(IPAddress.Loopback, 7071),
        CustomParser = result =>
        {
            var text = result.Tokens.Count == 1 ? result.Tokens[0].Value : "";
            if (IPEndPoint.TryParse(text, out var point) && point.Port > 0)
                return point;
            result.AddError($"--link wants ADDRESS:PORT such as 127.0.0.1:7071, not '{text}'.");
            return null;
        },
    };

    public static Option<IPEndPoint?> Transfer() => new("--transfer")
    {
        Description = "ADDRESS:PORT of this machine at which other hosts fetch what a microVM was saved in, so that a drain moves it with its memory (default: nowhere)",
        CustomParser = result =>
        {
            var text = result.Tokens.Count == 1 ? result.Tokens[0].Value : "";
            if (IPEndPoint.TryParse(text, out var point) && point.Port > 0)
                return point;
            result.AddError($"--transfer wants ADDRESS:PORT such as 10.0.0.7:7072, not '{text}'.");
            return null;
        },
    };

    public static Option<PostgresDatabase?> Database() => new("--database")
    {
        Description = $"PostgreSQL database that the cell's nodes share, such as postgresql://fleet@db/fleet (default: {DatabaseVariable}, else SQLite in --data)",
        DefaultValueFactory = result => Environment.GetEnvironmentVariable(DatabaseVariable) is { Length: > 0 } text ? Parse(result, DatabaseVariable, text) : null,
        CustomParser = result => Parse(result, "--database", result.Tokens.Count == 1 ? result.Tokens[0].Value : ""),
    };

    public static Option<string?> Cluster() => new("--cluster")
    {
        Description = "HOST:PORT where the cell's other nodes reach this one",
        Validators =
        {
            result =>
            {
                if (result.Given<string?>() is { } address && !NodeAddress.TryParse(address, out _, out _))
                    result.AddError("--cluster wants HOST:PORT such as 10.0.0.1:7072.");
            },
        },
    };

    private static PostgresDatabase? Parse(ArgumentResult result, string source, string text)
    {
        try
        {
            return PostgresDatabase.Parse(text);
        }
        catch (ArgumentException wrong)
        {
            // Without the text: it may hold a password.
            result.AddError($"{source}: {wrong.Message.Split(" (Parameter")[0]}");
            return null;
        }
    }

    public static Option<bool> TenantQemu() => new("--tenant-qemu") { Description = "Let tenants' microVMs run under QEMU too, where no jail holds them (default: under kvm alone; docs/access.md)" };

    public static Option<string[]> Names() => new("--name")
    {
        Description = "One more name or address that other programs than fleet reach this node by, for its certificate (may be repeated)",
    };

    /// <summary>The link is TLS always: an address that says otherwise is a mistake.</summary>
    public static Option<Uri?> Join(string description) => new("--join")
    {
        Description = description,
        CustomParser = result => LinkAddress(result, result.Tokens.Count == 1 ? result.Tokens[0].Value : ""),
    };

    public static Option<Uri[]?> JoinAny(string description) => new("--join")
    {
        Description = description,
        AllowMultipleArgumentsPerToken = true,
        Arity = ArgumentArity.OneOrMore,
        CustomParser = result => [.. result.Tokens.Select(token => LinkAddress(result, token.Value)).OfType<Uri>()],
    };

    private static Uri? LinkAddress(ArgumentResult result, string text)
    {
        var address = text.Contains("://", StringComparison.Ordinal) ? text : $"https://{text}";
        if (Uri.TryCreate(address, UriKind.Absolute, out var uri) && uri is { Scheme: "https", Host.Length: > 0 } && CommandContext.NamesPort(uri))
            return uri;
        result.AddError($"--join wants an address with its port such as https://10.0.0.1:7071, not '{text}'.");
        return null;
    }

    public static Option<string> HostId() => new("--id")
    {
        Description = "Id of this host in the fleet",
        DefaultValueFactory = _ => IdFrom(Environment.MachineName),
        Validators =
        {
            result =>
            {
                if (result.Tokens is [var word] && !VmSpecRules.IsHostId(word.Value))
                    result.AddError($"--id wants 1 to 40 of the characters a-z, 0-9 and '-', beginning with a letter or a digit, not '{word.Value}'.");
            },
        },
    };

    public static Option<int?> Lease() => new("--lease")
    {
        Description = "Seconds that a host which joined may run its microVMs without word from here (default: 20)",
        Validators =
        {
            result =>
            {
                if (result.Given<int?>() is < 6 or > 3600)
                    result.AddError("--lease wants 6 to 3600 seconds.");
            },
        },
    };

    public static Option<string[]> HostLabel() => new("--label")
    {
        Description = "KEY=VALUE label of this host, by which microVMs choose it (vm run --host-label); may be repeated",
        Validators =
        {
            result =>
            {
                foreach (var word in result.Tokens.Select(token => token.Value))
                {
                    if (KeyValue.Parse(word) is not { } pair || !VmSpecRules.IsLabelKey(pair.Key) || !VmSpecRules.IsLabelValue(pair.Value))
                        result.AddError($"--label wants KEY=VALUE, the key 1 to {VmLimits.MaxLabelKeyLength} of a-z, 0-9, '.', '_', '/' and '-', the value at most {VmLimits.MaxLabelValueLength} characters; not '{word}'.");
                }
            },
        },
    };

    public static Option<string?> Zone() => new("--zone")
    {
        Description = "Zone that this host is in: its label zone",
        Validators =
        {
            result =>
            {
                if (result.Given<string?>() is { } zone && (zone.Length == 0 || !VmSpecRules.IsLabelValue(zone)))
                    result.AddError($"--zone wants 1 to {VmLimits.MaxLabelValueLength} characters.");
            },
        },
    };

    /// <summary>Of a label given twice the last one counts, and a zone by its own option.</summary>
    public static IReadOnlyDictionary<string, string> Labels(string[]? words, string? zone)
    {
        var labels = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var word in words ?? [])
        {
            var (key, value) = KeyValue.Parse(word)!.Value;
            labels[key] = value;
        }
        if (zone is not null)
            labels[VmLimits.ZoneLabel] = zone;
        return labels;
    }

    public static Option<int?> Cpus() => new("--cpus")
    {
        Description = "CPUs that microVMs may use (default: all)",
        Validators =
        {
            result =>
            {
                if (result.Given<int?>() is < 1 or > HostAgentOptions.MostCpus)
                    result.AddError($"--cpus wants 1 to {HostAgentOptions.MostCpus} CPUs.");
            },
        },
    };

    public static Option<DirectoryInfo?> RunLog() => new("--run-log") { Description = "Folder for when each guest ran, as docs/fencing.md has it (default: not written down)" };

    public static Option<int?> Memory() => new("--memory")
    {
        Description = "MiB that microVMs may use (default: all but a reserve)",
        Validators =
        {
            result =>
            {
                // What is promised beyond it is the control plane's to say; what is not there at all ends guests.
                if (result.Given<int?>() is { } memory && HostAgentOptions.MachineMib() is var machine && (memory < 1 || memory > machine))
                    result.AddError($"--memory wants 1 to {machine} MiB, which this machine has, not {memory}. A control plane promises more than there is by --memory-ratio.");
            },
        },
    };

    /// <summary>Where a node listens: on an address of its own. A name may have several, or those of another machine.</summary>
    public static IPEndPoint EndPoint(Uri api) => TryEndPoint(api) ?? throw new ArgumentException($"{api} names no address.", nameof(api));

    private static IPEndPoint? TryEndPoint(Uri api) =>
        IPAddress.TryParse(api.DnsSafeHost, out var address) ? new(address, api.Port)
        : api.Host == "localhost" ? new(IPAddress.Loopback, api.Port)
        : null;

    /// <summary>Of a command that runs a node: refuses what it can't listen on: a name, no port, or clear text where others hear it.</summary>
    public static void ListensOn(CommandResult result)
    {
        var (source, wanted) = result.GetResult(CommandContext.Api) is { } given ? ("--api", given.Given<Uri>()) : (CommandContext.ApiVariable, CommandContext.DefaultAddress());
        // What is no address at all is told by the option itself.
        if (wanted is not { } api)
            return;
        if (TryEndPoint(api) is not { } endpoint)
            result.AddError($"{source}: a node listens on an address, not on a name. Write {api.Scheme}://ADDRESS:{api.Port} (0.0.0.0 for all), and --name {api.Host} for its certificate.");
        else if (!CommandContext.NamesPort(api))
            result.AddError($"{source}: a node listens on a port. Write {api.Scheme}://{api.Host}:{SchedulerOptions.ApiPort}, or another.");
        else if (api.Scheme != Uri.UriSchemeHttps && !IPAddress.IsLoopback(endpoint.Address))
            result.AddError($"{source}: the API would send tokens in clear text over {endpoint}. Give its address as https://{endpoint}, or a loopback address.");
    }

    /// <summary>A machine's name in the alphabet of host ids.</summary>
    public static string IdFrom(string machineName)
    {
        var letters = machineName.ToLowerInvariant().Split('.')[0].Select(c => char.IsAsciiLetterLower(c) || char.IsAsciiDigit(c) ? c : '-');
        var id = new string([.. letters]).Trim('-');
        return id.Length == 0 ? "host" : id[..Math.Min(40, id.Length)];
    }
}
