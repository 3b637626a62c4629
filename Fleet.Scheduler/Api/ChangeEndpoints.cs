using System.Globalization;
using System.Text;
using System.Text.Json;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Projection;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.AspNetCore.Routing;
using Microsoft.AspNetCore.Server.Kestrel.Core.Features;
using Microsoft.OpenApi;

namespace Fleet.Scheduler.Api;

/// <summary>The change log: by long poll and as server-sent events.</summary>
internal sealed class ChangeEndpoints(ApiContext api)
{
    /// <summary>Entries that one answer, or one write of a stream, carries at most.</summary>
    public const int MaxChanges = 1000;

    // Keeps middle boxes from closing a quiet stream, and finds out about clients that are gone.
    private static readonly TimeSpan KeepAlive = TimeSpan.FromSeconds(15);

    private static readonly QueryParameter After =
        new("after", "The index to go on from; absent: the oldest change that is kept", JsonSchemaType.Integer);

    public void Map(IEndpointRouteBuilder all)
    {
        var routes = all.MapGroup("").WithTags("changes");
        routes.MapGet("/v1/changes", (Delegate)PollAsync).Describe(new("list_changes", "Waits for changes after an index")
        {
            Audience = Audience.Tenants,
            Query = [After, new("wait", "Seconds to wait for a change", JsonSchemaType.Integer) { Maximum = 600, Default = 0 }],
            Answer = typeof(ChangesBody),
            AnswerHeaders = [new(Exchange.IndexHeader, "Where to go on from")],
            Errors = [ErrorCodes.Compacted],
        });
        routes.MapGet("/v1/changes/stream", (Delegate)StreamAsync).Describe(new("stream_changes", "Streams changes as server-sent events")
        {
            Audience = Audience.Tenants,
            Query = [After],
            Headers = [new("Last-Event-ID", "The id of the last event that was seen; goes before the parameter after")],
            Answer = typeof(string),
            AnswerType = "text/event-stream",
            Errors = [ErrorCodes.Compacted],
        });
    }

    private async Task PollAsync(HttpContext http)
    {
        var query = new Query(http);
        var after = query.Number("after");
        var tenant = Principal.Of(http).Tenant;
        var until = api.Clock.GetUtcNow() + TimeSpan.FromSeconds(query.Number("wait")!.Value);
        using var place = api.Long.Enter(Principal.Of(http));
        using var lifetime = api.Lifetime(http);
        while (true)
        {
            var next = api.Projection.NextChange;
            var slice = Read(after, tenant);
            var left = until - api.Clock.GetUtcNow();
            if (slice.Changes.Count > 0 || left <= TimeSpan.Zero)
            {
                Paging.WriteIndex(http, slice.Index);
                await Exchange.WriteJsonAsync(http, StatusCodes.Status200OK,
                    new ChangesBody(slice.Index, [.. slice.Changes.Select(BodyMapping.ToBody)]), ApiJson.Wire.ChangesBody);
                return;
            }
            after = slice.Index;
            await WaitAsync(next, left, lifetime.Token);
        }
    }

    private async Task StreamAsync(HttpContext http)
    {
        var after = LastEventId(http) ?? new Query(http).Number("after");
        using var place = api.Long.Enter(Principal.Of(http));
        using var lifetime = api.Lifetime(http);
        var tenant = Principal.Of(http).Tenant;
        var slice = Read(after, tenant);

        http.Features.Get<IHttpResponseBodyFeature>()?.DisableBuffering();
        if (http.Features.Get<IHttpMinResponseDataRateFeature>() is { } rate)
            rate.MinDataRate = null;
        http.Response.ContentType = "text/event-stream";
        http.Response.Headers.CacheControl = "no-store";
        // The first comment takes the headers with it: the client knows at once that it is connected.
        await SendAsync(http, "retry: 1000\n\n", lifetime.Token);
        while (true)
        {
            var next = api.Projection.NextChange;
            slice = api.Projection.Reader.Changes(after ?? slice.Compacted, MaxChanges, tenant);
            if (slice.Outside)
            {
                await SendAsync(http, $"event: error\ndata: {{\"code\": \"{ErrorCodes.Compacted}\"}}\n\n", lifetime.Token);
                return;
            }
            after = slice.Index;
            if (slice.Changes.Count > 0)
                await SendAsync(http, Events(slice.Changes), lifetime.Token);
            else if (!await WaitAsync(next, KeepAlive, lifetime.Token))
                await SendAsync(http, ":\n\n", lifetime.Token);
        }
    }

    private ChangeSlice Read(long? after, string? tenant)
    {
        api.RequireCaughtUp();
        var slice = api.Projection.Reader.Changes(after, MaxChanges, tenant);
        if (!slice.Outside)
            return slice;
        throw new RequestRefused(ErrorCodes.Compacted, after > slice.Index
            ? $"The change log ends at {slice.Index}: {after} is of another cell or of a cell's earlier life. List again and go on from that list's {Exchange.IndexHeader}."
            : $"Changes up to {slice.Compacted} are no longer kept. List again and go on from that list's {Exchange.IndexHeader}.");
    }

    /// <summary>True when there is something new, false when the time was over.</summary>
    private async Task<bool> WaitAsync(Task next, TimeSpan most, CancellationToken cancellation)
    {
        try
        {
            await next.WaitAsync(most, api.Clock, cancellation);
            return true;
        }
        catch (TimeoutException)
        {
            return false;
        }
    }

    private static string Events(IReadOnlyList<Change> changes)
    {
        var text = new StringBuilder();
        foreach (var change in changes)
        {
            text.Append(CultureInfo.InvariantCulture, $"id: {change.Index}\nevent: change\ndata: ")
                .Append(JsonSerializer.Serialize(BodyMapping.ToBody(change), ApiJson.Wire.ChangeBody))
                .Append("\n\n");
        }
        return text.ToString();
    }

    private static async Task SendAsync(HttpContext http, string text, CancellationToken cancellation) =>
        await http.Response.BodyWriter.WriteAsync(Encoding.UTF8.GetBytes(text), cancellation);

    private static long? LastEventId(HttpContext http)
    {
        var values = http.Request.Headers["Last-Event-ID"];
        if (values.Count == 0)
            return null;
        return values.Count == 1 && long.TryParse(values[0], NumberStyles.None, CultureInfo.InvariantCulture, out var id)
            ? id
            : throw RequestRefused.InvalidQuery("Last-Event-ID", "Last-Event-ID must be the id of an event of this stream: a whole number.");
    }
}
