using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;

namespace Fleet.Tests;

/// <summary>Debian's docker-registry on loopback, for one test or benchmark.</summary>
internal sealed class DockerRegistry : IDisposable
{
    private const string Program = "/usr/bin/docker-registry";

    private readonly Process _process;

    private DockerRegistry(Process process, string address) => (_process, Address) = (process, address);

    public static bool IsInstalled => File.Exists(Program);

    public string Address { get; }

    /// <param name="folder">Its own.</param>
    /// <param name="htpasswd">A line of user and bcrypt hash: whom alone it serves.</param>
    public static async Task<DockerRegistry> StartAsync(string folder, string? htpasswd = null)
    {
        Directory.CreateDirectory(folder);
        var port = FreePort.Next();
        var configuration = Path.Combine(folder, "config.yml");
        var users = Path.Combine(folder, "htpasswd");
        if (htpasswd is not null)
            await File.WriteAllTextAsync(users, htpasswd);
        await File.WriteAllTextAsync(configuration, string.Create(CultureInfo.InvariantCulture,
            $"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{(htpasswd is null ? "" : $"auth: {{htpasswd: {{realm: test, path: {users}}}}}\n")}"));
        var process = Process.Start(new ProcessStartInfo(Program, ["serve", configuration]) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        process.OutputDataReceived += (_, _) => { };
        process.ErrorDataReceived += (_, _) => { };
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
        var registry = new DockerRegistry(process, string.Create(CultureInfo.InvariantCulture, $"127.0.0.1:{port}"));
        for (var began = TimeProvider.System.GetTimestamp(); ; await Task.Delay(20))
        {
            try
            {
                using var client = new TcpClient();
                await client.ConnectAsync("127.0.0.1", port);
                return registry;
            }
            catch (SocketException) when (!process.HasExited && TimeProvider.System.GetElapsedTime(began) < TimeSpan.FromSeconds(30))
            {
            }
            catch
            {
                registry.Dispose();
                throw;
            }
        }
    }

    public void Dispose()
    {
        _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
    }
}
