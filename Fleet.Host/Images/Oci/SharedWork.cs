namespace Fleet.Host.Images.Oci;

/// <summary>
/// Work that many may want at once and that is done once: who comes while it is under way waits for the same outcome. It is given up when nobody
/// waits any more.
/// </summary>
internal sealed class SharedWork<T>
{
    private readonly Lock _gate = new();
    private readonly Dictionary<string, Run> _runs = new(StringComparer.Ordinal);

    /// <param name="key">What the work is.</param>
    /// <param name="work">Does it; its token is cancelled when the last of those who wait has left.</param>
    /// <param name="cancellation">Ends this one's waiting.</param>
    public async Task<T> RunAsync(string key, Func<CancellationToken, Task<T>> work, CancellationToken cancellation)
    {
        while (true)
        {
            cancellation.ThrowIfCancellationRequested();
            Run run;
            lock (_gate)
            {
                if (!_runs.TryGetValue(key, out run!))
                {
                    _runs[key] = run = new Run();
                    run.Task = Task.Run(() => DoAsync(key, run, work), CancellationToken.None);
                }
                run.Waiting++;
            }
            try
            {
                return await run.Task!.WaitAsync(cancellation).ConfigureAwait(false);
            }
            catch (OperationCanceledException) when (run.GivenUp && !cancellation.IsCancellationRequested)
            {
                // It was being given up as this one came: begun anew once it is gone.
                await ((Task)run.Task!).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            }
            finally
            {
                lock (_gate) run.GivenUp |= --run.Waiting == 0 && !run.Task!.IsCompleted;
                // Not on this thread: what is cancelled goes on where the call is made, and may want the lock of work within work.
                if (run.GivenUp) _ = run.Cancellation.CancelAsync();
            }
        }
    }

    private async Task<T> DoAsync(string key, Run run, Func<CancellationToken, Task<T>> work)
    {
        try
        {
            return await work(run.Cancellation.Token).ConfigureAwait(false);
        }
        finally
        {
            lock (_gate) _runs.Remove(key);
        }
    }

#pragma warning disable CA1001 // Without a timer its source holds nothing to give back, and the work may look at its token to the last.
    private sealed class Run
#pragma warning restore CA1001
    {
        public CancellationTokenSource Cancellation { get; } = new();

        public Task<T>? Task { get; set; }

        public int Waiting { get; set; }

        public volatile bool GivenUp;
    }
}
