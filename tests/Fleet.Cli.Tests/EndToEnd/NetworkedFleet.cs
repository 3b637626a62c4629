using System.Diagnostics;
using System.Text.Json;
using Fleet.Host.Images;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>
/// A fleet whose host is a network namespace of the test, with a world outside that is another: nothing of it touches the machine's network.
/// Spoken to by the command line alone, which runs in there too.
/// </summary>
internal sealed class NetworkedFleet : IAsyncDisposable
{
    public const string HostAddress = "192.0.2.1";
    public const string OutsideAddress = "192.0.2.2";

    private readonly NetworkLab _lab = new();
    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-network-").FullName;
    private Process? _node;

    private NetworkedFleet()
    {
        File.SetUnixFileMode(_folder, (UnixFileMode)0x1ed); // 0755: kernels of a spec's own are opened only where everybody may read them.
        (Host, Outside) = (_lab.Add("host"), _lab.Add("outside"));
        NetworkLab.Run("ip", "-n", Host, "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", Outside);
        foreach (var (space, address) in new[] { (Host, HostAddress), (Outside, OutsideAddress) })
        {
            NetworkLab.Run("ip", "-n", space, "addr", "add", address + "/24", "dev", "up0");
            // No address that is seen to be free only in a while: the test compares.
            _lab.In(space, "sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/up0/accept_dad");
            NetworkLab.Run("ip", "-n", space, "link", "set", "up0", "up");
        }

        // Settings that the kernel changes along with forwarding, as it would not leave them by itself.
        _lab.In(Host, "sh", "-c", "cd /proc/sys/net; echo 0 > ipv4/conf/all/accept_redirects; for s in ipv4/conf/lo/forwarding ipv6/conf/lo/forwarding ipv6/conf/lo/force_forwarding; do [ ! -e $s ] || echo 1 > $s; done");
    }

    public string Host { get; }

    public string Outside { get; }

    public NetworkLab Lab => _lab;

    public string Files => _folder;

    public string Data => Path.Combine(_folder, "data");

    /// <summary>Completes when the node is gone.</summary>
    public Task EndedAsync() => _node!.WaitForExitAsync();

    /// <summary>A folder of programs that the node finds before the machine's.</summary>
    public string Programs => Path.Combine(_folder, "programs");

    /// <param name="linux">Whether guests boot the default image, which is made where there is a way to the packages.</param>
    public static async Task<NetworkedFleet> StartAsync(bool linux)
    {
        var fleet = new NetworkedFleet();
        try
        {
            if (linux)
            {
                using var images = new DefaultImageStore(new ImageOptions(Path.Combine(fleet.Data, "cache"), Path.Combine(Checkout.Artifacts, "guest", "fleet-init")), Serilog.Core.Logger.None);
                await images.GetDefaultAsync(default);
            }
            await fleet.UpAsync();
            return fleet;
        }
        catch
        {
            await fleet.DisposeAsync();
            throw;
        }
    }

    public async Task UpAsync()
    {
        _node = Process.Start(new ProcessStartInfo("sh",
        [
            "-c", "out=$1; shift; exec \"$@\" >>\"$out\" 2>&1", "sh", Path.Combine(_folder, "up.out"),
            .. NetworkLab.Enter(Host), "dotnet", RunningFleet.Program, "up", "--data", Data, "--id", "box", "--tenant-qemu",
        ])
        {
            Environment = { ["PATH"] = $"{Programs}:{Environment.GetEnvironmentVariable("PATH")}" },
        })!;
        await RunningFleet.WaitAsync("the fleet to be up", async () =>
        {
            Assert.False(_node.HasExited, Log());
            return File.Exists(Path.Combine(Data, "credentials", "admin.token")) && (await CliAsync("host", "list")).Output.Contains("connected", StringComparison.Ordinal);
        });
    }

    /// <summary>kill -9.</summary>
    public void Kill()
    {
        _node!.Kill();
        _node.WaitForExit();
    }

    public Task<(int Exit, string Output, string Error)> CliAsync(params string[] arguments) => CliAsync(null, arguments);

    /// <param name="token">Null: the admin's, which the node left.</param>
    public Task<(int Exit, string Output, string Error)> CliAsync(string? token, string[] arguments)
    {
        string[] enter = NetworkLab.Enter(Host);
        return RunningFleet.RunAsync(
            new(enter[0], [.. enter[1..], "dotnet", RunningFleet.Program, .. arguments]) { Environment = { ["FLEET_DATA"] = Data, ["FLEET_TOKEN"] = token } }, "", Log);
    }

    /// <summary>The API as the admin, by curl in there: far cheaper than the command line. Status 0: nobody answered.</summary>
    public async Task<(int Status, string Body)> ApiAsync(string method, string path, string body = "")
    {
        string[] enter = NetworkLab.Enter(Host);
        var token = (await File.ReadAllTextAsync(Path.Combine(Data, "credentials", "admin.token"))).Trim();
        var (exit, output, _) = await RunningFleet.RunAsync(
            new(enter[0], [.. enter[1..], "curl", "-s", "-X", method, "-H", "Content-Type: application/json", "--data-binary", body, "-K", "-", "-w", "\n%{http_code}", $"http://127.0.0.1:7070/v1/{path}"]),
            $"header = \"Authorization: Bearer {token}\"\n", Log);
        var end = output.LastIndexOf('\n');
        return exit == 0 ? (int.Parse(output[(end + 1)..], System.Globalization.CultureInfo.InvariantCulture), output[..end]) : (0, "");
    }

    /// <summary>What it prints; it must work.</summary>
    public async Task<string> DoAsync(string? token, params string[] arguments)
    {
        var (exit, output, error) = await CliAsync(token, arguments);
        Assert.True(exit == 0, $"fleet {string.Join(' ', arguments)}: {exit}\n{output}\n{error}\n{Log()}");
        return output;
    }

    public async Task<string> TenantAsync(string tenant) =>
        JsonDocument.Parse(await DoAsync(null, "token", "create", "--role", "tenant", "--tenant", tenant, "--json")).RootElement.GetProperty("secret").GetString()!;

    /// <summary>The machine's network as far as networks of microVMs could have changed it.</summary>
    public string State() => _lab.In(Host, "sh", "-c",
        "ip -o link | cut -d: -f2; ip -o addr | cut -d' ' -f2-7; ip route; nft list ruleset; cd /proc/sys/net; grep . ipv4/ip_forward ipv[46]/conf/*/forwarding ipv6/conf/*/accept_ra ipv4/conf/*/route_localnet ipv4/conf/all/accept_redirects; grep -s . ipv6/conf/*/force_forwarding || true")
        + (Directory.Exists(Path.Combine(Data, "host", "network")) ? "a folder" : "");

    public string Log() => File.Exists(Path.Combine(_folder, "up.out")) ? string.Join('\n', File.ReadLines(Path.Combine(_folder, "up.out")).TakeLast(60)) : "(no log)";

    public async ValueTask DisposeAsync()
    {
        try
        {
            if (_node is { HasExited: false })
                await CliAsync("down", "--vms");
        }
        finally
        {
            if (_node is { HasExited: false })
                Kill();
            _node?.Dispose();
            // A failed test must not leave its VMMs behind: whatever runs out of this folder.
            foreach (var folder in Directory.GetDirectories("/proc").Where(folder => char.IsAsciiDigit(Path.GetFileName(folder)[0])))
            {
                var pid = int.Parse(Path.GetFileName(folder), System.Globalization.CultureInfo.InvariantCulture);
                if (pid != Environment.ProcessId && RunsHere(pid))
                {
                    using var stray = Process.GetProcessById(pid);
                    stray.Kill();
                }
            }

            _lab.Dispose();
            Directory.Delete(_folder, true);
        }
    }

    private bool RunsHere(int pid)
    {
        try
        {
            return RunningFleet.CommandLine(pid).Contains(_folder, StringComparison.Ordinal)
                || new DirectoryInfo($"/proc/{pid}/cwd").LinkTarget?.StartsWith(_folder, StringComparison.Ordinal) == true;
        }
        catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }
}
