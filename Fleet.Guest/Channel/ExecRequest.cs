using System.Text.Json;
using Fleet.Guest.Configuration;

namespace Fleet.Guest.Channel;

/// <summary>A command that the host wants to have run beside the microVM's own (docs/guest-protocol.md).</summary>
/// <param name="Argv">Program and arguments; never empty.</param>
/// <param name="Env">Put over the environment of the microVM's own command.</param>
/// <param name="Folder">Working folder; empty: the image's, else that of fleet-init.</param>
/// <param name="User">Who it runs as, <c>user[:group]</c>; empty: who the microVM's own does.</param>
/// <param name="Terminal">It gets a terminal of its own.</param>
/// <param name="Rows">Of the terminal.</param>
/// <param name="Columns">Of the terminal.</param>
internal sealed record ExecRequest(
    IReadOnlyList<string> Argv, IReadOnlyList<KeyValuePair<string, string>> Env, string Folder, string User, bool Terminal, ushort Rows, ushort Columns)
{
    /// <summary>Anything that is not exactly the contract is a <see cref="BadConfigurationException"/>.</summary>
    public static ExecRequest Parse(ReadOnlySpan<byte> json)
    {
        try
        {
            return ParseObject(json);
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            throw new BadConfigurationException("the request is not valid JSON in UTF-8");
        }
    }

    private static ExecRequest ParseObject(ReadOnlySpan<byte> json)
    {
        var reader = new Utf8JsonReader(json, new JsonReaderOptions { MaxDepth = 4 });
        List<string>? argv = null;
        List<KeyValuePair<string, string>> env = [];
        var folder = "";
        var user = "";
        var terminal = false;
        ushort rows = 24, columns = 80;
        if (!reader.Read() || reader.TokenType != JsonTokenType.StartObject)
            throw new BadConfigurationException("the request is not an object");
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            var member = reader.GetString()!;
            reader.Read();
            switch (member)
            {
                case "argv": argv = RunConfiguration.ReadArgv(ref reader); break;
                case "env": env = RunConfiguration.ReadEnv(ref reader); break;
                case "workdir": folder = RunConfiguration.ReadString(ref reader, member); break;
                case "user": user = RunConfiguration.ReadString(ref reader, member); break;
                case "tty": terminal = reader.GetBoolean(); break;
                case "rows": rows = Side(ref reader, member); break;
                case "columns": columns = Side(ref reader, member); break;
                default: throw new BadConfigurationException($"the request has an unknown member '{member}'");
            }
        }
        if (argv is null || argv.Count == 0 || argv[0].Length == 0) throw new BadConfigurationException("the request names no program");
        return new ExecRequest(argv, env, folder, user, terminal, rows, columns);
    }

    private static ushort Side(ref Utf8JsonReader reader, string member) =>
        reader.TryGetUInt16(out var side) ? side : throw new BadConfigurationException($"'{member}' is no number of 16 bits");
}
