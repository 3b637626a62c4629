using Fleet.Scheduler.Access;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.OpenApi;

namespace Fleet.Scheduler.Api;

/// <summary>A query parameter: what is read by it, and what the OpenAPI document says of it.</summary>
internal sealed record QueryParameter(string Name, string Description, JsonSchemaType Type)
{
    public long Minimum { get; init; }
    public long Maximum { get; init; } = long.MaxValue;
    public long? Default { get; init; }
    public bool Required { get; init; }

    /// <summary>The name is the beginning of a family of parameters: <c>label.</c></summary>
    public bool IsPrefix { get; init; }
}

/// <summary>A header of a request.</summary>
internal sealed record HeaderParameter(string Name, string Description);

/// <summary>What one request of the API takes and answers. The reader of queries and the OpenAPI document both go by it.</summary>
/// <param name="Id">The operation's id.</param>
/// <param name="Summary">One line.</param>
internal sealed record Operation(string Id, string Summary)
{
    /// <summary>Who may call it.</summary>
    public Audience Audience { get; init; }

    public IReadOnlyList<QueryParameter> Query { get; init; } = [];
    public IReadOnlyList<HeaderParameter> Headers { get; init; } = [];

    /// <summary>Headers of the answer, with a description of each.</summary>
    public IReadOnlyList<HeaderParameter> AnswerHeaders { get; init; } = [];
    public Type? Body { get; init; }
    public bool BodyOptional { get; init; }

    /// <summary>The body is bytes, at most this many.</summary>
    public int BodyBytes { get; init; }
    public int Status { get; init; } = StatusCodes.Status200OK;
    public Type? Answer { get; init; }
    public string AnswerType { get; init; } = "application/json";

    /// <summary>The codes it may refuse with, beside <c>invalid_query</c>, <c>unauthenticated</c>, <c>forbidden</c>, <c>internal</c> and <c>unavailable</c>.</summary>
    public IReadOnlyList<string> Errors { get; init; } = [];

    public IEnumerable<string> AllErrors =>
        Errors.Concat([ErrorCodes.InvalidQuery, ErrorCodes.Unauthenticated, ErrorCodes.Forbidden, ErrorCodes.Internal, ErrorCodes.Unavailable]).Distinct();
}

internal static class OperationConventions
{
    /// <summary>Says what the endpoint takes and answers.</summary>
    public static void Describe(this RouteHandlerBuilder endpoint, Operation operation)
    {
        endpoint.WithMetadata(operation).WithName(operation.Id).WithSummary(operation.Summary);
        endpoint.Produces(operation.Status, operation.Answer, operation.Answer is null && operation.AnswerType == "application/json" ? null : operation.AnswerType);
        if (operation.Body is not null)
            endpoint.Accepts(operation.Body, operation.BodyOptional, "application/json");
    }
}
