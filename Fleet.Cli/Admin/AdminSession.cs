using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;
using Fleet.Cli.Output;
using Fleet.Shared.Admin;

namespace Fleet.Cli.Admin;

/// <summary>One node's console: the commands that it told us, and commands sent to it.</summary>
internal sealed class AdminSession
{
    /// <summary>Longest line of an answer, in bytes: above what a node's own bound on a line can become.</summary>
    private const int MaxLine = 1 << 20;

    /// <summary>A node says something every 15 s, or ends its answer within 30: one that is silent for this long is gone, and its connection with it.</summary>
    internal static readonly TimeSpan Silence = TimeSpan.FromSeconds(60);

    private static readonly JsonSerializerOptions Wire = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower };
    private static readonly JsonSerializerOptions Plain = new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private readonly ApiClient _api;
    private readonly TextWriter _output;
    private readonly bool _json;
    private readonly TimeProvider _clock;

    private AdminSession(ApiClient api, IReadOnlyList<PaletteDefinition> palettes, TextWriter output, bool json, TimeProvider clock)
    {
        _clock = clock;
        _api = api;
        Palettes = palettes;
        _output = output;
        _json = json;
    }

    public IReadOnlyList<PaletteDefinition> Palettes { get; }

    public Uri Node => _api.Endpoint;

    /// <summary>Downloads the node's commands.</summary>
    /// <exception cref="ApiException">There is no node, or it refuses us.</exception>
    public static async Task<AdminSession> OpenAsync(ApiClient api, TextWriter output, bool json, CancellationToken cancellation, TimeProvider? clock = null)
    {
        var answer = await api.GetAsync("v1/admin/palettes", cancellation);
        try
        {
            return new(api, answer.GetProperty("items").Deserialize<PaletteDefinition[]>(Wire) ?? [], output, json, clock ?? TimeProvider.System);
        }
        catch (Exception broken) when (broken is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            throw new ApiException(ApiException.Unreachable, $"{api.Endpoint} tells its commands in a form that this program does not know ({broken.Message}): are both of the same version?");
        }
    }

    /// <summary>The command that the words are, by what the node told.</summary>
    /// <exception cref="CommandException">They are none.</exception>
    public ParsedCommand Parse(IReadOnlyList<string> words) => CommandGrammar.Parse(Palettes, words);

    /// <summary>Sends a command and prints its answer as it comes.</summary>
    /// <exception cref="ApiException">It was refused, it failed, or the answer broke off.</exception>
    public async Task RunAsync(IReadOnlyList<string> words, CancellationToken cancellation)
    {
        var body = new JsonObject { ["words"] = new JsonArray([.. words.Select(word => JsonValue.Create(word))]), ["format"] = _json ? "rows" : "text" };
        using var response = await _api.OpenLinesAsync("v1/admin/commands", body, cancellation);
        using var silence = new CancellationTokenSource(Silence, _clock);
        using var either = CancellationTokenSource.CreateLinkedTokenSource(silence.Token, cancellation);
        try
        {
            await using var stream = await response.Content.ReadAsStreamAsync(cancellation);
            await foreach (var line in LineReader.ReadAsync(stream, MaxLine, either.Token))
            {
                silence.CancelAfter(Silence);
                if (line is not "" && Print(line))
                    return;
            }
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw BrokenOff($"nothing was heard for {Silence.TotalSeconds:0} s");
        }
        catch (Exception broken) when (broken is IOException or HttpRequestException or JsonException)
        {
            throw BrokenOff(broken.Message);
        }
        throw BrokenOff("it has no end");
    }

    /// <summary>True at the end of the answer.</summary>
    private bool Print(string? line)
    {
        if (line is null || JsonNode.Parse(line) is not JsonObject frame)
            throw new JsonException("a line is too long, or no object");
        if (frame["ok"]?.GetValueKind() is JsonValueKind.True)
            return true;
        if (frame.ContainsKey("ok"))
            throw new ApiException(frame["code"]?.ToString() ?? "internal", frame["detail"]?.ToString() ?? "It failed.");
        if (_json)
            _output.WriteLine((frame["row"] ?? frame).ToJsonString(Plain));
        else
            _output.WriteLine(string.Join('\n', (frame["text"]?.ToString() ?? "").Split('\n').Select(Render.Printable)));
        return false;
    }

    private ApiException BrokenOff(string why) =>
        new(ApiException.Unreachable, $"The answer of {Node} broke off: {why}. What was asked for may have been done.") { IsCut = true };
}
