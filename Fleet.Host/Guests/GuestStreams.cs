using System.Text;
using Fleet.Host.Drivers;
using Fleet.Host.Link;
using Fleet.Shared.Contracts;
using Fleet.Shared.GuestChannel;
using Fleet.Shared.Vms;
using Google.Protobuf;
using Serilog;

namespace Fleet.Host.Guests;

/// <summary>
/// The streams between clients and one microVM's fleet-init, carried from the link to the channel and back. The channel is opened
/// when the first stream needs it. Thread-safe.
/// </summary>
#pragma warning disable CA1001 // Who waits may look at the token after the end; without a timer it holds nothing to give back.
internal sealed partial class GuestStreams(TimeProvider clock, ILogger log)
#pragma warning restore CA1001
{
    /// <summary>At once; fleet-init has room for as many.</summary>
    public const int Most = 16;

    /// <summary>For the greeting, and again until a stream has begun. A guest under emulation takes a second for it.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(15);

    /// <summary>For a guest that still boots: so long under emulation, on a machine with much to do.</summary>
    private static readonly TimeSpan BootPatience = TimeSpan.FromMinutes(2);

    private static readonly TimeSpan BootPause = TimeSpan.FromSeconds(1);

    /// <summary>For what a VMM that is gone has left in its socket.</summary>
    private static readonly TimeSpan LastWords = TimeSpan.FromSeconds(5);

    private static readonly string Silent =
        $"fleet-init in the guest did not answer within {Patience.TotalSeconds:0} s: the guest may be frozen, busy or broken.";

    private readonly Lock _gate = new();
    private readonly Dictionary<(LinkSession Session, ulong Id), Relayed> _streams = [];
    private readonly Dictionary<uint, Relayed> _byNumber = [];
    private GuestConversation? _conversation;
    private Task<GuestConversation>? _opening;
    private bool _ended;

    private sealed class Relayed
    {
        private readonly CancellationTokenSource _over;

        public Relayed(LinkSession session, ulong id, string vmId)
        {
            (Session, Id, VmId) = (session, id, vmId);
            _over = CancellationTokenSource.CreateLinkedTokenSource(session.Ended);
            Over = _over.Token;
        }

        public LinkSession Session { get; }

        public ulong Id { get; }

        public string VmId { get; }

        /// <summary>Cancelled when nobody wants more of it.</summary>
        public CancellationToken Over { get; }

        public StreamLedger Ledger { get; } = new();

        /// <summary>In the conversation; 0: not there yet.</summary>
        public uint Number { get; set; }

        public bool Started { get; set; }

        public void End()
        {
            Ledger.ToGuest(FrameType.Close, []);
            _over.Cancel();
            _over.Dispose();
        }
    }

    /// <summary>A frame of the control plane. Does not wait.</summary>
    /// <param name="vmm">Of the microVM; null: it has none now.</param>
    public void Take(IVmm? vmm, GuestFrame frame, LinkSession session)
    {
        var type = (FrameType)Math.Min(frame.Type, byte.MaxValue);
        var key = (session, frame.StreamId);
        lock (_gate)
        {
            if (!_streams.TryGetValue(key, out var stream))
            {
                if (type != FrameType.Open) return;
                stream = new Relayed(session, frame.StreamId, frame.VmId);
                if (stream.Ledger.ToGuest(type, frame.Payload.Span) is { } unfit) Refuse(stream, "protocol_error", unfit);
                else if (_ended || vmm is null || vmm.Completion.IsCompleted) Refuse(stream, "wrong_state", "The microVM does not run.");
                else if (_streams.Count >= Most) Refuse(stream, "too_many", $"{Most} commands run beside the microVM's own, which is the most.");
                else
                {
                    _streams.Add(key, stream);
                    // A stream of the link that is over has nobody to read it.
                    stream.Over.UnsafeRegister(_ => CloseOf(stream), null);
                    _ = Task.Run(() => BeginAsync(vmm, stream, frame.Payload.Memory));
                }
                return;
            }
            if (stream.Ledger.ToGuest(type, frame.Payload.Span) is { } wrong)
            {
                Refuse(stream, "protocol_error", wrong, tellGuest: true);
                return;
            }
            if (type == FrameType.Close) Forget(stream, tellGuest: true);
            else if (stream.Number == 0 || _conversation?.TrySend(type, stream.Number, frame.Payload.Memory) != true) Refuse(stream, "guest_gone", "The guest takes nothing more.");
        }
    }

    /// <summary>The VMM is gone or let go: every stream ends. When this completes nothing more is written down.</summary>
    /// <param name="why">For those who have a stream.</param>
    /// <param name="isGone">The VMM is gone: what it had handed over before is still read.</param>
    public async Task EndAsync(string why, bool isGone = false)
    {
        GuestConversation? conversation;
        Task<GuestConversation>? opening;
        lock (_gate)
        {
            _ended = true;
            (conversation, opening) = (_conversation, _opening);
            RefuseAll("guest_gone", why);
        }
        if (opening is not null) await ((Task)opening).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        conversation ??= opening is { IsCompletedSuccessfully: true } ? opening.Result : null;
        if (conversation is not null && isGone) await conversation.Ended.WaitAsync(LastWords, clock).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        await _ending.CancelAsync().ConfigureAwait(false);
        if (conversation is not null) await conversation.DisposeAsync().ConfigureAwait(false);
        await _logging.ConfigureAwait(false);
    }

    private async Task BeginAsync(IVmm vmm, Relayed stream, ReadOnlyMemory<byte> request)
    {
        try
        {
            var conversation = await ConverseAsync(vmm, stream.Over).ConfigureAwait(false);
            lock (_gate)
            {
                if (stream.Ledger.Ended) return;
                stream.Number = conversation.NextStream();
                _byNumber.Add(stream.Number, stream);
                conversation.TrySend(FrameType.Open, stream.Number, request);
            }
            await Task.Delay(Patience, clock, stream.Over).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            lock (_gate)
            {
                if (stream.Started || stream.Ledger.Ended || stream.Over.IsCancellationRequested) return;
                Refuse(stream, "guest_silent", Silent, tellGuest: true);
            }
        }
        catch (Exception failed) when (failed is IOException or OperationCanceledException or NoGuestChannelException)
        {
            lock (_gate)
            {
                if (failed is NoGuestChannelException) Refuse(stream, "no_guest_channel", failed.Message);
                else Refuse(stream, "guest_silent", Silent);
            }
        }
    }

    private async Task<GuestConversation> ConverseAsync(IVmm vmm, CancellationToken over)
    {
        for (var began = clock.GetTimestamp(); ;)
        {
            try
            {
                return await OpenedAsync(vmm).ConfigureAwait(false);
            }
            catch (Exception failed) when (failed is IOException or OperationCanceledException && IsBooting(vmm) && !over.IsCancellationRequested && clock.GetElapsedTime(began) < BootPatience)
            {
                // What is asked before the guest can answer waits for that.
                await Task.WhenAny(vmm.GuestReady, Task.Delay(BootPause, clock, over)).ConfigureAwait(false);
            }
        }
    }

    private static bool IsBooting(IVmm vmm) => !vmm.GuestReady.IsCompleted && !vmm.Completion.IsCompleted;

    private Task<GuestConversation> OpenedAsync(IVmm vmm)
    {
        lock (_gate)
        {
            if (_ended) return Task.FromException<GuestConversation>(new IOException("The VMM is gone."));
            // One that failed or is over is begun anew.
            if (_opening is null || _opening.IsFaulted || _opening.IsCanceled || (_opening.IsCompletedSuccessfully && _conversation is null))
                _opening = OpenAsync(vmm);
            return _opening;
        }
    }

    private async Task<GuestConversation> OpenAsync(IVmm vmm)
    {
        await Task.Yield();
        using var patience = new CancellationTokenSource(Patience, clock);
        var connection = await vmm.ConnectGuestAsync(patience.Token).ConfigureAwait(false)
            ?? throw new NoGuestChannelException("The microVM has no way to a fleet-init: it boots a kernel of its own, its driver has none, or it was launched before Fleet had one.");
        var conversation = await GuestConversation.BeginAsync(connection, TakeAsync, patience.Token, GiveRoom).ConfigureAwait(false);
        lock (_gate) _conversation = conversation;
        _ = AttendAsync(conversation);
        return conversation;
    }

    private async Task AttendAsync(GuestConversation conversation)
    {
        await conversation.Ended.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        lock (_gate)
        {
            if (ReferenceEquals(_conversation, conversation)) _conversation = null;
            RefuseAll("guest_gone", "The connection to the guest broke off.");
        }
        await conversation.DisposeAsync().ConfigureAwait(false);
    }

    // One frame after the other: a link that is full holds the guest back, and nobody else.
    private async ValueTask TakeAsync(FrameType type, uint number, ReadOnlyMemory<byte> payload)
    {
        Relayed? stream;
        HostMessage message;
        CancellationToken over;
        lock (_gate)
        {
            if (_feed is { } feed && feed.Number == number)
            {
                feed.Take(type, payload);
                return;
            }
            // One that was closed a moment ago.
            if (!_byNumber.TryGetValue(number, out stream)) return;
            if (stream.Ledger.FromGuest(type, payload.Span) is { } wrong)
            {
                log.Warning("The guest of {VmId} broke the channel's rules: {Wrong}", stream.VmId, wrong);
                Refuse(stream, "protocol_error", $"The guest broke the channel's rules. {wrong}", tellGuest: true);
                return;
            }
            stream.Started = true;
            message = Message(stream, type, payload.Span);
            over = stream.Over;
            if (stream.Ledger.Ended) Forget(stream, tellGuest: false);
        }
        try
        {
            // The last one goes out although its stream is over.
            await stream.Session.SendConsoleAsync(message, stream.Ledger.Ended ? stream.Session.Ended : over).ConfigureAwait(false);
        }
        catch (Exception gone) when (gone is OperationCanceledException or System.Threading.Channels.ChannelClosedException or ObjectDisposedException)
        {
            // Nobody listens any more.
            return;
        }
    }

    private void GiveRoom()
    {
        lock (_gate) _feed?.GiveRoom();
    }

    private void CloseOf(Relayed stream)
    {
        lock (_gate) Forget(stream, tellGuest: !stream.Ledger.Ended);
    }

    private void RefuseAll(string code, string message)
    {
        foreach (var stream in _streams.Values.ToList()) Refuse(stream, code, message);
    }

    /// <summary>Says that the stream is over, and forgets it.</summary>
    private void Refuse(Relayed stream, string code, string message, bool tellGuest = false)
    {
        stream.Session.TrySend(Message(stream, FrameType.Refused, Encoding.UTF8.GetBytes($"{code} {ReasonText.Shorten(message)}")));
        Forget(stream, tellGuest);
    }

    private void Forget(Relayed stream, bool tellGuest)
    {
        if (!_streams.Remove((stream.Session, stream.Id)))
        {
            // One that was never let in.
            if (!stream.Ledger.Ended) stream.End();
            return;
        }
        _byNumber.Remove(stream.Number);
        if (tellGuest && stream.Number != 0) _conversation?.TrySend(FrameType.Close, stream.Number, default);
        stream.End();
    }

    private static HostMessage Message(Relayed stream, FrameType type, ReadOnlySpan<byte> payload) => new()
    {
        GuestFrame = new GuestFrame { StreamId = stream.Id, VmId = stream.VmId, Type = (uint)type, Payload = ByteString.CopyFrom(payload) },
    };
}

/// <summary>A microVM without a channel to fleet-init.</summary>
internal sealed class NoGuestChannelException(string message) : Exception(message);
