using System.Text.Json;
using System.Text.Json.Serialization;

namespace Fleet.Scheduler.Api;

/// <summary>Writes a change with its microVM or its host as the member <c>object</c>.</summary>
internal sealed class ChangeBodyConverter : JsonConverter<ChangeBody>
{
    public override ChangeBody Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
        throw new NotSupportedException("Changes are only written.");

    public override void Write(Utf8JsonWriter writer, ChangeBody value, JsonSerializerOptions options)
    {
        writer.WriteStartObject();
        writer.WriteNumber("index", value.Index);
        writer.WriteString("kind", value.Kind);
        writer.WriteString("id", value.Id);
        writer.WriteString("state", value.State);
        writer.WritePropertyName("object");
        if (value.Vm is not null)
            JsonSerializer.Serialize(writer, value.Vm, ApiJson.Wire.VmBody);
        else
            JsonSerializer.Serialize(writer, value.Host!, ApiJson.Wire.HostBody);
        writer.WriteEndObject();
    }
}
