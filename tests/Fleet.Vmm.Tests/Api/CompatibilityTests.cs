using System.Text.Json.Nodes;
using Fleet.Tests;
using Fleet.Vmm.Tests.Devices.Virtio;
using Xunit;

namespace Fleet.Vmm.Tests.Api;

/// <summary>Sends every row of docs/firecracker-compatibility.md, so that the document can't say what is not so.</summary>
public class CompatibilityTests
{
    // Fields that a body needs besides the field that a row is about.
    private static readonly Dictionary<string, string> Required = new()
    {
        ["PUT /boot-source"] = """{"kernel_image_path": "FILE"}""",
        ["PUT /machine-config"] = """{"vcpu_count": 1, "mem_size_mib": 64}""",
        ["PUT /metrics"] = """{"metrics_path": "NEW"}""",
        ["PUT /drives/d"] = """{"drive_id": "d", "is_root_device": false, "path_on_host": "FILE"}""",
        ["PATCH /drives/d"] = """{"drive_id": "d"}""",
        ["PUT /network-interfaces/e"] = """{"iface_id": "e", "host_dev_name": "TAP"}""",
        ["PATCH /network-interfaces/e"] = """{"iface_id": "e"}""",
        ["PUT /vsock"] = """{"guest_cid": 3, "uds_path": "SOCKET"}""",
        ["PUT /balloon"] = """{"amount_mib": 0, "deflate_on_oom": false}""",
        ["PUT /mmds/config"] = """{"network_interfaces": ["e"]}""",
        ["PUT /snapshot/create"] = """{"snapshot_path": "NEW", "mem_file_path": "NEW2"}""",
        ["PUT /snapshot/load"] = """{"snapshot_path": "FILE", "mem_file_path": "FILE"}""",
    };

    public static TheoryData<string> Rows =>
    [
        .. File.ReadLines(Path.Combine(Checkout.Root, "docs", "firecracker-compatibility.md"))
            .Where(line => line.StartsWith("| GET", StringComparison.Ordinal) || line.StartsWith("| P", StringComparison.Ordinal) || line.StartsWith("| DELETE", StringComparison.Ordinal)),
    ];

    [SkippableTheory]
    [MemberData(nameof(Rows))]
    public void Should_answer_as_the_document_says(string row)
    {
        var cells = row.Split('|', StringSplitOptions.TrimEntries)[1..^1];
        var (request, when, field, state, words) = (cells[0], cells[1], cells[2].Trim('`'), cells[3], cells[4]);
        var isMetadata = request.EndsWith("/mmds/config", StringComparison.Ordinal);
        var needsTap = isMetadata || request.Contains("network", StringComparison.Ordinal);
        Skip.If(needsTap && !OwnNetwork.IsPossible, "needs root and /dev/net/tun");
        using var vmm = needsTap ? new RunningVmm(taps: ["fleet0"]) : new RunningVmm();
        if (when != "before")
        {
            Begin(vmm, needsTap);
        }
        else if (isMetadata)
        {
            vmm.Ok("PUT", "/network-interfaces/e", Fill(vmm, Required["PUT /network-interfaces/e"]));
        }

        if (when == "paused")
        {
            vmm.Ok("PATCH", "/vm", """{"state": "Paused"}""");
        }

        var (method, path) = request.Split(' ') is [var verb, var target] ? (verb, target) : throw new FormatException(row);
        var (status, body) = vmm.Request(method, path, field.Length == 0 ? null : Fill(vmm, Body(request, field)));
        if (state == "supported")
        {
            Assert.True(status is 200 or 204, $"{status} {body}");
        }
        else
        {
            Assert.Equal(400, status);
            Assert.Contains(words, RunningVmm.FaultOf(body), StringComparison.Ordinal);
        }
    }

    // With everything that a later request may want to change.
    private static void Begin(RunningVmm vmm, bool withTap)
    {
        vmm.Ok("PUT", "/drives/d", Fill(vmm, Required["PUT /drives/d"]));
        vmm.Ok("PUT", "/balloon", """{"amount_mib": 0, "deflate_on_oom": false, "stats_polling_interval_s": 1}""");
        if (withTap)
        {
            vmm.Ok("PUT", "/network-interfaces/e", Fill(vmm, Required["PUT /network-interfaces/e"]));
        }

        vmm.Start();
    }

    private static string Body(string request, string field)
    {
        var body = JsonNode.Parse(Required.GetValueOrDefault(request, "{}"))!.AsObject();
        foreach (var (name, value) in JsonNode.Parse("{" + field + "}")!.AsObject())
        {
            if (name == "mem_backend")
            {
                body.Remove("mem_file_path");
            }

            body[name] = value?.DeepClone();
        }

        return body.ToJsonString();
    }

    private static string Fill(RunningVmm vmm, string body) => body
        .Replace("FILE", vmm.Kernel, StringComparison.Ordinal)
        .Replace("NEW2", vmm.Directory.File("new2"), StringComparison.Ordinal)
        .Replace("NEW", vmm.Directory.File("new"), StringComparison.Ordinal)
        .Replace("SOCKET", vmm.Directory.File("socket"), StringComparison.Ordinal)
        .Replace("TAP", "fleet0", StringComparison.Ordinal);
}
