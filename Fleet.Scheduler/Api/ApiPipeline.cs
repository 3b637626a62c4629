using System.Diagnostics;
using System.Net;
using Microsoft.AspNetCore.Http;

namespace Fleet.Scheduler.Api;

/// <summary>
/// Around every request: its id, its line in the log, the guard against other sites, and the one place where
/// what goes wrong becomes <c>application/problem+json</c>.
/// </summary>
internal sealed class ApiPipeline(ApiContext api, bool loopback)
{
    // For the log only: the client is gone before there was an answer.
    private const int ClientGone = 499;

    public async Task InvokeAsync(HttpContext http, RequestDelegate next)
    {
        var began = Stopwatch.GetTimestamp();
        http.Response.Headers[Exchange.RequestIdHeader] = http.TraceIdentifier;
        http.Response.Headers.XContentTypeOptions = "nosniff";
        try
        {
            RefuseOtherSites(http.Request);
            await next(http);
            if (http.Response is { HasStarted: false, StatusCode: >= 400, ContentLength: null })
                await WriteBareStatusAsync(http);
        }
        catch (RequestRefused refused) when (!http.Response.HasStarted)
        {
            if (refused.Code == ErrorCodes.Internal)
                api.Log.LogFault(refused, http.Request.Method, http.Request.Path, http.TraceIdentifier);
            await Exchange.WriteProblemAsync(http, refused.Code, refused.Message, refused.Field);
        }
        catch (BadHttpRequestException malformed) when (!http.Response.HasStarted)
        {
            await Exchange.WriteProblemAsync(http, ErrorCodes.ForStatus(malformed.StatusCode), malformed.Message);
        }
        catch (Exception gone) when (http.RequestAborted.IsCancellationRequested && gone is OperationCanceledException or IOException)
        {
            http.Response.StatusCode = http.Response.HasStarted ? http.Response.StatusCode : ClientGone;
        }
        catch (OperationCanceledException) when (api.Stopping.IsCancellationRequested)
        {
            if (http.Response.HasStarted)
                http.Abort();
            else
                await Exchange.WriteProblemAsync(http, ErrorCodes.Unavailable, "The control plane is stopping. Try again when it is back.");
        }
        catch (Exception fault)
        {
            api.Log.LogFault(fault, http.Request.Method, http.Request.Path, http.TraceIdentifier);
            if (http.Response.HasStarted)
                http.Abort();
            else
                await Exchange.WriteProblemAsync(http, ErrorCodes.Internal,
                    $"Something went wrong inside the control plane. Its log has the details under request {http.TraceIdentifier}.");
        }
        finally
        {
            Log(http, Stopwatch.GetElapsedTime(began));
        }
    }

    /// <summary>
    /// The API has no passwords yet: on a loopback address its guard is that only programs of this machine reach it.
    /// A browser on this machine is such a program and runs other people's scripts, so what a browser sends for another
    /// site is refused: by its Origin, and by a Host that is a name of somebody's choosing (DNS rebinding).
    /// </summary>
    private void RefuseOtherSites(HttpRequest request)
    {
        var host = request.Host.Host;
        if (loopback && host.Length > 0 && !host.Equals("localhost", StringComparison.OrdinalIgnoreCase) && !IPAddress.TryParse(host.Trim('[', ']'), out _))
            throw new RequestRefused(ErrorCodes.Forbidden, $"The API listens on a loopback address and is asked for as \"{host}\". Use 127.0.0.1 or localhost.");
        if (request.Headers.Origin is { Count: > 0 } origins
            && origins.Any(o => !Uri.TryCreate(o, UriKind.Absolute, out var origin) || !origin.Authority.Equals(request.Host.Value, StringComparison.OrdinalIgnoreCase)))
            throw new RequestRefused(ErrorCodes.Forbidden, "The request comes from a page of another site (header Origin), and such are refused.");
    }

    private static Task WriteBareStatusAsync(HttpContext http)
    {
        var code = ErrorCodes.ForStatus(http.Response.StatusCode);
        return Exchange.WriteProblemAsync(http, code, code switch
        {
            ErrorCodes.NotFound => $"There is nothing at {Short(http.Request.Path)}. GET /openapi/v1.json lists every path.",
            ErrorCodes.MethodNotAllowed => $"{http.Request.Method} is not possible at {Short(http.Request.Path)}; possible: {http.Response.Headers.Allow}.",
            ErrorCodes.UnsupportedMediaType => "Send the body as JSON, with the header Content-Type: application/json.",
            _ => $"The request could not be taken (status {http.Response.StatusCode}).",
        });
    }

    private void Log(HttpContext http, TimeSpan took)
    {
        var milliseconds = (long)took.TotalMilliseconds;
        if (HttpMethods.IsGet(http.Request.Method))
            api.Log.LogRead(http.Request.Method, http.Request.Path, http.Response.StatusCode, milliseconds, http.TraceIdentifier);
        else
            api.Log.LogChanged(http.Request.Method, http.Request.Path, http.Response.StatusCode, milliseconds, http.TraceIdentifier);
    }

    private static string Short(PathString path) => path.Value is { Length: > 120 } text ? text[..120] + "…" : path.Value ?? "/";
}
