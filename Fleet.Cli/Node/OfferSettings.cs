using System.CommandLine;
using System.CommandLine.Parsing;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Vms;
using Fleet.Host.Agent;
using Fleet.Shared.Vms;

namespace Fleet.Cli.Node;

/// <summary>What a host offers beside CPUs and memory; null: what it finds out by itself.</summary>
internal sealed record HostOffer(long? DiskMib, int? NetworkMbit, long? Iops)
{
    /// <summary>By name, each a JSON object.</summary>
    public IReadOnlyDictionary<string, string> CpuTemplates { get; init; } = new Dictionary<string, string>();
}

/// <summary>The options for it, of every command that runs a host.</summary>
internal sealed class OfferSettings
{
    private const int MostTemplateBytes = 64 * 1024;

    private readonly Option<long?> _disk = Amount("--disk", "MiB of disk that microVMs and their volumes may take (default: what is free where --data is)", VmLimits.MaxHostDiskMib);
    private readonly Option<int?> _network = new("--network")
    {
        Description = "Mbit/s, each way, that microVMs may take of this machine's link (default: what its network card says, else not limited)",
        Validators = { result => InRange(result, "--network", result.GetValueOrDefault<int?>(), VmLimits.MaxNetworkMbit) },
    };

    private readonly Option<long?> _iops = Amount("--iops", "Disk operations a second that microVMs may take (default: not limited)", VmLimits.MaxIops);
    private readonly Option<string[]> _template = new("--cpu-template")
    {
        Description = "NAME=FILE: a CPU template in Firecracker's form that microVMs may ask for by that name, the same on every host that has it; may be repeated",
        Validators =
        {
            result =>
            {
                foreach (var token in result.Tokens)
                {
                    if (Template(token.Value).Problem is { } problem)
                        result.AddError(problem);
                }
                if (result.Tokens.Count > HostAgentOptions.MostCpuTemplates)
                    result.AddError($"At most {HostAgentOptions.MostCpuTemplates} CPU templates are taken.");
            },
        },
    };

    public void AddTo(Command command)
    {
        foreach (var option in (Option[])[_disk, _network, _iops, _template])
            command.Options.Add(option);
    }

    public HostOffer Of(ParseResult parsed)
    {
        var templates = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var word in parsed.GetValue(_template) ?? [])
        {
            var (name, text, _) = Template(word);
            templates[name] = text;
        }
        return new(parsed.GetValue(_disk), parsed.GetValue(_network), parsed.GetValue(_iops)) { CpuTemplates = templates };
    }

    /// <summary>As another process is given them.</summary>
    public IEnumerable<string> Words(ParseResult parsed)
    {
        if (parsed.GetValue(_disk) is { } disk)
            yield return $"{_disk.Name}={disk}";
        if (parsed.GetValue(_network) is { } network)
            yield return $"{_network.Name}={network}";
        if (parsed.GetValue(_iops) is { } iops)
            yield return $"{_iops.Name}={iops}";
        foreach (var word in parsed.GetValue(_template) ?? [])
        {
            var (name, file) = KeyValue.Parse(word)!.Value;
            yield return $"{_template.Name}={name}={Path.GetFullPath(file)}";
        }
    }

    private static (string Name, string Text, string? Problem) Template(string word)
    {
        if (KeyValue.Parse(word) is not { } pair || !VmSpecRules.IsCpuTemplate(pair.Key))
            return ("", "", $"--cpu-template wants NAME=FILE with a name of 1 to 40 of the characters a-z, 0-9 and '-', not '{word}'.");
        try
        {
            using var file = File.OpenRead(pair.Value);
            var bytes = new byte[MostTemplateBytes + 1];
            var length = file.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false);
            if (length > MostTemplateBytes)
                return ("", "", $"--cpu-template: {pair.Value} has more than {MostTemplateBytes} bytes.");
            return JsonNode.Parse(bytes.AsSpan(0, length)) is JsonObject template
                ? (pair.Key, template.ToJsonString(), null)
                : ("", "", $"--cpu-template: {pair.Value} is no JSON object.");
        }
        catch (Exception unreadable) when (unreadable is IOException or UnauthorizedAccessException or JsonException)
        {
            return ("", "", $"--cpu-template: {pair.Value} can't be read: {unreadable.Message}");
        }
    }

    private static Option<long?> Amount(string name, string description, long most) => new(name)
    {
        Description = description,
        Validators = { result => InRange(result, name, result.GetValueOrDefault<long?>(), most) },
    };

    private static void InRange(OptionResult result, string name, long? value, long most)
    {
        if (value < 0 || value > most)
            result.AddError($"{name} wants 0 to {most}.");
    }
}
