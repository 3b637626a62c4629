using System.Collections.Frozen;
using System.Data.Common;
using System.Net.Sockets;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Admin;

namespace Fleet.Scheduler.Api;

/// <summary>A request that is not carried out, with a code of docs/api.md, "Errors".</summary>
internal sealed class RequestRefused(string code, string message, string? field = null, Exception? inner = null) : Exception(message, inner)
{
    public string Code { get; } = ErrorCodes.Known(code) ? code : ErrorCodes.Internal;

    public string? Field { get; } = field;

    /// <summary>For the database, the cause: what is wrong with it the node's health may say better.</summary>
    public bool IsOfDatabase { get; private init; }

    public static RequestRefused InvalidQuery(string parameter, string message) => new(ErrorCodes.InvalidQuery, message, parameter);

    public static RequestRefused Unavailable(string message, Exception? inner = null) => new(ErrorCodes.Unavailable, message, inner: inner);

    /// <summary>The database, or the way to it: whoever asks again later may be served.</summary>
    public static bool IsDatabaseAway(Exception fault) => fault is DbException or TimeoutException or SocketException;

    /// <param name="fault">What went wrong.</param>
    /// <param name="trouble">Which of the two it is, as the node's health says it; null: nobody knows.</param>
    public static RequestRefused DatabaseAway(Exception fault, string? trouble = null) =>
        new(ErrorCodes.Unavailable, $"The control plane can't store or look up anything at the moment: {trouble ?? "its database is away or its disk is full."} Try again.", inner: fault) { IsOfDatabase = true };

    public static RequestRefused From(CellProblem problem) => new(problem.Code, problem.Message);
}

/// <summary>The stable codes, with the status and the title of each.</summary>
internal static class ErrorCodes
{
    public const string InvalidJson = "invalid_json";
    public const string UnknownField = "unknown_field";
    public const string InvalidField = "invalid_field";
    public const string MissingField = "missing_field";
    public const string InvalidQuery = "invalid_query";
    public const string InvalidRequest = "invalid_request";
    public const string Unauthenticated = "unauthenticated";
    public const string Forbidden = "forbidden";
    public const string NotFound = "not_found";
    public const string MethodNotAllowed = "method_not_allowed";
    public const string Timeout = "timeout";
    public const string TooManyTokens = "too_many_tokens";
    public const string NameTaken = "name_taken";
    public const string WrongState = "wrong_state";
    public const string HostConnected = "host_connected";
    public const string HostInUse = "host_in_use";
    public const string VolumeInUse = "volume_in_use";
    public const string TooManyVolumes = "too_many_volumes";
    public const string NoCapacity = "no_capacity";
    public const string Compacted = "compacted";
    public const string PayloadTooLarge = "payload_too_large";
    public const string UnsupportedMediaType = "unsupported_media_type";
    public const string IdempotencyKeyReused = "idempotency_key_reused";
    public const string Internal = "internal";
    public const string Unavailable = "unavailable";
    public const string ConsoleBusy = "console_busy";
    public const string InvalidCommand = CommandException.Invalid;
    public const string ConfirmationRequired = CommandException.Unconfirmed;

    public static readonly FrozenDictionary<string, (int Status, string Title)> All = new Dictionary<string, (int, string)>
    {
        [InvalidJson] = (400, "The body is not a JSON object"),
        [UnknownField] = (400, "The body has a member that the API does not have"),
        [InvalidField] = (400, "A member of the request is wrong"),
        [MissingField] = (400, "A member of the body is missing"),
        [InvalidQuery] = (400, "A query parameter is wrong"),
        [InvalidCommand] = (400, "The operator's command is wrong"),
        [InvalidRequest] = (400, "The request is malformed"),
        [Unauthenticated] = (401, "No valid token came with the request"),
        [Forbidden] = (403, "The token does not allow that"),
        [NotFound] = (404, "There is no such thing"),
        [MethodNotAllowed] = (405, "The path does not take that method"),
        [Timeout] = (408, "The time is over"),
        [TooManyTokens] = (409, "There are as many tokens as there may be"),
        [NameTaken] = (409, "The name is taken"),
        [WrongState] = (409, "The microVM is in another state"),
        [ConfirmationRequired] = (409, "The operator's command has to be confirmed"),
        [HostConnected] = (409, "The host is connected"),
        [HostInUse] = (409, "The host is in use"),
        [VolumeInUse] = (409, "The volume is in use"),
        [TooManyVolumes] = (409, "There are as many volumes as there may be"),
        [NoCapacity] = (409, "No host has room, and the microVM is not to wait"),
        [Compacted] = (410, "The change log no longer goes back that far"),
        [PayloadTooLarge] = (413, "The body is too large"),
        [UnsupportedMediaType] = (415, "The body has the wrong content type"),
        [IdempotencyKeyReused] = (422, "The Idempotency-Key was used for another body"),
        [Internal] = (500, "A fault of the control plane"),
        [ConsoleBusy] = (503, "The console has more input than its guest's host took"),
        [Unavailable] = (503, "The control plane can't do that at the moment"),
    }.ToFrozenDictionary();

    public static bool Known(string code) => All.ContainsKey(code);

    /// <summary>The code for a status that the web server set by itself.</summary>
    public static string ForStatus(int status) => status switch
    {
        401 => Unauthenticated,
        403 => Forbidden,
        404 => NotFound,
        405 => MethodNotAllowed,
        408 => Timeout,
        413 => PayloadTooLarge,
        415 => UnsupportedMediaType,
        503 => Unavailable,
        >= 400 and < 500 => InvalidRequest,
        _ => Internal,
    };
}
