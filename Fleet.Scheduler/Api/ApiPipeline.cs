using System.Diagnostics;
using System.Globalization;
using Fleet.Scheduler.Access;
using Fleet.Shared.Access;
using Microsoft.AspNetCore.Http;

namespace Fleet.Scheduler.Api;

/// <summary>
/// Around every request: its id, its line in the log, who sends it and whether he may, and the one place where what goes wrong
/// becomes <c>application/problem+json</c>.
/// </summary>
internal sealed class ApiPipeline(ApiContext api)
{
    // For the log only: the client is gone before there was an answer.
    private const int ClientGone = 499;

    /// <summary>What is wrong with the disk is known at once; some of the rest has to be asked for.</summary>
    private static readonly TimeSpan HealthPatience = TimeSpan.FromSeconds(3);

    private const string Scheme = "Bearer ";

    // Of one address without a valid token, and of reads of one token, within a minute.
    private const int LoggedRefusals = 20;

    private readonly RefusalLimit _refusals = new(LoggedRefusals, api.Clock);
    private readonly RefusalLimit _databaseTold = new(1, api.Clock);

    public async Task InvokeAsync(HttpContext http, RequestDelegate next)
    {
        var began = Stopwatch.GetTimestamp();
        http.Response.Headers[Exchange.RequestIdHeader] = http.TraceIdentifier;
        http.Response.Headers.XContentTypeOptions = "nosniff";
        try
        {
            await next(http);
            if (http.Response is { HasStarted: false, StatusCode: >= 400, ContentLength: null })
                await WriteBareStatusAsync(http);
        }
        catch (RequestRefused refused) when (!http.Response.HasStarted)
        {
            if (refused.Code == ErrorCodes.Internal)
                api.Log.LogFault(refused, http.Request.Method, http.Request.Path, http.TraceIdentifier);
            if (refused.IsOfDatabase)
                await WriteAwayAsync(http, refused.InnerException!);
            else
                await Exchange.WriteProblemAsync(http, refused.Code, refused.Message, refused.Field);
        }
        catch (BadHttpRequestException malformed) when (!http.Response.HasStarted)
        {
            await Exchange.WriteProblemAsync(http, ErrorCodes.ForStatus(malformed.StatusCode), malformed.Message);
        }
        catch (Exception gone) when (http.RequestAborted.IsCancellationRequested && gone is OperationCanceledException or IOException)
        {
            if (!http.Response.HasStarted)
                http.Response.StatusCode = ClientGone;
        }
        catch (OperationCanceledException) when (api.Stopping.IsCancellationRequested)
        {
            if (http.Response.HasStarted)
                http.Abort();
            else
                await Exchange.WriteProblemAsync(http, ErrorCodes.Unavailable, "The control plane is stopping. Try again when it is back.");
        }
        catch (OperationCanceledException) when (http.Features.Get<Principal>() is { } who && (who.Revoked.IsCancellationRequested || who.Expires <= api.Clock.GetUtcNow()))
        {
            if (http.Response.HasStarted)
                http.Abort();
            else
                await Exchange.WriteProblemAsync(http, ErrorCodes.Unauthenticated, $"The token {who.TokenId} ended while the request went on.");
        }
        catch (Exception fault) when (!http.Response.HasStarted && RequestRefused.IsDatabaseAway(fault))
        {
            // Clients try again and again; each request has its line, the fault its trace once a minute.
            if (_databaseTold.Note(""))
                api.Log.LogFault(fault, http.Request.Method, http.Request.Path, http.TraceIdentifier);
            await WriteAwayAsync(http, fault);
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
    /// Behind the routing: who sends this, and may he call that? What no endpoint says anything about is for admins alone, paths that
    /// do not exist included, so that nothing can be found out without a token.
    /// </summary>
    public Task AuthoriseAsync(HttpContext http, RequestDelegate next)
    {
        var endpoint = http.GetEndpoint();
        var audience = endpoint?.Metadata.GetMetadata<Operation>()?.Audience ?? Audience.Admins;
        if (audience == Audience.Anybody && http.Request.Headers.Authorization.Count == 0)
            return next(http);
        var who = Authenticate(http);
        http.Features.Set(who);
        if (who.Tenant is not null && endpoint is not null && audience == Audience.Admins)
            throw Refused(http, ErrorCodes.Forbidden, $"The token {who.TokenId} is a tenant's; this needs one of role admin.");
        return next(http);
    }

    private Principal Authenticate(HttpContext http)
    {
        if (http.Request.Headers.Authorization is not [{ } header])
            throw Refused(http, ErrorCodes.Unauthenticated, "Send a token, once: Authorization: Bearer TOKEN. fleet token create makes one.");
        if (!header.StartsWith(Scheme, StringComparison.OrdinalIgnoreCase))
            throw Refused(http, ErrorCodes.Unauthenticated, "The header Authorization must be Bearer TOKEN.");
        var verdict = api.Tokens.Check(header.AsSpan(Scheme.Length).Trim());
        if (verdict.Token is not { } token)
            throw Refused(http, ErrorCodes.Unauthenticated, verdict.Message);
        if (TokenRules.IsForJoining(token.Role))
            throw Refused(http, ErrorCodes.Forbidden, $"The token {token.Id} is good for joining the cell, and for nothing at the API.");
        return new Principal(token.Id, token.Role == TokenRole.Tenant ? token.Tenant : null, token.ExpiresAt?.ToDateTimeOffset(), verdict.Revoked);
    }

    private RequestRefused Refused(HttpContext http, string code, string message)
    {
        var peer = Peer(http);
        // An attacker may try as often as he likes, but not fill the log with it.
        if (_refusals.Note(peer))
            api.Log.LogRefused(http.Request.Method, Logged(http.Request.Path), peer, code, message);
        if (code == ErrorCodes.Unauthenticated)
            http.Response.Headers.WWWAuthenticate = "Bearer";
        return new RequestRefused(code, message);
    }

    /// <summary>Whether it is the database or the disk, the node's health knows; if it does not in time, it may be either.</summary>
    private async Task WriteAwayAsync(HttpContext http, Exception fault)
    {
        string? trouble = null;
        try
        {
            trouble = await api.Ready(http.RequestAborted).WaitAsync(HealthPatience, api.Clock, http.RequestAborted);
        }
        catch (Exception unknown) when (unknown is not OutOfMemoryException)
        {
            // Said without.
        }
        await Exchange.WriteProblemAsync(http, ErrorCodes.Unavailable, RequestRefused.DatabaseAway(fault, trouble).Message);
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

    /// <summary>Every change and every refusal, with who it was. What had no valid token was told of when it was refused, within its bound.</summary>
    private void Log(HttpContext http, TimeSpan took)
    {
        var who = http.Features.Get<Principal>();
        var status = http.Response.StatusCode;
        if (who is null && status is StatusCodes.Status401Unauthorized or StatusCodes.Status403Forbidden)
            return;
        var (method, path, peer) = (http.Request.Method, Logged(http.Request.Path), Peer(http));
        var by = who is null ? "nobody" : who.Tenant is { } tenant ? $"token {who.TokenId} (tenant {tenant})" : $"token {who.TokenId} (admin)";
        var outcome = Outcome(http);
        var milliseconds = (long)took.TotalMilliseconds;
        // A wait whose time is over was not refused.
        var refused = status is >= 400 and < ClientGone and not StatusCodes.Status408RequestTimeout;
        if (!HttpMethods.IsGet(method) || (refused && _refusals.Note(who?.TokenId ?? peer)))
            api.Log.LogAnswered(method, path, peer, by, outcome, milliseconds, http.TraceIdentifier);
        else
            api.Log.LogRead(method, path, peer, by, outcome, milliseconds, http.TraceIdentifier);
    }

    /// <summary>The status, with the code of a problem or the path of what was made.</summary>
    private static string Outcome(HttpContext http)
    {
        var status = http.Response.StatusCode.ToString(CultureInfo.InvariantCulture);
        return Exchange.ProblemOf(http) is { } code ? $"{status} {code}"
            : http.Response is { StatusCode: StatusCodes.Status201Created, Headers.Location: [{ } made] } ? $"{status} {made}"
            : status;
    }

    private static string Peer(HttpContext http) => http.Connection.RemoteIpAddress?.ToString() ?? "";

    // Somebody may take a token for its id. What else stands there may not steer a terminal, nor look like lines of its own.
    private static string Logged(PathString path) => path.Value is { Length: > 100 } text
        ? string.Join('/', text.Split('/').Select(part => AccessToken.Parse(part) is { } token ? $"({token})" : Uri.EscapeDataString(part)))
        : path.ToUriComponent();

    private static string Short(PathString path) => path.Value is { Length: > 120 } text ? text[..120] + "…" : path.Value ?? "/";
}
