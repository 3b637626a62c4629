using Fleet.Host.Drivers;
using Fleet.Host.Logs;
using Fleet.Shared.GuestChannel;

namespace Fleet.Host.Guests;

/// <summary>What the microVM's command writes, and what its guest says of itself: taken from fleet-init as long as the microVM runs, whoever reads it.</summary>
internal sealed partial class GuestStreams
{
    private static readonly TimeSpan FirstLogPause = TimeSpan.FromMilliseconds(500);
    private static readonly TimeSpan LongestLogPause = TimeSpan.FromSeconds(10);

    private readonly CancellationTokenSource _ending = new();
    private Task _logging = Task.CompletedTask;
    private LogFeed? _feed;

    /// <summary>Begins to write down what the command writes; to be called once, when the microVM has a VMM.</summary>
    /// <param name="vmm">Of the microVM.</param>
    /// <param name="directory">Of the microVM.</param>
    /// <param name="pace">How fast.</param>
    /// <param name="figures">Told what the guest says of itself, as it came.</param>
    public void KeepLog(IVmm vmm, string directory, LogPace pace, Action<ReadOnlyMemory<byte>> figures) =>
        _logging = Task.Run(() => KeepLogAsync(vmm, directory, pace.NewVm(), figures));

    /// <summary>The command is about to be asked to end: says how long it may take, where fleet-init listens.</summary>
    public void StopCommand(TimeSpan limit)
    {
        lock (_gate) _feed?.Stop(limit);
    }

    private async Task KeepLogAsync(IVmm vmm, string directory, Func<int, TimeSpan> pace, Action<ReadOnlyMemory<byte>> figures)
    {
        try
        {
            await vmm.GuestReady.WaitAsync(_ending.Token).ConfigureAwait(false);
            using var writer = LogWriter.Open(directory, clock);
            for (var pause = FirstLogPause; ; pause = pause * 2 < LongestLogPause ? pause * 2 : LongestLogPause)
            {
                if (await TakeLogAsync(vmm, writer, pace, figures).ConfigureAwait(false) is { } over)
                {
                    log.Warning("What the microVM's command writes is not kept any more: {Why}", over);
                    return;
                }
                await Task.Delay(pause, clock, _ending.Token).ConfigureAwait(false);
            }
        }
        catch (OperationCanceledException)
        {
            // The guest never was ready, or the VMM is gone or let go.
        }
        catch (NoGuestChannelException)
        {
            // Its console is all that there is.
        }
        catch (Exception failed) when (failed is not OutOfMemoryException)
        {
            log.Error(failed, "What the microVM's command writes can't be kept");
        }
    }

    /// <summary>Over one conversation, to its end. Null: another may be begun; else why not.</summary>
    private async Task<string?> TakeLogAsync(IVmm vmm, LogWriter writer, Func<int, TimeSpan> pace, Action<ReadOnlyMemory<byte>> figures)
    {
        GuestConversation conversation;
        try
        {
            conversation = await OpenedAsync(vmm).ConfigureAwait(false);
        }
        catch (Exception silent) when (silent is IOException or OperationCanceledException)
        {
            return null;
        }
        LogFeed feed;
        lock (_gate)
        {
            feed = new LogFeed(writer, pace, clock, (of, type, payload) => conversation.TrySend(type, of.Number, payload),
                why => log.Error("What the microVM's command writes is lost: {Why}", why), figures) { Number = conversation.NextStream() };
            _feed = feed;
            conversation.TrySend(FrameType.Open, feed.Number, feed.Open());
        }
        await Task.WhenAny(feed.Over.Task, conversation.Ended).ConfigureAwait(false);
        lock (_gate)
        {
            _feed = null;
            if (writer.Flush() is { } why) log.Error("What the microVM's command writes is lost: {Why}", why);
        }
        if (!feed.Over.Task.IsCompleted) return null;
        conversation.TrySend(FrameType.Close, feed.Number, default);
        return await feed.Over.Task.ConfigureAwait(false);
    }
}
