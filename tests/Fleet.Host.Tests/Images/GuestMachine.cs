using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;

namespace Fleet.Host.Tests.Images;

/// <summary>
/// A guest under QEMU's microvm machine with emulation, as plain as a command line can make it: what boots here owes nothing
/// to a driver. Use: start, perhaps type or press, then wait for the end.
/// </summary>
internal sealed partial class GuestMachine : IAsyncDisposable
{
    public const string Qemu = "/usr/bin/qemu-system-x86_64";

    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(90);
    private static readonly Lazy<long> HostTscKhz = new(MeasureTsc);

    private readonly Process _process;
    private readonly string _status;
    private readonly string _control;
    private readonly MemoryStream _console = new();
    private readonly TaskCompletionSource _mayRead = new();
    private readonly Task _reading;

    private GuestMachine(Process process, string status, string control, bool holdConsole)
    {
        if (!holdConsole) _mayRead.SetResult();
        _process = process;
        _status = status;
        _control = control;
        _reading = Task.Run(ReadConsoleAsync);
    }

    /// <summary>Everything on the console so far.</summary>
    public string Console
    {
        get
        {
            lock (_console) return Encoding.UTF8.GetString(_console.GetBuffer(), 0, (int)_console.Length);
        }
    }

    /// <summary>The lines on the status port so far.</summary>
    public IReadOnlyList<string> Status => File.Exists(_status) ? File.ReadAllLines(_status) : [];

    public static GuestMachine Start(TestFolder folder, string kernel, string initrd, int cpus = 1, bool holdConsole = false)
    {
        var name = Guid.NewGuid().ToString("N")[..8];
        var status = folder.At(name + ".status");
        var control = folder.At(name + ".qmp");
        var append = "console=ttyS0 quiet loglevel=1 reboot=k panic=1 pci=off 8250.nr_uarts=2 cryptomgr.notests tsc_early_khz=" +
            HostTscKhz.Value.ToString(CultureInfo.InvariantCulture);
        var start = new ProcessStartInfo(Qemu,
        [
            "-M", "microvm,isa-serial=on", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", $"{cpus}", "-m", "256",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-device", "i8042",
            "-kernel", kernel, "-initrd", initrd, "-append", append, "-qmp", $"unix:{control},server=on,wait=off",
            "-chardev", "stdio,id=con,signal=off", "-serial", "chardev:con",
            "-chardev", $"file,id=status,path={status},append=on", "-device", "isa-serial,chardev=status,iobase=0x2f8,irq=3",
        ])
        { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        return new GuestMachine(Process.Start(start)!, status, control, holdConsole);
    }

    public async Task TypeAsync(string text)
    {
        await _process.StandardInput.WriteAsync(text);
        await _process.StandardInput.FlushAsync();
    }

    public async Task PressCtrlAltDeleteAsync()
    {
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(_control));
        await using var stream = new NetworkStream(socket);
        using var reader = new StreamReader(stream);
        await reader.ReadLineAsync();
        await stream.WriteAsync("""{"execute": "qmp_capabilities"}"""u8.ToArray());
        await reader.ReadLineAsync();
        await stream.WriteAsync(
            """{"execute": "send-key", "arguments": {"keys": [{"type": "qcode", "data": "ctrl"}, {"type": "qcode", "data": "alt"}, {"type": "qcode", "data": "delete"}]}}"""u8.ToArray());
        await reader.ReadLineAsync();
    }

    /// <summary>Begins to take what the console gives, after a start with <c>holdConsole</c>.</summary>
    public void ReleaseConsole() => _mayRead.TrySetResult();

    /// <summary>Waits until the console shows <paramref name="text"/>.</summary>
    public async Task UntilConsoleShowsAsync(string text)
    {
        var started = Stopwatch.StartNew();
        while (!Console.Contains(text, StringComparison.Ordinal))
        {
            if (_process.HasExited || started.Elapsed > Limit)
                throw new TimeoutException($"The console never showed '{text}' but: {Console}");
            await Task.Delay(20);
        }
    }

    /// <summary>Waits until QEMU has ended by itself.</summary>
    public async Task EndAsync()
    {
        using var limit = new CancellationTokenSource(Limit);
        try
        {
            await _process.WaitForExitAsync(limit.Token);
        }
        catch (OperationCanceledException)
        {
            throw new TimeoutException($"The guest did not end within {Limit.TotalSeconds} s. Status: {string.Join('|', Status)}. Console: {Console}");
        }
        await _reading;
        if (_process.ExitCode != 0)
            throw new InvalidOperationException($"QEMU ended with {_process.ExitCode}: {await _process.StandardError.ReadToEndAsync()}");
    }

    public async ValueTask DisposeAsync()
    {
        ReleaseConsole();
        if (!_process.HasExited) _process.Kill();
        await _process.WaitForExitAsync();
        await _reading;
        _process.Dispose();
        await _console.DisposeAsync();
    }

    private async Task ReadConsoleAsync()
    {
        await _mayRead.Task;
        var buffer = new byte[65536];
        int read;
        while ((read = await _process.StandardOutput.BaseStream.ReadAsync(buffer)) > 0)
        {
            lock (_console) _console.Write(buffer, 0, read);
        }
    }

    /// <summary>
    /// An emulated guest sees the host's own time stamp counter. Its kernel fails now and then to measure the frequency on a
    /// busy host, and then hangs without a word: so it is told.
    /// </summary>
    private static unsafe long MeasureTsc()
    {
        // rdtsc; shl rdx, 32; or rax, rdx; ret
        ReadOnlySpan<byte> code = [0x0F, 0x31, 0x48, 0xC1, 0xE2, 0x20, 0x48, 0x09, 0xD0, 0xC3];
        var page = (byte*)mmap(null, 4096, 3, 0x22, -1, 0);
        // SAFETY: a fresh private page of 4096 bytes, written while it is writable, called once it is executable, freed last.
        code.CopyTo(new Span<byte>(page, 4096));
        if (mprotect(page, 4096, 5) != 0) throw new InvalidOperationException("no executable page");
        var rdtsc = (delegate* unmanaged<ulong>)page;
        var watch = Stopwatch.StartNew();
        var first = rdtsc();
        while (watch.ElapsedMilliseconds < 20) Thread.SpinWait(100);
        var ticks = rdtsc() - first;
        var elapsed = watch.Elapsed;
        _ = munmap(page, 4096);
        return (long)(ticks / elapsed.TotalMilliseconds);
    }

    [LibraryImport("libc")]
    private static unsafe partial void* mmap(void* address, nuint length, int protection, int flags, int fd, long offset);

    [LibraryImport("libc")]
    private static unsafe partial int mprotect(void* address, nuint length, int protection);

    [LibraryImport("libc")]
    private static unsafe partial int munmap(void* address, nuint length);
}
