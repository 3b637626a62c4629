using System.Diagnostics;
using System.Net;

namespace Fleet.Tests;

/// <summary>
/// A PostgreSQL server of a test's own: Debian's programs, a database in a temporary folder, loopback only. The server refuses to be root,
/// so root starts it as Debian's user for it.
/// </summary>
internal sealed class PostgresServer : IAsyncDisposable
{
    private const string User = "fleet";
    private const string Account = "postgres";
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly string _folder;
    private readonly string _address;
    private readonly string[] _inNamespace;
    private Process? _server;

    private PostgresServer(string folder, string address, int port, string[] inNamespace)
    {
        _folder = folder;
        _address = address;
        Port = port;
        _inNamespace = inNamespace;
    }

    public int Port { get; }

    /// <summary>Process id of the server; 0 when it is down.</summary>
    public int ProcessId => _server is { HasExited: false } server ? server.Id : 0;

    /// <summary>What Npgsql connects with.</summary>
    public string ConnectionString => $"Host={_address};Port={Port};Username={User};Database=postgres";

    /// <summary>Whether the programs are there: <c>./fleet test</c> installs them.</summary>
    public static bool IsInstalled => Programs is not null;

    private static string? Programs { get; } = Directory.Exists("/usr/lib/postgresql")
        ? Directory.GetDirectories("/usr/lib/postgresql").Select(version => Path.Combine(version, "bin")).Where(bin => File.Exists(Path.Combine(bin, "postgres"))).Order().LastOrDefault()
        : null;

    /// <param name="address">Where it listens.</param>
    /// <param name="folder">A new folder of the test's that takes the database, on the file system to be tested; null: a temporary one.</param>
    /// <param name="inNamespace">Words before the command that start it elsewhere, such as <c>ip netns exec NAME</c>.</param>
    public static async Task<PostgresServer> StartAsync(string address = "127.0.0.1", string? folder = null, string[]? inNamespace = null)
    {
        folder = Directory.CreateDirectory(folder ?? Path.Combine(Path.GetTempPath(), $"fleet-postgres-{Guid.NewGuid():n}")).FullName;
        var server = new PostgresServer(folder, address, FreePort.Next(), inNamespace ?? []);
        try
        {
            if (Environment.IsPrivilegedProcess)
                await RunAsync("chown", Account, folder);
            await RunAsync([.. AsAccount(), Program("initdb"), "--no-sync", "-A", "trust", "-U", User, "-E", "UTF8", "--locale=C", "-D", server.Data]);
            // Whoever is in the same network: in a namespace of the test's that is only the test's own.
            await File.AppendAllTextAsync(Path.Combine(server.Data, "pg_hba.conf"), "host all all samenet trust\n");
            await server.StartAsync();
            return server;
        }
        catch
        {
            await server.DisposeAsync();
            throw;
        }
    }

    /// <summary>Starts the server on what is there, and answers when it takes connections.</summary>
    public async Task StartAsync()
    {
        var start = new ProcessStartInfo { RedirectStandardError = true, RedirectStandardOutput = true };
        string[] words =
        [
            .. _inNamespace, .. AsAccount(), Program("postgres"), "-D", Data, "-k", _folder, "-p", $"{Port}",
            "-c", $"listen_addresses={_address}", "-c", "max_connections=200", "-c", "shared_buffers=64MB",
        ];
        start.FileName = words[0];
        foreach (var word in words[1..])
            start.ArgumentList.Add(word);
        var said = new Queue<string>();
        _server = Process.Start(start)!;
        DataReceivedEventHandler keep = (_, line) =>
        {
            lock (said)
            {
                said.Enqueue(line.Data ?? "");
                if (said.Count > 20)
                    said.Dequeue();
            }
        };
        _server.ErrorDataReceived += keep;
        _server.OutputDataReceived += keep;
        _server.BeginErrorReadLine();
        _server.BeginOutputReadLine();
        using var patience = new CancellationTokenSource(Patience);
        while (!await IsReadyAsync())
        {
            if (_server.HasExited || patience.IsCancellationRequested)
            {
                lock (said)
                    throw new InvalidOperationException($"PostgreSQL does not start: {string.Join('\n', said)}");
            }
            await Task.Delay(50, CancellationToken.None);
        }
    }

    /// <summary>Ends the server at once, as a power cut would: what was committed is there after the next start.</summary>
    public async Task KillAsync()
    {
        if (_server is not { } server)
            return;
        // The server's own children end by themselves when it is gone.
        server.Kill();
        await server.WaitForExitAsync();
        server.Dispose();
        _server = null;
        // The lock file of the dead one names a pid that may be in use again.
        File.Delete(Path.Combine(Data, "postmaster.pid"));
    }

    /// <summary>Ends connections, writes a checkpoint and ends.</summary>
    public async Task StopAsync()
    {
        if (_server is not { } server)
            return;
        if (!server.HasExited)
            await RunAsync([.. AsAccount(), Program("pg_ctl"), "-D", Data, "-m", "fast", "-w", "-t", "60", "stop"]);
        await server.WaitForExitAsync();
        server.Dispose();
        _server = null;
    }

    public async ValueTask DisposeAsync()
    {
        try
        {
            await StopAsync();
        }
        catch (InvalidOperationException)
        {
            await KillAsync();
        }
        Directory.Delete(_folder, recursive: true);
    }

    private string Data => Path.Combine(_folder, "data");

    private async Task<bool> IsReadyAsync() =>
        await ExitCodeAsync([.. _inNamespace, Program("pg_isready"), "-q", "-h", _folder, "-p", $"{Port}"]) == 0;

    private static string Program(string name) => Path.Combine(Programs ?? throw new InvalidOperationException("PostgreSQL is not installed."), name);

    private static string[] AsAccount() =>
        Environment.IsPrivilegedProcess ? ["setpriv", $"--reuid={Account}", $"--regid={Account}", "--clear-groups", "--"] : [];

    private static async Task RunAsync(params string[] words)
    {
        if (await ExitCodeAsync(words) is var code and not 0)
            throw new InvalidOperationException($"{string.Join(' ', words)} ended with {code}.");
    }

    private static async Task<int> ExitCodeAsync(string[] words)
    {
        using var process = Process.Start(new ProcessStartInfo(words[0], words[1..]) { RedirectStandardError = true, RedirectStandardOutput = true })!;
        var said = Task.WhenAll(process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        await process.WaitForExitAsync();
        await said;
        return process.ExitCode;
    }
}
