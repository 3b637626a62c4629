using System.Buffers;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Api;
using Fleet.Shared.Admin;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;

namespace Fleet.Scheduler.Admin;

/// <summary>The operator's console over HTTP: what commands there are, and one command with its answer streamed, a JSON object a line.</summary>
internal sealed class AdminEndpoints(ApiContext api)
{
    private const string LinesType = "application/x-ndjson";

    /// <summary>Answers that don't stream are handed on in pieces of about this size, streams by the line.</summary>
    private const int FlushBytes = 16 * 1024;

    private static readonly JsonSerializerOptions Plain = new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private AdminConsole Console => api.Admin ?? throw RequestRefused.Unavailable("This node has no operator's console.");

    public void Map(IEndpointRouteBuilder all)
    {
        var routes = all.MapGroup("").WithTags("admin");
        routes.MapGet("/v1/admin/palettes", (Delegate)PalettesAsync).Describe(new("list_palettes", "Says what the operator's commands of this node are")
        {
            Answer = typeof(PaletteListBody),
        });
        routes.MapPost("/v1/admin/commands", (Delegate)RunAsync).Describe(new("run_command", "Runs one of the operator's commands on this node, and streams what it says as a JSON object a line")
        {
            Body = typeof(AdminCommandBody),
            Answer = typeof(string),
            AnswerType = LinesType,
            Errors = [ErrorCodes.InvalidJson, ErrorCodes.UnknownField, ErrorCodes.InvalidField, ErrorCodes.MissingField, ErrorCodes.InvalidCommand,
                ErrorCodes.ConfirmationRequired, ErrorCodes.PayloadTooLarge, ErrorCodes.UnsupportedMediaType],
        });
    }

    private Task PalettesAsync(HttpContext http)
    {
        _ = new Query(http);
        return Exchange.WriteJsonAsync(http, StatusCodes.Status200OK, new PaletteListBody(Console.Palettes), ApiJson.Wire.PaletteListBody);
    }

    private async Task RunAsync(HttpContext http)
    {
        _ = new Query(http);
        var body = (await Exchange.ReadJsonAsync(http, ApiJson.Wire.AdminCommandBody, optional: false))!;
        var words = body.Words ?? throw new RequestRefused(ErrorCodes.MissingField, "A command needs words: a palette, a verb, and what it takes.", "words");
        if (body.Format is not (null or AdminCommandBody.Text or AdminCommandBody.Rows))
            throw new RequestRefused(ErrorCodes.InvalidField, $"format is {AdminCommandBody.Text} or {AdminCommandBody.Rows}.", "format");
        var console = Console;
        ParsedCommand parsed;
        IDisposable place;
        try
        {
            parsed = console.Parse(words);
            place = console.Enter();
        }
        catch (CommandException refused)
        {
            throw new RequestRefused(refused.Code, refused.Message);
        }
        using (place)
        using (var lifetime = api.Lifetime(http))
        {
            http.Response.ContentType = LinesType;
            http.Response.Headers.CacheControl = "no-store";
            // The client knows at once that its command is taken, also when the first line takes its time.
            await http.Response.BodyWriter.FlushAsync(lifetime.Token);
            await StreamAsync(http, console, parsed, body.Format == AdminCommandBody.Rows, lifetime.Token);
        }
    }

    private async Task StreamAsync(HttpContext http, AdminConsole console, ParsedCommand parsed, bool forPrograms, CancellationToken gone)
    {
        var output = new CommandOutput(frame => WriteAsync(ToLine(frame), parsed.Command.Streams), forPrograms, parsed.Command.Streams);
        JsonObject end;
        try
        {
            await console.RunAsync(parsed, Principal.Of(http).TokenId, output, gone);
            end = new JsonObject { ["ok"] = true };
        }
        catch (CommandException failed)
        {
            end = Failed(failed.Code, failed.Message);
        }
        catch (Exception fault) when (!gone.IsCancellationRequested && fault is not OperationCanceledException)
        {
            api.Log.LogCommandFault(fault, parsed.Palette.Name, parsed.Command.Name, http.TraceIdentifier);
            end = Failed(ErrorCodes.Internal, $"Something went wrong inside the control plane. Its log has the details under request {http.TraceIdentifier}.");
        }
        await WriteAsync(end, flush: true);

        async ValueTask WriteAsync(JsonObject? line, bool flush)
        {
            gone.ThrowIfCancellationRequested();
            var writer = http.Response.BodyWriter;
            if (line is not null)
                writer.Write(JsonSerializer.SerializeToUtf8Bytes(line, Plain));
            writer.Write("\n"u8);
            // A reader that is slow holds the command here; one that does not read at all is cut by the server.
            if ((flush || writer.UnflushedBytes >= FlushBytes) && (await writer.FlushAsync(gone)).IsCompleted)
                throw new OperationCanceledException("The client is gone.", gone);
        }
    }

    // A sign of life is an empty line.
    private static JsonObject? ToLine(CommandFrame frame) => frame switch
    {
        { Text: { } text } => new JsonObject { ["text"] = text },
        { Row: { } row } => new JsonObject { ["row"] = row },
        _ => null,
    };

    private static JsonObject Failed(string code, string detail) => new() { ["ok"] = false, ["code"] = code, ["detail"] = detail };
}
