using System.Text.Json;
using Fleet.Vmm.Devices.Virtio.Vsock;

namespace Fleet.Vmm.Api;

/// <summary>What <c>PUT /vsock</c> says.</summary>
internal static class VsockConfig
{
    /// <summary>0 to 2 are the hypervisor, the host itself and the host as the guest sees it.</summary>
    private const uint LeastCid = 3;

    private static readonly string[] Fields = ["guest_cid", "uds_path", "vsock_id"];

    public static VsockSettings Read(ref JsonBody body)
    {
        body.ExpectObject("struct VsockDeviceConfig");
        ulong cid = 0;
        var path = "";
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            switch (field)
            {
                case 0:
                    cid = body.Unsigned(uint.MaxValue, "u32");
                    if (cid is < LeastCid or uint.MaxValue)
                    {
                        throw body.Fault($"a guest_cid of {cid}, it must be {LeastCid} to {uint.MaxValue - 1}");
                    }

                    break;
                case 1:
                    path = body.String();
                    break;
                default:
                    // Of older clients; there is one device only.
                    _ = body.OptionalString();
                    break;
            }
        }

        body.Require(Fields, seen, 0);
        body.Require(Fields, seen, 1);
        return new VsockSettings((uint)cid, path);
    }

    public static void Write(Utf8JsonWriter json, VsockSettings? vsock)
    {
        if (vsock is null)
        {
            json.WriteNull("vsock");
            return;
        }

        json.WriteStartObject("vsock");
        json.WriteNumber("guest_cid", vsock.GuestCid);
        json.WriteString("uds_path", vsock.SocketPath);
        json.WriteEndObject();
    }
}
