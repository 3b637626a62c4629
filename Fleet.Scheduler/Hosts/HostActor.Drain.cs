using Akka.Actor;
using Akka.Event;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Scheduler.Hosts;

/// <summary>
/// A host that is to be emptied: cordoned, and a few microVMs at a time are asked to move. Each finds its own place elsewhere
/// before it stops here; what is left at the deadline is stopped at once and placed again.
/// </summary>
internal sealed partial class HostActor
{
    /// <summary>Named in an answer; more would only make it long.</summary>
    private const int MostStayingNamed = 32;

    private static readonly TimeSpan DrainPeriod = TimeSpan.FromMilliseconds(500);

    private readonly DrainPlan _drain = new();

    private sealed class DrainTick : INoSerializationVerificationNeeded
    {
        public static readonly DrainTick Instance = new();
    }

    private bool IsDraining => _record is { Drain.DoneAt: null };

    private void OnDrain(DrainHost drain)
    {
        var caller = Sender;
        if (!Exists)
        {
            Reply(caller, NotFound());
            return;
        }
        var deadline = _options.Clock.GetUtcNow() + TimeSpan.FromMilliseconds(drain.DeadlineMs);
        Store([new HostDrainBegan { At = At, Deadline = Timestamp.FromDateTimeOffset(deadline), GraceMs = drain.GraceMs }], () =>
        {
            _log.Info("Host {HostId} is drained of {Count} microVMs until {Deadline}", _id, _record!.Vms, deadline);
            PublishView();
            StartDrain();
            OnDrainTick();
            Reply(caller, null);
        });
    }

    private void StartDrain()
    {
        if (IsDraining)
            Timers.StartPeriodicTimer(DrainTick.Instance, DrainTick.Instance, DrainPeriod);
    }

    private void OnDrainTick()
    {
        if (!IsDraining || !Exists)
        {
            Timers.Cancel(DrainTick.Instance);
            return;
        }
        // What another host fetches from here has not left yet.
        var held = _ledger.Reservations.Where(one => one is { Vacated: false } or { Leaving: true, Lost: false }).ToList();
        if (held.Count == 0)
        {
            Store([new HostDrainDone { At = At }], () => Timers.Cancel(DrainTick.Instance));
            return;
        }
        // Without an agent nothing can be stopped; when it does not come back its lease ends what is here.
        if (!Connected)
            return;
        var left = _record!.Drain.Deadline.ToDateTimeOffset() - _options.Clock.GetUtcNow();
        var forced = left <= TimeSpan.Zero;
        foreach (var one in _drain.Next(held, Monotonic, forced))
        {
            var (address, hindrance) = Transfer(one.MemoryMib, left);
            _vms.Tell(
                new MoveVm
                {
                    VmId = one.VmId,
                    HostId = _id,
                    Epoch = one.Epoch,
                    Round = one.Round,
                    GraceMs = forced ? 0 : _record.Drain.GraceMs,
                    Forced = forced,
                    Address = address,
                    Hindrance = hindrance,
                    Processor = _record.Inventory?.Processor ?? "",
                    Enrolment = _record.Enrolment,
                },
                Self);
        }
    }

    /// <summary>Where it is fetched from, or why its memory stays behind.</summary>
    private (string Address, string Hindrance) Transfer(ulong memoryMib, TimeSpan left)
    {
        var address = _record!.Inventory?.TransferAddress ?? "";
        var least = DrainPlan.TimeToTransfer(memoryMib);
        return left <= TimeSpan.Zero ? ("", "The drain's deadline was over.")
            : address.Length == 0 ? ("", $"Host {_id} runs without --transfer.")
            : left < least ? ("", $"Less than the {least.TotalSeconds:0} s for its memory were left until the drain's deadline.")
            : (address, "");
    }

    private void OnMoveAnswer(MoveAnswer answer)
    {
        _drain.Answered(answer.VmId, answer.Epoch, answer.Stays, Monotonic);
        _evictions.Answered(answer.VmId, answer.Epoch, goes: answer.Stays is null, Monotonic);
    }

    /// <summary>The record as it is answered: with those microVMs that have no place to go to.</summary>
    private HostRecord? Described()
    {
        if (_record is null)
            return null;
        var described = _record.Clone();
        described.Usage = DescribedUsage();
        if (IsFenced && described.State == HostState.Disconnected)
            described.GivenUpInMs = (uint)Math.Clamp(_lease.UntilGivenUp.TotalMilliseconds, 1, uint.MaxValue);
        if (!IsDraining)
            return described;
        described.Drain.Staying.AddRange(_drain.Staying.Take(MostStayingNamed).Select(one => new DrainStay { VmId = one.VmId, Reason = one.Reason }));
        return described;
    }
}
