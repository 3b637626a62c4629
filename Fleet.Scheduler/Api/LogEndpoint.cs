using System.Globalization;
using Fleet.Scheduler.Access;
using Fleet.Shared.Contracts;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.OpenApi;

namespace Fleet.Scheduler.Api;

/// <summary>What a microVM's command wrote: a line of JSON for each of its lines.</summary>
internal sealed class LogEndpoint(ApiContext api)
{
    private const string LineType = "application/x-ndjson";

    public void Map(IEndpointRouteBuilder all) =>
        all.MapGroup("").WithTags("microVMs").MapGet("/v1/vms/{id}/logs", (Delegate)ReadAsync).Describe(new("read_log", "Streams what a microVM's command wrote, a JSON object for each line")
        {
            Audience = Audience.Tenants,
            Query = [
                new("follow", "Go on until the microVM has ended", JsonSchemaType.Boolean),
                new("since", "Only lines that the host got at that time (RFC 3339) or later", JsonSchemaType.String),
                new("tail", "Only so many of the last lines that there are now", JsonSchemaType.Integer) { Maximum = uint.MaxValue },
                new("stream", "stdout or stderr; both if absent", JsonSchemaType.String),
                new("after", "Only what stands behind the line of that position", JsonSchemaType.Integer)],
            Answer = typeof(byte[]),
            AnswerType = LineType,
            Errors = [ErrorCodes.NotFound, ErrorCodes.WrongState],
        });

    private async Task ReadAsync(HttpContext http)
    {
        var query = new Query(http);
        var wish = new LogWish { SinceUs = Since(query), Stream = Stream(query) };
        if (query.Number("tail") is { } tail)
            wish.Tail = (uint)tail;
        if (query.Number("after") is { } after)
            wish.After = (ulong)after;
        var follow = query.Flag("follow");
        var id = await api.OwnVmAsync(http);
        using var place = api.Long.Enter(Principal.Of(http));
        using var lifetime = api.Lifetime(http);
        await using var log = await api.Gate.CallAsync(c => api.Gate.Cell.OpenLogAsync(id, wish, follow, c), CellGate.Patience, lifetime.Token);
        await ConsoleEndpoints.PassOnAsync(api, http, id, log, LineType, lifetime.Token);
    }

    private static long Since(Query query)
    {
        if (query.Text("since") is not { } text)
            return 0;
        return DateTimeOffset.TryParse(text, CultureInfo.InvariantCulture, DateTimeStyles.AssumeUniversal, out var time) && text.Contains('T', StringComparison.Ordinal)
            ? (time - DateTimeOffset.UnixEpoch).Ticks / TimeSpan.TicksPerMicrosecond
            : throw RequestRefused.InvalidQuery("since", "since must be a time as in RFC 3339: 2026-11-23T12:00:00Z.");
    }

    private static uint Stream(Query query) => query.Text("stream") switch
    {
        null => 0,
        "stdout" => 1,
        "stderr" => 2,
        _ => throw RequestRefused.InvalidQuery("stream", "stream must be stdout or stderr."),
    };
}
