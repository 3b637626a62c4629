using System.Globalization;
using Microsoft.AspNetCore.Http.Json;
using Microsoft.AspNetCore.OpenApi;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.OpenApi;

namespace Fleet.Scheduler.Api;

/// <summary>Makes the OpenAPI document from the operations and the shapes that the API really works by.</summary>
internal static class ApiDescription
{
    private const string ProblemType = "application/problem+json";

    // A null or absent member means the default only in what clients send; answers have every member.
    private static readonly HashSet<Type> Sent = [typeof(CreateVmBody), typeof(StopVmBody), typeof(BootBody), typeof(SimulatedBody)];

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
            options.CreateSchemaReferenceId = type => type.Type.Name.EndsWith("Body", StringComparison.Ordinal) && type.Type != typeof(ChangeBody)
                ? type.Type.Name[..^"Body".Length]
                : null;
            options.AddSchemaTransformer(Refine);
            options.AddOperationTransformer(DescribeAsync);
            options.AddDocumentTransformer((document, _, _) =>
            {
                document.Info = new OpenApiInfo { Title = "Fleet", Version = ApiServer.Version, Description = "MicroVMs on your own machines." };
                document.Servers?.Clear();
                return Task.CompletedTask;
            });
        });
    }

    private static async Task Refine(OpenApiSchema schema, OpenApiSchemaTransformerContext context, CancellationToken cancellation)
    {
        var type = context.JsonTypeInfo.Type;
        if (type == typeof(ChangeBody))
        {
            await RefineChange(schema, context, cancellation);
            return;
        }
        if (schema.Properties is not { Count: > 0 } properties || type.Assembly != typeof(ApiDescription).Assembly)
            return;
        if (Sent.Contains(type))
            schema.AdditionalPropertiesAllowed = false;
        else
            schema.Required = properties.Keys.Where(k => type != typeof(ProblemBody) || k != "field").ToHashSet();
        foreach (var (name, property) in properties)
        {
            if (name.EndsWith("_at", StringComparison.Ordinal) && property is OpenApiSchema time)
                time.Format = "date-time";
        }
    }

    private static async Task RefineChange(OpenApiSchema schema, OpenApiSchemaTransformerContext context, CancellationToken cancellation)
    {
        schema.Type = JsonSchemaType.Object;
        schema.Properties = new Dictionary<string, IOpenApiSchema>
        {
            ["index"] = new OpenApiSchema { Type = JsonSchemaType.Integer, Format = "int64" },
            ["kind"] = new OpenApiSchema { Type = JsonSchemaType.String, Enum = ["vm", "host"] },
            ["id"] = new OpenApiSchema { Type = JsonSchemaType.String },
            ["state"] = new OpenApiSchema { Type = JsonSchemaType.String },
            ["object"] = new OpenApiSchema
            {
                Description = "The microVM or the host, as it was after the change",
                OneOf = [
                    await context.GetOrCreateSchemaAsync(typeof(VmBody), null, cancellation),
                    await context.GetOrCreateSchemaAsync(typeof(HostBody), null, cancellation)],
            },
        };
        schema.Required = schema.Properties.Keys.ToHashSet();
    }

    private static async Task DescribeAsync(OpenApiOperation operation, OpenApiOperationTransformerContext context, CancellationToken cancellation)
    {
        var rules = context.Description.ActionDescriptor.EndpointMetadata.OfType<Operation>().Single();
        operation.Tags = null;
        operation.Parameters = [.. PathParameters(context), .. rules.Query.Select(ToParameter), .. rules.Headers.Select(ToParameter)];
        if (rules.BodyBytes > 0)
            operation.RequestBody = Bytes(rules.BodyBytes);
        if (rules.AnswerHeaders.Count > 0 && operation.Responses![rules.Status.ToString(CultureInfo.InvariantCulture)] is OpenApiResponse answer)
            answer.Headers = rules.AnswerHeaders.ToDictionary(h => h.Name, IOpenApiHeader (h) => new OpenApiHeader
            {
                Description = h.Description,
                Schema = new OpenApiSchema { Type = JsonSchemaType.String },
            });
        var problem = await context.GetOrCreateSchemaAsync(typeof(ProblemBody), null, cancellation);
        foreach (var status in rules.AllErrors.GroupBy(code => ErrorCodes.All[code].Status).OrderBy(g => g.Key))
        {
            operation.Responses![status.Key.ToString(CultureInfo.InvariantCulture)] = new OpenApiResponse
            {
                Description = string.Join("; ", status.Select(code => $"{code}: {ErrorCodes.All[code].Title}")),
                Content = new Dictionary<string, OpenApiMediaType> { [ProblemType] = new() { Schema = problem } },
            };
        }
    }

    private static IEnumerable<IOpenApiParameter> PathParameters(OpenApiOperationTransformerContext context)
    {
        if (context.Description.RelativePath?.Contains("{id}", StringComparison.Ordinal) != true)
            yield break;
        yield return new OpenApiParameter
        {
            Name = "id",
            In = ParameterLocation.Path,
            Required = true,
            Description = context.Description.RelativePath.StartsWith("v1/vms", StringComparison.Ordinal) ? "Id or name of the microVM" : "Id of the host",
            Schema = new OpenApiSchema { Type = JsonSchemaType.String },
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
            ["application/octet-stream"] = new() { Schema = new OpenApiSchema { Type = JsonSchemaType.String, Format = "binary", MaxLength = most } },
        },
    };
}
