using System.Text.Json;
using Fleet.Vmm.Tests.Api;
using Fleet.Vmm.Tests.Devices.Virtio;
using Xunit;

namespace Fleet.Vmm.Tests.Metadata;

/// <summary>The host's side, over the API's socket.</summary>
public class ApiTests
{
    private const string NotInitialized = "MMDS error: The MMDS data store is not initialized.";
    private const string ConfigError = "MMMDS config error: ";

    [Fact]
    public void Should_store_merge_and_tell_at_any_time()
    {
        using var vmm = new RunningVmm();
        Assert.Equal((200, "{}"), vmm.Request("GET", "/mmds"));
        Assert.Equal(NotInitialized, vmm.Fault("PATCH", "/mmds", """{"a": 1}"""));
        vmm.Ok("PUT", "/mmds", """{"b": {"c": [1, 2.50]}, "a": "secret-1"}""");
        vmm.Ok("PATCH", "/mmds", """{"b": {"d": null, "e": "x"}}""");
        Assert.Equal((200, """{"a":"secret-1","b":{"c":[1,2.50],"e":"x"}}"""), vmm.Request("GET", "/mmds"));
        vmm.Start();
        vmm.Ok("PUT", "/mmds", """{"z": "secret-2"}""");
        vmm.Ok("PATCH", "/mmds", """{"y": true}""");
        Assert.Equal((200, """{"y":true,"z":"secret-2"}"""), vmm.Request("GET", "/mmds"));
        Assert.DoesNotContain("secret", File.ReadAllText(vmm.Log), StringComparison.Ordinal);
    }

    [Fact]
    public void Should_say_after_the_start_that_there_is_no_service()
    {
        using var vmm = new RunningVmm();
        vmm.Start();
        Assert.Equal(NotInitialized, vmm.Fault("GET", "/mmds"));
        Assert.Equal(NotInitialized, vmm.Fault("PATCH", "/mmds", "{}"));
    }

    [Fact]
    public void Should_keep_to_the_limit_and_to_what_was_there()
    {
        using var vmm = new RunningVmm(null, true, "--mmds-size-limit", "30");
        vmm.Ok("PUT", "/mmds", """{"a": "0123456789"}""");
        foreach (var (method, body) in new[] { ("PUT", """{"a": "0123456789012345678901234567890"}"""), ("PATCH", """{"b": "0123456789"}""") })
        {
            var (status, text) = vmm.Request(method, "/mmds", body);
            Assert.Equal((413, "The MMDS patch request doesn't fit."), (status, RunningVmm.FaultOf(text)));
        }

        Assert.Equal((200, """{"a":"0123456789"}"""), vmm.Request("GET", "/mmds"));
    }

    [Theory]
    [InlineData("PUT", "/mmds", "{\"a\":}", "An error occurred when deserializing the json body of a request: expected value at line 1 column 5.")]
    [InlineData("PUT", "/mmds", "{} {}", "An error occurred when deserializing the json body of a request: trailing characters at line 1 column 3.")]
    [InlineData("PUT", "/mmds/else", "{}", "Invalid request method and/or path: PUT mmds.")]
    [InlineData("PUT", "/mmds/config", "{}", "An error occurred when deserializing the json body of a request: missing field `network_interfaces` at line 1 column 2.")]
    [InlineData("PUT", "/mmds/config", """{"network_interfaces":[],"version":"V3"}""", "An error occurred when deserializing the json body of a request: unknown variant `V3`, expected `V1` or `V2` at line 1 column 39.")]
    [InlineData("PUT", "/mmds/config", """{"network_interfaces":[],"ipv4_address":"169.254.1.01"}""", "An error occurred when deserializing the json body of a request: invalid IPv4 address syntax at line 1 column 54.")]
    [InlineData("PUT", "/mmds/config", """{"network_interfaces":[]}""", ConfigError + "The list of network interface IDs that allow forwarding MMDS requests is empty.")]
    [InlineData("PUT", "/mmds/config", """{"network_interfaces":["x"]}""", ConfigError + "The list of network interface IDs provided contains at least one ID that does not correspond to any existing network interface.")]
    public void Should_say_why_it_refuses(string method, string path, string body, string fault)
    {
        using var vmm = new RunningVmm();
        Assert.Equal(fault, vmm.Fault(method, path, body));
    }

    [Fact]
    public void Should_not_read_a_document_that_is_too_deep()
    {
        using var vmm = new RunningVmm();
        Assert.Equal(400, vmm.Request("PUT", "/mmds", new string('[', 20000)).Status);
        vmm.Ok("PUT", "/mmds", new string('[', 64) + new string(']', 64));
        Assert.Equal(200, vmm.Request("GET", "/mmds").Status);
    }

    [SkippableFact]
    public void Should_configure_before_the_start_only_and_write_that_into_a_configuration()
    {
        Skip.IfNot(OwnNetwork.IsPossible, "needs root and /dev/net/tun");
        using var vmm = new RunningVmm(taps: ["fleet0", "fleet1"]);
        foreach (var number in new[] { 0, 1 })
        {
            vmm.Ok("PUT", $"/network-interfaces/e{number}", $$"""{"iface_id": "e{{number}}", "host_dev_name": "fleet{{number}}"}""");
        }

        foreach (var address in new[] { "169.254.0.255", "169.254.255.0", "10.0.0.1" })
        {
            Assert.Equal(ConfigError + "The MMDS IPv4 address is not link local.", vmm.Fault("PUT", "/mmds/config", $$"""{"network_interfaces": ["e1"], "ipv4_address": "{{address}}"}"""));
        }

        Assert.Contains("\"mmds-config\":null", vmm.Request("GET", "/vm/config").Body, StringComparison.Ordinal);
        vmm.Ok("PUT", "/mmds/config", """{"network_interfaces": ["e0"]}""");
        Assert.Contains(
            """
            "mmds-config":{"version":"V1","network_interfaces":["e0"],"ipv4_address":"169.254.169.254","imds_compat":false}
            """.Trim(),
            vmm.Request("GET", "/vm/config").Body, StringComparison.Ordinal);
        vmm.Ok("PUT", "/mmds/config", """{"network_interfaces": ["e1"], "version": "V2", "ipv4_address": "169.254.1.0", "imds_compat": true}""");
        var metrics = vmm.Directory.File("metrics");
        vmm.Ok("PUT", "/metrics", $$"""{"metrics_path": "{{metrics}}"}""");
        vmm.Start();
        Assert.Equal("The requested operation is not supported after starting the microVM.", vmm.Fault("PUT", "/mmds/config", """{"network_interfaces": ["e0"]}"""));
        Assert.Equal((200, "{}"), vmm.Request("GET", "/mmds"));
        var settings = vmm.Machines.Settings!.Metadata!.Settings!;
        Assert.Equal(["e1"], settings.Interfaces);
        Assert.Equal((true, 0xa9fe0100, true), (settings.NeedsToken, settings.Address, settings.AlwaysText));
        using var line = JsonDocument.Parse(File.ReadAllLines(metrics)[0]);
        Assert.Equal(
            ["rx_accepted", "rx_accepted_err", "rx_accepted_unusual", "rx_bad_eth", "rx_invalid_token", "rx_no_token", "rx_count", "tx_bytes", "tx_count", "tx_errors", "tx_frames", "connections_created", "connections_destroyed"],
            line.RootElement.GetProperty("mmds").EnumerateObject().Select(counter => counter.Name));
        Assert.Equal(5, line.RootElement.GetProperty("put_api_requests").GetProperty("mmds_count").GetInt32());
        Assert.Equal(3, line.RootElement.GetProperty("put_api_requests").GetProperty("mmds_fails").GetInt32());

        var file = vmm.Directory.File("config.json", vmm.Request("GET", "/vm/config").Body);
        using var again = new RunningVmm(["fleet0", "fleet1"], null, true, "--config-file", file, "--metadata", vmm.Directory.File("metadata.json", """{ "from" : "file" }"""));
        Assert.True(SpinWait.SpinUntil(() => again.Machines.Settings is not null, RunningVmm.Patience));
        Assert.Equivalent(settings, again.Machines.Settings!.Metadata!.Settings, strict: true);
        Assert.Equal((200, """{"from":"file"}"""), again.Request("GET", "/mmds"));
    }

    [Theory]
    [InlineData("""{"a":}""", "Populating MMDS from file failed: expected value at line 1 column 5")]
    [InlineData("""{"a": "0123456789012345678901234567890"}""", "Populating MMDS from file failed: The MMDS patch request doesn't fit.")]
    [InlineData(null, "Unable to open or read from the mmds content file ")]
    public void Should_end_when_the_metadata_file_is_of_no_use(string? content, string message)
    {
        using var files = new ScratchDirectory();
        using var vmm = new RunningVmm(null, false, "--mmds-size-limit", "30", "--metadata", files.File("metadata", content));
        Assert.Equal(152, vmm.WaitForExit());
        Assert.StartsWith(message, vmm.ReadExitFile().Message, StringComparison.Ordinal);
    }
}
