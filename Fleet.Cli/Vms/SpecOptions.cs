using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;
using Fleet.Cli.Output;
using Fleet.Cli.Volumes;

namespace Fleet.Cli.Vms;

/// <summary>What a microVM is to be, as options of a command, and the API's body for it.</summary>
internal sealed class SpecOptions
{
    private readonly Option<string?> _name = new("--name") { Description = "Unique name; made up when absent" };
    private readonly Option<int?> _cpus = new("--cpus") { Description = "vCPUs, 1 to 32 (default 1)" };
    private readonly Option<int?> _memory = new("--memory") { Description = "MiB of memory (default 256, with a kernel of its own 128)" };
    private readonly Option<string?> _driver = new("--driver") { Description = "auto, kvm, qemu or simulated (default auto)" };
    private readonly Option<string?> _host = new("--host") { Description = "Only this host may carry it" };
    private readonly Option<string[]> _env = new("--env", "-e") { Description = "KEY=VALUE for the command; may be repeated" };
    private readonly Option<string[]> _label = new("--label", "-l") { Description = "KEY=VALUE label; may be repeated" };
    private readonly Option<string[]> _hostLabel = new("--host-label") { Description = "KEY=VALUE label that its host must have; may be repeated" };
    private readonly Option<string[]> _zone = new("--zone") { Description = "A zone that it may be in (default: any); may be repeated" };
    private readonly Option<int?> _disk = new("--disk") { Description = "MiB of its host's disk that are promised to it, beside its volumes" };
    private readonly Option<int?> _bandwidth = new("--network-mbit") { Description = "Mbit/s of its host's link, each way, that are promised to it" };
    private readonly Option<int?> _iops = new("--iops") { Description = "Disk operations a second of its host that are promised to it" };
    private readonly Option<string?> _architecture = new("--architecture") { Description = "Of its host: x86_64 or aarch64 (default: any)" };
    private readonly Option<string?> _minKernel = new("--min-kernel") { Description = "Its host runs this Linux kernel or a newer one: 6.1, 6.1.50" };
    private readonly Option<string?> _cpuTemplate = new("--cpu-template") { Description = "A CPU template by the name that hosts have it under" };
    private readonly Option<bool> _noQueue = new("--no-queue") { Description = "Refuse it where no host has room (default: it waits for some)" };
    private readonly Option<string[]> _group = new("--group") { Description = "A group that it is a member of; may be repeated" };
    private readonly Option<string[]> _with = new("--with") { Description = $"To be on a host with a group: {GroupText.AffinityForm}; may be repeated" };
    private readonly Option<string[]> _apart = new("--apart") { Description = $"To be on no host with a group: {GroupText.AffinityForm}; may be repeated" };
    private readonly Option<string[]> _spread = new("--spread") { Description = $"To keep a group even over zones: {GroupText.SpreadForm}; may be repeated" };
    private readonly Option<string[]> _limit = new("--limit") { Description = $"A rate limit: {LimitText.Form}; may be repeated" };
    private readonly Option<string?> _image = new("--image") { Description = "An OCI image: registry/name:tag, or on the host oci:/folder or docker-archive:/file.tar" };
    private readonly Option<string?> _network = new("--network") { Description = "none (default), or tenant: an interface in its tenant's network on its host" };
    private readonly Option<string[]> _publish = new("--publish", "-p") { Description = $"A port of the host that leads to it: {PortText.Form}; gives it a network; may be repeated" };
    private readonly Option<string[]> _volume = new("--volume", "-v") { Description = $"A disk that outlives it: {VolumeText.Form}; may be repeated" };
    private readonly Option<string?> _kernel = new("--kernel") { Description = "A kernel of your own: absolute path on the host" };
    private readonly Option<string?> _initrd = new("--initrd") { Description = "Its initrd" };
    private readonly Option<string?> _bootArgs = new("--boot-args") { Description = "Its command line" };
    private readonly Option<int?> _bootTimeout = new("--boot-timeout") { Description = "How long until the guest must be ready: 120 (seconds), 120s, 2m; 0: never given up", CustomParser = result => DurationText.Seconds(result) };
    private readonly Option<string?> _restart = new("--restart") { Description = "What follows its end: never (default), on_failure or always" };
    private readonly Option<string?> _priority = new("--priority") { Description = "low, normal (default) or high: where room is short, lower ones give way" };
    private readonly Option<string?> _fencing = new("--fencing") { Description = "While its host is cut off: strict (default) stands still, relaxed runs on and may run twice" };
    private readonly Option<int?> _stopGrace = new("--stop-grace") { Description = "How long its guest may take to shut down where a stop says nothing else: 10 (seconds, the default), 10s, 2m", CustomParser = result => DurationText.Seconds(result) };
    private readonly Option<bool> _terminal = new("--tty", "-t") { Description = "Its command has the console as a terminal, and so no log" };
    private readonly Option<string?> _health = new("--health") { Description = $"How its command is looked after: {HealthText.Form}" };
    private readonly Option<string?> _simulate = new("--simulate") { Description = "With --driver simulated: boot_ms=5,run_ms=0,exit_status=0,fault=,cpu_percent=20/80,memory_percent=50,step_ms=60000" };
    private readonly Argument<string[]> _command = new("command") { Description = "What to run, after --; without it the image's shell", Arity = ArgumentArity.ZeroOrMore };

    public void AddTo(Command command)
    {
        Option[] all =
        [
            _name, _cpus, _memory, _driver, _host, _hostLabel, _zone, _disk, _bandwidth, _iops, _architecture, _minKernel, _cpuTemplate, _noQueue, _group, _with, _apart, _spread, _env, _label, _limit, _image, _volume, _network, _publish, _kernel, _initrd, _bootArgs, _bootTimeout, _restart,
            _fencing, _priority, _terminal, _stopGrace, _health, _simulate,
        ];
        foreach (var option in all)
            command.Options.Add(option);
        command.Arguments.Add(_command);
    }

    /// <summary>The body of a create.</summary>
    /// <exception cref="ApiException">An option has not the form that it must have.</exception>
    public JsonObject Of(ParseResult parsed)
    {
        // An option that is not ours would be taken for the command, and run.
        var behindDashes = parsed.Tokens.Reverse().TakeWhile(token => token.Type != TokenType.DoubleDash).Count();
        if (parsed.GetValue(_command) is [['-', ..] unknown, ..] given && (given.Length > behindDashes || parsed.Tokens.All(token => token.Type != TokenType.DoubleDash)))
            throw new ApiException("invalid_field", $"vm {parsed.CommandResult.Command.Name} has no option {unknown}; a command that begins with '-' goes after --.");
        var spec = new JsonObject();
        if (parsed.GetValue(_command) is { Length: > 0 } words)
            spec["command"] = Words(words);
        Put(spec, "name", parsed.GetValue(_name));
        Put(spec, "cpus", parsed.GetValue(_cpus));
        Put(spec, "memory_mib", parsed.GetValue(_memory));
        Put(spec, "driver", parsed.GetValue(_driver));
        Put(spec, "disk_mib", parsed.GetValue(_disk));
        Put(spec, "network_mbit", parsed.GetValue(_bandwidth));
        Put(spec, "iops", parsed.GetValue(_iops));
        Put(spec, "architecture", parsed.GetValue(_architecture));
        Put(spec, "min_kernel", parsed.GetValue(_minKernel));
        Put(spec, "cpu_template", parsed.GetValue(_cpuTemplate));
        if (parsed.GetValue(_noQueue))
            spec["queue"] = false;
        Put(spec, "host", parsed.GetValue(_host));
        Put(spec, "boot_timeout_seconds", parsed.GetValue(_bootTimeout));
        Put(spec, "fencing", parsed.GetValue(_fencing));
        Put(spec, "priority", parsed.GetValue(_priority));
        Put(spec, "image", parsed.GetValue(_image));
        Put(spec, "restart", parsed.GetValue(_restart));
        spec["env"] = Pairs(parsed.GetValue(_env), "--env");
        spec["labels"] = Pairs(parsed.GetValue(_label), "--label");
        if (parsed.GetValue(_hostLabel) is { Length: > 0 } wanted)
            spec["host_labels"] = Pairs(wanted, "--host-label");
        if (parsed.GetValue(_zone) is { Length: > 0 } zones)
            spec["zones"] = Words(zones);
        if (parsed.GetValue(_volume) is { Length: > 0 } volumes)
            spec["volumes"] = new JsonArray([.. volumes.Select(VolumeText.Mount)]);
        if (Placement(parsed) is { Count: > 0 } placement)
            spec["placement"] = placement;
        if (LimitsCommand.Of(parsed.GetValue(_limit)) is { } limits)
            spec["rate_limits"] = limits;
        Put(spec, "network", parsed.GetValue(_network));
        if (parsed.GetValue(_publish) is { Length: > 0 } ports)
        {
            spec["ports"] = PortText.Ports(ports);
            // Who publishes a port means a network.
            spec["network"] ??= "tenant";
        }
        Put(spec, "stop_grace_seconds", parsed.GetValue(_stopGrace));
        if (parsed.GetValue(_terminal))
            spec["terminal"] = true;
        if (parsed.GetValue(_health) is { } health)
            spec["health"] = HealthText.Parse(health);
        if (parsed.GetValue(_kernel) is { } path)
        {
            var boot = new JsonObject { ["kernel_path"] = path };
            Put(boot, "initrd_path", parsed.GetValue(_initrd));
            Put(boot, "boot_args", parsed.GetValue(_bootArgs));
            spec["boot"] = boot;
        }
        else if (parsed.GetValue(_initrd) is not null || parsed.GetValue(_bootArgs) is not null)
        {
            throw new ApiException("invalid_field", "--initrd and --boot-args go with --kernel.");
        }

        if (parsed.GetValue(_simulate) is { } script)
            spec["simulated"] = Simulated(script);
        return spec;
    }

    private JsonObject Placement(ParseResult parsed)
    {
        var placement = new JsonObject();
        if (parsed.GetValue(_group) is { Length: > 0 } groups)
            placement["groups"] = Words(groups);
        var affinity = GroupText.Rules(parsed.GetValue(_with) ?? [], word => GroupText.Affinity(word, apart: false), "--with", GroupText.AffinityForm);
        foreach (var rule in GroupText.Rules(parsed.GetValue(_apart) ?? [], word => GroupText.Affinity(word, apart: true), "--apart", GroupText.AffinityForm))
            affinity.Add(rule!.DeepClone());
        if (affinity.Count > 0)
            placement["affinity"] = affinity;
        if (GroupText.Rules(parsed.GetValue(_spread) ?? [], GroupText.Spread, "--spread", GroupText.SpreadForm) is { Count: > 0 } spread)
            placement["spread"] = spread;
        return placement;
    }

    private static JsonArray Words(string[] words) => new([.. words.Select(word => JsonValue.Create(word))]);

    private static void Put(JsonObject target, string member, string? value)
    {
        if (value is not null)
            target[member] = value;
    }

    private static void Put(JsonObject target, string member, int? value)
    {
        if (value is not null)
            target[member] = value;
    }

    private static JsonObject Pairs(string[]? words, string option)
    {
        var pairs = new JsonObject();
        foreach (var word in words ?? [])
        {
            var (key, value) = KeyValue.Parse(word) ?? throw new ApiException("invalid_field", $"{option} wants KEY=VALUE, not '{word}'.");
            pairs[key] = value;
        }

        return pairs;
    }

    private static JsonObject Simulated(string script)
    {
        var guest = new JsonObject();
        foreach (var word in script.Split(',', StringSplitOptions.RemoveEmptyEntries))
        {
            var (key, value) = KeyValue.Parse(word) ?? throw new ApiException("invalid_field", $"--simulate wants KEY=VALUE, not '{word}'.");
            guest[key] = key.EndsWith("_percent", StringComparison.Ordinal) ? Curve(value)
                : int.TryParse(value, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var number) ? number : value;
        }

        return guest;
    }

    private static JsonArray Curve(string steps) => [.. steps.Split('/').Select(step => (JsonNode?)(
        int.TryParse(step, NumberStyles.None, CultureInfo.InvariantCulture, out var percent) ? JsonValue.Create(percent) : JsonValue.Create(step)))];
}
