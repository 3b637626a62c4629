using System.ComponentModel.DataAnnotations;
using System.Globalization;
using System.Text.Json.Nodes;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Vms;
using Microsoft.AspNetCore.Http.Json;
using Microsoft.AspNetCore.OpenApi;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.OpenApi;

namespace Fleet.Scheduler.Api;

/// <summary>Makes the OpenAPI document from the operations and the shapes that the API really works by.</summary>
internal static class ApiDescription
{
    private const string ProblemType = "application/problem+json";
    private const string ByteType = "application/octet-stream";
    private const string ProblemId = "Problem";
    private const string ChangeId = "Change";
    private const string SchemeId = "token";

    // A null or absent member means the default only in what clients send; answers have every member.
    private static readonly HashSet<Type> Sent = [typeof(CreateVmBody), typeof(CreateGangBody), typeof(CreateVolumeBody), typeof(CopyVolumeBody), typeof(VolumeMountBody), typeof(HealthCheckBody), typeof(StopVmBody), typeof(DrainHostBody), typeof(BootBody), typeof(SimulatedBody), typeof(PortBody),
        typeof(PlacementBody), typeof(AffinityBody), typeof(SpreadBody), typeof(RateLimitBody), typeof(TokenBucketBody), typeof(AdminCommandBody), typeof(CreateTokenBody)];

    public static void Add(IServiceCollection services)
    {
        services.Configure<JsonOptions>(json =>
        {
            json.SerializerOptions.PropertyNamingPolicy = ApiJson.Wire.Options.PropertyNamingPolicy;
            json.SerializerOptions.NumberHandling = ApiJson.Wire.Options.NumberHandling;
            json.SerializerOptions.TypeInfoResolverChain.Insert(0, ApiJson.Wire);
        });
        services.AddOpenApi("v1", options =>
        {
            options.CreateSchemaReferenceId = type => ReferenceId(type.Type);
            options.AddSchemaTransformer(Refine);
            options.AddOperationTransformer(Describe);
            options.AddDocumentTransformer(FinishAsync);
        });
    }

    private static string? ReferenceId(Type type) =>
        type != typeof(ChangeBody) && type.Name.EndsWith("Body", StringComparison.Ordinal) ? type.Name[..^"Body".Length] : null;

    private static Task Refine(OpenApiSchema schema, OpenApiSchemaTransformerContext context, CancellationToken cancellation)
    {
        var type = context.JsonTypeInfo.Type;
        var allowed = context.JsonPropertyInfo?.AttributeProvider?.GetCustomAttributes(typeof(AllowedValuesAttribute), inherit: false);
        if (allowed is [AllowedValuesAttribute values])
            schema.Enum = [.. values.Values.Select(v => JsonValue.Create((string)v!)), JsonNullSentinel.JsonNull];
        if (schema.Properties is not { Count: > 0 } properties || type.Assembly != typeof(ApiDescription).Assembly)
            return Task.CompletedTask;
        if (Sent.Contains(type))
            schema.AdditionalPropertiesAllowed = false;
        else
            schema.Required = properties.Keys.Where(k => type != typeof(ProblemBody) || k != "field").ToHashSet();
        foreach (var (name, property) in properties)
        {
            if (property is not OpenApiSchema inner)
                continue;
            if (name.EndsWith("_at", StringComparison.Ordinal) || name is "since" or "deadline")
                inner.Format = "date-time";
            else if (name == "state" && type == typeof(VmBody))
                inner.Enum = Names(BodyMapping.StateNames);
            else if (name == "state" && type == typeof(HostBody))
                inner.Enum = Names(Enum.GetValues<HostState>().Where(s => s != HostState.Unspecified).Select(BodyMapping.Name));
            else if (context.JsonTypeInfo.Properties.Any(p => p.Name == name && p.AttributeProvider?.IsDefined(typeof(RequiredAttribute), inherit: false) == true))
                inner.Type &= ~JsonSchemaType.Null;
        }
        return Task.CompletedTask;
    }

    private static async Task FinishAsync(OpenApiDocument document, OpenApiDocumentTransformerContext context, CancellationToken cancellation)
    {
        document.Info = new OpenApiInfo { Title = "Fleet", Version = ApiServer.Version, Description = "MicroVMs on your own machines." };
        document.Servers?.Clear();
        document.AddComponent(SchemeId, new OpenApiSecurityScheme { Type = SecuritySchemeType.Http, Scheme = "bearer", Description = "A token of role admin or tenant" });
        document.AddComponent(ProblemId, await context.GetOrCreateSchemaAsync(typeof(ProblemBody), null, cancellation));
        document.AddComponent(ChangeId, new OpenApiSchema
        {
            Type = JsonSchemaType.Object,
            Required = new HashSet<string> { "index", "kind", "id", "state", "object" },
            Properties = new Dictionary<string, IOpenApiSchema>
            {
                ["index"] = new OpenApiSchema { Type = JsonSchemaType.Integer, Format = "int64" },
                ["kind"] = new OpenApiSchema { Type = JsonSchemaType.String, Enum = Names(["vm", "host"]) },
                ["id"] = new OpenApiSchema { Type = JsonSchemaType.String },
                ["state"] = new OpenApiSchema { Type = JsonSchemaType.String },
                ["object"] = new OpenApiSchema
                {
                    Description = "The microVM or the host, as it was after the change",
                    OneOf = [
                        new OpenApiSchemaReference(ReferenceId(typeof(VmBody))!, document),
                        new OpenApiSchemaReference(ReferenceId(typeof(HostBody))!, document)],
                },
            },
        });
        // Only here: while the schemas are walked, a reference to one that is not there yet is an error.
        var changes = (OpenApiSchema)document.Components!.Schemas![ReferenceId(typeof(ChangesBody))!];
        ((OpenApiSchema)changes.Properties!["changes"]).Items = new OpenApiSchemaReference(ChangeId, document);
    }

    private static Task Describe(OpenApiOperation operation, OpenApiOperationTransformerContext context, CancellationToken cancellation)
    {
        var rules = context.Description.ActionDescriptor.EndpointMetadata.OfType<Operation>().Single();
        operation.Parameters = [.. PathParameters(context), .. rules.Query.Select(ToParameter), .. rules.Headers.Select(ToParameter)];
        if (rules.Audience != Audience.Anybody)
            operation.Security = [new OpenApiSecurityRequirement { [new OpenApiSecuritySchemeReference(SchemeId, context.Document)] = [] }];
        if (rules.Audience == Audience.Admins)
            operation.Description = "Needs a token of role admin.";
        if (rules.BodyBytes > 0)
            operation.RequestBody = Bytes(rules.BodyBytes);
        var answer = (OpenApiResponse)operation.Responses![rules.Status.ToString(CultureInfo.InvariantCulture)];
        if (rules.AnswerHeaders.Count > 0)
            answer.Headers = rules.AnswerHeaders.ToDictionary(h => h.Name, IOpenApiHeader (h) => new OpenApiHeader
            {
                Description = h.Description,
                Schema = new OpenApiSchema { Type = JsonSchemaType.String },
            });
        if (answer.Content?.TryGetValue(ByteType, out var bytes) == true)
            bytes.Schema = new OpenApiSchema { Type = JsonSchemaType.String, Format = "binary" };
        foreach (var status in rules.AllErrors.GroupBy(code => ErrorCodes.All[code].Status).OrderBy(g => g.Key))
        {
            operation.Responses![status.Key.ToString(CultureInfo.InvariantCulture)] = new OpenApiResponse
            {
                Description = string.Join("; ", status.Select(code => $"{code}: {ErrorCodes.All[code].Title}")),
                Content = new Dictionary<string, OpenApiMediaType>
                {
                    [ProblemType] = new() { Schema = new OpenApiSchemaReference(ProblemId, context.Document) },
                },
            };
        }
        return Task.CompletedTask;
    }

    private static List<JsonNode> Names(IEnumerable<string> names) => [.. names.Select(n => JsonValue.Create(n))];

    private static IEnumerable<IOpenApiParameter> PathParameters(OpenApiOperationTransformerContext context)
    {
        if (context.Description.RelativePath?.Contains("{id}", StringComparison.Ordinal) != true)
            yield break;
        yield return new OpenApiParameter
        {
            Name = "id",
            In = ParameterLocation.Path,
            Required = true,
            Description = context.Description.RelativePath.StartsWith("v1/vms", StringComparison.Ordinal) ? "Id or name of the microVM"
                : context.Description.RelativePath.StartsWith("v1/tokens", StringComparison.Ordinal) ? "Id of the token" : "Id of the host",
            Schema = new OpenApiSchema { Type = JsonSchemaType.String },
        };
        if (!context.Description.RelativePath.Contains("{limiter}", StringComparison.Ordinal))
            yield break;
        yield return new OpenApiParameter
        {
            Name = "limiter",
            In = ParameterLocation.Path,
            Required = true,
            Description = "Name of the rate limiter",
            Schema = new OpenApiSchema { Type = JsonSchemaType.String, Enum = Names(RateLimitRules.Names) },
        };
    }

    private static OpenApiParameter ToParameter(QueryParameter query) => new()
    {
        Name = query.IsPrefix ? query.Name + "KEY" : query.Name,
        In = ParameterLocation.Query,
        Required = query.Required,
        Description = query.Description,
        Schema = new OpenApiSchema
        {
            Type = query.Type,
            Minimum = query.Type == JsonSchemaType.Integer ? query.Minimum.ToString(CultureInfo.InvariantCulture) : null,
            Maximum = query.Maximum == long.MaxValue ? null : query.Maximum.ToString(CultureInfo.InvariantCulture),
            Default = query.Default,
        },
    };

    private static OpenApiParameter ToParameter(HeaderParameter header) => new()
    {
        Name = header.Name,
        In = ParameterLocation.Header,
        Description = header.Description,
        Schema = new OpenApiSchema { Type = JsonSchemaType.String },
    };

    private static OpenApiRequestBody Bytes(int most) => new()
    {
        Required = true,
        Description = $"At most {most} bytes",
        Content = new Dictionary<string, OpenApiMediaType>
        {
            [ByteType] = new() { Schema = new OpenApiSchema { Type = JsonSchemaType.String, Format = "binary", MaxLength = most } },
        },
    };
}
