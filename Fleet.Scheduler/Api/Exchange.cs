using System.Buffers;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Microsoft.AspNetCore.Http;
using Microsoft.Net.Http.Headers;

namespace Fleet.Scheduler.Api;

/// <summary>Reading bodies and writing answers, the same way for every request.</summary>
internal static class Exchange
{
    /// <summary>Largest JSON body.</summary>
    public const int MaxBody = 1024 * 1024;

    public const string IndexHeader = "Fleet-Index";
    public const string ConsoleOffsetHeader = "Fleet-Console-Offset";
    public const string IdempotencyHeader = "Idempotency-Key";
    public const string RequestIdHeader = "Fleet-Request-Id";

    private static readonly object ProblemKey = new();

    /// <summary>The JSON body by the shape of its type; null when it is empty and may be.</summary>
    /// <exception cref="RequestRefused">The body is too large, no JSON, or of another shape.</exception>
    public static async Task<T?> ReadJsonAsync<T>(HttpContext http, JsonTypeInfo<T> type, bool optional) where T : class
    {
        var body = await ReadAsync(http, MaxBody);
        if (body.Length == 0 && optional)
            return null;
        if (!IsJson(http.Request.ContentType))
            throw new RequestRefused(ErrorCodes.UnsupportedMediaType, "Send the body as JSON, with the header Content-Type: application/json.");
        return body.Length == 0
            ? throw new RequestRefused(ErrorCodes.InvalidJson, "The body is empty; it must be a JSON object.")
            : StrictJson.Read(body, type);
    }

    /// <summary>The whole body.</summary>
    /// <exception cref="RequestRefused">It is larger than allowed.</exception>
    public static async Task<byte[]> ReadAsync(HttpContext http, int most)
    {
        if (http.Request.ContentLength > most)
            throw TooLarge(most);
        var reader = http.Request.BodyReader;
        while (true)
        {
            var read = await reader.ReadAsync(http.RequestAborted);
            if (read.Buffer.Length > most)
            {
                reader.AdvanceTo(read.Buffer.End);
                throw TooLarge(most);
            }
            if (read.IsCompleted)
            {
                var body = read.Buffer.ToArray();
                reader.AdvanceTo(read.Buffer.End);
                return body;
            }
            reader.AdvanceTo(read.Buffer.Start, read.Buffer.End);
        }
    }

    /// <summary>Writes a JSON answer with its length.</summary>
    public static Task WriteJsonAsync<T>(HttpContext http, int status, T body, JsonTypeInfo<T> type, string contentType = "application/json; charset=utf-8")
    {
        var bytes = JsonSerializer.SerializeToUtf8Bytes(body, type);
        http.Response.StatusCode = status;
        http.Response.ContentType = contentType;
        http.Response.ContentLength = bytes.Length;
        return http.Response.Body.WriteAsync(bytes, http.RequestAborted).AsTask();
    }

    /// <summary>Writes a microVM with its version as the entity tag.</summary>
    public static Task WriteVmAsync(HttpContext http, int status, Cell.VmRecord vm, Fleet.Shared.Contracts.VmUse? use = null)
    {
        http.Response.Headers.ETag = $"\"{vm.Version.ToString(CultureInfo.InvariantCulture)}\"";
        return WriteJsonAsync(http, status, BodyMapping.ToBody(vm, use), ApiJson.Wire.VmBody);
    }

    /// <summary>Writes a refusal as RFC 9457 has it.</summary>
    public static Task WriteProblemAsync(HttpContext http, string code, string detail, string? field = null)
    {
        var (status, title) = ErrorCodes.All[code];
        if (code is ErrorCodes.Unavailable or ErrorCodes.ConsoleBusy)
            http.Response.Headers.RetryAfter = "1";
        http.Response.Headers.Remove(HeaderNames.ETag);
        http.Items[ProblemKey] = code;
        return WriteJsonAsync(http, status,
            new ProblemBody("about:blank", title, status, detail, code, field, http.TraceIdentifier),
            ApiJson.Wire.ProblemBody, "application/problem+json");
    }

    /// <summary>The code of the problem that the request was answered with; null: none.</summary>
    public static string? ProblemOf(HttpContext http) => http.Items[ProblemKey] as string;

    private static bool IsJson(string? contentType) =>
        MediaTypeHeaderValue.TryParse(contentType, out var type) && type.MediaType.Equals("application/json", StringComparison.OrdinalIgnoreCase)
        && (!type.Charset.HasValue || type.Charset.Equals("utf-8", StringComparison.OrdinalIgnoreCase) || type.Charset.Equals("\"utf-8\"", StringComparison.OrdinalIgnoreCase));

    private static RequestRefused TooLarge(int most) =>
        new(ErrorCodes.PayloadTooLarge, $"The body is larger than {most} bytes, the most that is taken here.");
}
