using System.Globalization;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.AspNetCore.Routing;
using Microsoft.AspNetCore.Server.Kestrel.Core.Features;
using Microsoft.OpenApi;

namespace Fleet.Scheduler.Api;

/// <summary>The console of a microVM: read, followed and written.</summary>
internal sealed class ConsoleEndpoints(ApiContext api)
{
    private const int MaxInput = 4096;

    public void Map(IEndpointRouteBuilder all)
    {
        var routes = all.MapGroup("").WithTags("microVMs");
        routes.MapGet("/v1/vms/{id}/console", (Delegate)ReadAsync).Describe(new("read_console", "Streams the console of a microVM")
        {
            Audience = Audience.Tenants,
            Query = [
                new("offset", "The first byte wanted; the oldest that is kept if absent or gone", JsonSchemaType.Integer),
                new("follow", "Go on until the microVM has ended", JsonSchemaType.Boolean)],
            Answer = typeof(byte[]),
            AnswerType = "application/octet-stream",
            AnswerHeaders = [new(Exchange.ConsoleOffsetHeader, "Where the first byte of the answer stands in the whole output")],
            Errors = [ErrorCodes.NotFound, ErrorCodes.WrongState],
        });
        routes.MapPost("/v1/vms/{id}/console", (Delegate)WriteAsync).Describe(new("write_console", "Sends bytes to the console of a microVM")
        {
            Audience = Audience.Tenants,
            BodyBytes = MaxInput,
            Status = 204,
            Errors = [ErrorCodes.NotFound, ErrorCodes.WrongState, ErrorCodes.PayloadTooLarge, ErrorCodes.ConsoleBusy],
        });
    }

    private async Task ReadAsync(HttpContext http)
    {
        var query = new Query(http);
        var offset = (ulong?)query.Number("offset");
        var follow = query.Flag("follow");
        var id = await api.OwnVmAsync(http);
        using var place = api.Long.Enter(Principal.Of(http));
        using var lifetime = api.Lifetime(http);
        await using var console = await api.Gate.CallAsync(
            c => api.Gate.Cell.OpenConsoleAsync(id, offset, follow, c), CellGate.Patience, lifetime.Token);

        http.Response.Headers[Exchange.ConsoleOffsetHeader] = console.Offset.ToString(CultureInfo.InvariantCulture);
        await PassOnAsync(api, http, id, console, "application/octet-stream", lifetime.Token);
    }

    /// <summary>Answers with what comes, as it comes.</summary>
    public static async Task PassOnAsync(ApiContext api, HttpContext http, string id, IConsoleStream source, string type, CancellationToken cancellation)
    {
        http.Features.Get<IHttpResponseBodyFeature>()?.DisableBuffering();
        // A person may pause the terminal for as long as he likes; the bound on long requests covers those who never go on.
        if (http.Features.Get<IHttpMinResponseDataRateFeature>() is { } rate)
            rate.MinDataRate = null;
        http.Response.ContentType = type;
        // Starting alone leaves the headers in the buffer: a quiet guest would look like a server that does not answer.
        await http.Response.BodyWriter.FlushAsync(cancellation);
        try
        {
            // Each chunk is asked for only when the one before is on its way: a slow reader slows the host, not this process.
            await foreach (var chunk in source.ReadAsync(cancellation))
            {
                await http.Response.BodyWriter.WriteAsync(chunk, cancellation);
            }
        }
        catch (CellException lost)
        {
            // The answer is on its way: only a broken end can say that something is missing.
            api.Log.LogConsoleLost(id, lost.Code, lost.Message);
            http.Abort();
        }
    }

    private async Task WriteAsync(HttpContext http)
    {
        _ = new Query(http);
        var id = await api.OwnVmAsync(http);
        var input = await Exchange.ReadAsync(http, MaxInput);
        await api.Gate.CallAsync(async c =>
        {
            await api.Gate.Cell.WriteConsoleAsync(id, input, c);
            return true;
        }, CellGate.Patience, http.RequestAborted);
        http.Response.StatusCode = StatusCodes.Status204NoContent;
    }
}
