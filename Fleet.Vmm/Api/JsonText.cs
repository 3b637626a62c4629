using System.Buffers;
using System.Text.Encodings.Web;
using System.Text.Json;

namespace Fleet.Vmm.Api;

/// <summary>Makes one JSON document.</summary>
internal static class JsonText
{
    // The documents go to programs and terminals, not into HTML: the back-quotes of Firecracker's sentences stay readable.
    private static readonly JsonWriterOptions Options = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping, SkipValidation = true };

    public static byte[] Write(Action<Utf8JsonWriter> write)
    {
        var buffer = new ArrayBufferWriter<byte>(256);
        using (var json = new Utf8JsonWriter(buffer, Options))
        {
            write(json);
        }

        return buffer.WrittenSpan.ToArray();
    }

    /// <summary><c>{"fault_message": "…"}</c>, the body of everything that was refused.</summary>
    public static byte[] Fault(string message) => Write(json =>
    {
        json.WriteStartObject();
        json.WriteString("fault_message", message);
        json.WriteEndObject();
    });
}
