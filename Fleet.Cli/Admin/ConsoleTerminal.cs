namespace Fleet.Cli.Admin;

/// <summary>
/// The process's terminal. Ctrl-C is a key here and not a signal, for as long as the shell runs: it ends a line or a command, never the shell.
/// </summary>
internal sealed class ConsoleTerminal : ITerminal, IDisposable
{
    private const int MostTypedAhead = 4096;
    private static readonly TimeSpan Look = TimeSpan.FromMilliseconds(50);

    private readonly Queue<ConsoleKeyInfo> _typedAhead = new();

    public ConsoleTerminal() => Console.TreatControlCAsInput = true;

    public int Width => Console.WindowWidth is > 0 and var width ? width : 80;

    public ConsoleKeyInfo? ReadKey()
    {
        if (_typedAhead.TryDequeue(out var key))
            return key;
        try
        {
            return Console.ReadKey(intercept: true);
        }
        catch (InvalidOperationException)
        {
            // The terminal is gone.
            return null;
        }
    }

    public void Write(string text) => Console.Write(text);

    /// <summary>Watches the keys while a command runs: Ctrl-C cancels it, what else is typed waits for the next line. Dispose it when the command has ended.</summary>
    public Watch CancelOnCtrlC(CancellationToken cancellation) => new(this, cancellation);

    public void Dispose() => Console.TreatControlCAsInput = false;

    /// <summary>A command being watched.</summary>
    public sealed class Watch : IAsyncDisposable
    {
        private readonly ConsoleTerminal _terminal;
        private readonly CancellationTokenSource _command;
        private readonly CancellationTokenSource _over = new();
        private readonly Task _watching;

        public Watch(ConsoleTerminal terminal, CancellationToken cancellation)
        {
            _terminal = terminal;
            _command = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
            _watching = WatchAsync();
        }

        /// <summary>The user, or the program's end, wants the command to end.</summary>
        public CancellationToken Token => _command.Token;

        public async ValueTask DisposeAsync()
        {
            await _over.CancelAsync();
            // It reads no key any more then: the next one is the editor's.
            await _watching.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            _over.Dispose();
            _command.Dispose();
        }

        private async Task WatchAsync()
        {
            using var timer = new PeriodicTimer(Look);
            while (await timer.WaitForNextTickAsync(_over.Token))
            {
                while (Console.KeyAvailable)
                {
                    var key = Console.ReadKey(intercept: true);
                    if (LineEditor.IsCtrlC(key))
                        await _command.CancelAsync();
                    else if (_terminal._typedAhead.Count < MostTypedAhead)
                        _terminal._typedAhead.Enqueue(key);
                }
            }
        }
    }
}
