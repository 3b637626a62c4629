using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Fleet.Cli.Api;
using Fleet.Cli.Output;

namespace Fleet.Cli.Vms;

/// <summary><c>fleet vm console</c>: the serial console, from its oldest kept byte; with input on request.</summary>
internal static class ConsoleCommand
{
    /// <summary>The API takes at most this much console input in one request.</summary>
    private const int InputChunk = 4096;

    /// <summary>How often a cut stream is opened again where it stopped, before giving up.</summary>
    private const int Reconnects = 30;

    private static readonly TimeSpan BusyPause = TimeSpan.FromMilliseconds(100);

    private static readonly byte[] EndOfInput = [4, 4];

    public static Command Create()
    {
        var name = VmCommands.NameArgument();
        var offset = new Option<ulong?>("--offset") { Description = "First byte wanted; default: the oldest that is kept" };
        var noFollow = new Option<bool>("--no-follow") { Description = "End at the last byte there is" };
        var interactive = new Option<bool>("--interactive", "-i") { Description = "Send standard input to the guest" };
        return new Command("console", "Show a microVM's serial console") { name, offset, noFollow, interactive }.Calls(async (api, parsed, cancellation) =>
        {
            var vm = parsed.GetRequiredValue(name);
            if (parsed.GetValue(offset) is null && (await api.GetAsync(VmCommands.PathOf(vm), cancellation)).GetProperty("moved") is { ValueKind: JsonValueKind.Object } moved)
                CommandContext.Warn(parsed, $"{vm} came here from host {moved.Text("from")}, and its console begins with that");
            // The guest's terminal echoes.
            using var terminal = parsed.GetValue(interactive) ? RawTerminal.TryEnter(keepSignals: true) : null;
            using var input = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
            var typing = parsed.GetValue(interactive) ? SendInputAsync(api, vm, endToo: false, input.Token) : Task.CompletedTask;
            await CopyAsync(api, vm, parsed.GetValue(offset), !parsed.GetValue(noFollow), cancellation);
            await input.CancelAsync();
            if (typing.IsFaulted)
                await typing;
            return ExitCodes.Ok;
        });
    }

    /// <summary>
    /// Copies the console to standard output, byte for byte. A stream that breaks off is opened again at the byte where
    /// it stopped, so a restarting control plane costs the reader nothing.
    /// </summary>
    public static async Task CopyAsync(ApiClient api, string vm, ulong? offset, bool follow, CancellationToken cancellation)
    {
        await using var output = Console.OpenStandardOutput();
        var buffer = new byte[64 * 1024];
        for (var attempt = 0; ; attempt++)
        {
            try
            {
                using var response = await api.OpenConsoleAsync(vm, offset, follow, cancellation);
                if (response.Headers.TryGetValues("Fleet-Console-Offset", out var values)
                    && ulong.TryParse(values.First(), NumberStyles.None, CultureInfo.InvariantCulture, out var first))
                    offset = first;
                await using var body = await response.Content.ReadAsStreamAsync(cancellation);
                int count;
                while ((count = await body.ReadAsync(buffer, cancellation)) > 0)
                {
                    await output.WriteAsync(buffer.AsMemory(0, count), cancellation);
                    await output.FlushAsync(cancellation);
                    offset = (offset ?? 0) + (ulong)count;
                    attempt = 0;
                }

                return;
            }
            catch (Exception broken) when (follow && attempt < Reconnects && IsPassing(broken))
            {
                await Task.Delay(TimeSpan.FromMilliseconds(Math.Min(2000, 100 << Math.Min(attempt, 5))), cancellation);
            }
        }
    }

    /// <summary>Standard input to the guest, until its end.</summary>
    /// <param name="endToo">
    /// Tell the end as well, in a terminal's way: Ctrl-D. Its reader sees the end at the start of a line only; in the
    /// middle of one the first Ctrl-D hands over what there is of it.
    /// </param>
    public static async Task SendInputAsync(ApiClient api, string vm, bool endToo, CancellationToken cancellation)
    {
        await using var input = RawTerminal.OpenInput();
        var buffer = new byte[InputChunk];
        try
        {
            int count;
            var atLineStart = true;
            while ((count = await input.ReadAsync(buffer, cancellation)) > 0)
            {
                await SendAsync(api, vm, buffer.AsMemory(0, count), cancellation);
                atLineStart = buffer[count - 1] == '\n';
            }

            if (endToo)
                await SendAsync(api, vm, atLineStart ? EndOfInput.AsMemory(1) : EndOfInput, cancellation);
        }
        catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
        {
            // The console has ended; nobody reads input any more.
        }
    }

    /// <summary>Sends it, again and again while what was sent before has not arrived: a slow guest slows whoever writes.</summary>
    private static async Task SendAsync(ApiClient api, string vm, ReadOnlyMemory<byte> bytes, CancellationToken cancellation)
    {
        while (true)
        {
            try
            {
                await api.PostBytesAsync(VmCommands.PathOf(vm) + "/console", bytes, cancellation);
                return;
            }
            catch (ApiException busy) when (busy.Code == "console_busy")
            {
                await Task.Delay(BusyPause, cancellation);
            }
        }
    }

    public static bool IsPassing(Exception broken) =>
        broken is IOException or HttpRequestException || broken is ApiException { Code: "unavailable" or ApiException.Unreachable };
}
