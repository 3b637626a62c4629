using Akka.Actor;
using Akka.Cluster.Sharding;
using Akka.Event;
using Akka.Persistence;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;

namespace Fleet.Scheduler.Volumes;

/// <summary>A message to the one actor of all volumes, wherever it lives.</summary>
public interface IToVolumes;

public sealed partial class FindVolumes : IToVolumes;
public sealed partial class ListVolumes : IToVolumes;
public sealed partial class GiveVolumes : IToVolumes;
public sealed partial class VolumesUsed : IToVolumes;
public sealed partial class CreateVolume : IToVolumes;
public sealed partial class CopyVolume : IToVolumes;
public sealed partial class RemoveVolume : IToVolumes;
public sealed partial class HostCame : IToVolumes;

public sealed partial class OrderVolume : IToHost;
public sealed partial class SessionVolumeDone : IToHost;

/// <summary>Every message goes to the same entity.</summary>
internal sealed class VolumesExtractor() : HashCodeMessageExtractor(1)
{
    public override string? EntityId(object message) => message is IToVolumes ? "volumes" : null;
}

/// <summary>
/// All volumes of the cell, one decision after the other: a shell around <see cref="VolumeBook"/>. Stores, then answers, then has the hosts do what they have to,
/// again and again until they say that it is done.
/// </summary>
internal sealed class VolumesActor(CellOptions options, IActorRef hosts) : BookActor<VolumesKept>(options, "volumes"), IWithTimers
{
    /// <summary>Orders that go out at one tick: each is a message to a host.</summary>
    private const int MostOrders = 256;

    private readonly VolumeBook _book = new();
    private readonly Dictionary<string, IActorRef> _waiting = new(StringComparer.Ordinal);

    /// <summary>Hosts on which volumes were left, and of which it is not known that they are no part of the cell.</summary>
    private readonly HashSet<string> _back = new(StringComparer.Ordinal);

    private int _leftOrdered;

    /// <summary>Of those that were left, why their hosts said last that they are still there: it is logged once.</summary>
    private readonly Dictionary<LeftVolume, string> _refusals = [];

    public override string PersistenceId => PersistenceIds.Volumes;

    public ITimerScheduler Timers { get; set; } = null!;

    protected override int Count => _book.Count + _book.Left.Count;

    protected override void Apply(IMessage stored) => _book.Apply(stored);

    protected override VolumesKept Keep() => new() { At = At, Volumes = { _book.All }, Left = { _book.Left } };

    private sealed class OrderAgain : INoSerializationVerificationNeeded
    {
        public static readonly OrderAgain Instance = new();
    }

    protected override void OnRecover(object message)
    {
        base.OnRecover(message);
        if (message is not RecoveryCompleted)
            return;
        Timers.StartPeriodicTimer(OrderAgain.Instance, OrderAgain.Instance, Options.CommandRetryMost);
        // Who came back before is not known any more.
        _back.UnionWith(_book.Left.Select(left => left.Host));
    }

    protected override bool OnMessage(object message)
    {
        switch (message)
        {
            case FindVolumes find:
                Sender.Tell(new VolumesFound
                {
                    Volumes = { find.Names.Count > 0
                        ? find.Names.Select(name => _book.Find(find.Tenant, name)).OfType<VolumeRecord>()
                        : _book.All.Where(volume => volume.Tenant == find.Tenant) },
                    LeftHosts = { _book.LeftHosts(find.Tenant, find.Names) },
                    Problem = _book.TooMany(find.Tenant, find.Names) is { } full ? new Problem { Code = full.Code, Message = full.Message } : null,
                });
                break;
            case ListVolumes:
                Sender.Tell(new VolumesFound { Volumes = { _book.All } });
                break;
            case GiveVolumes give:
                OnGive(give);
                break;
            case VolumesUsed used:
                StoreIfAny(_book.Used(used, At), static () => { });
                break;
            case CreateVolume create:
                Carry(_book.Create(create, At, NewId()), create.Tenant, create.Name);
                break;
            case CopyVolume copy:
                Carry(_book.Copy(copy, At, NewId()), copy.Tenant, copy.CopyTo);
                break;
            case RemoveVolume remove:
                Carry(_book.Remove(remove, At), remove.Tenant, remove.Name);
                break;
            case VolumeOrderAnswer answer:
                OnAnswer(answer);
                break;
            case OrderAgain:
                foreach (var volume in _book.Pending.Take(MostOrders))
                    Order(volume);
                OrderLeft(_back.Contains);
                break;
            case HostCame came:
                OnHostCame(came.HostId);
                break;
            default:
                return false;
        }
        return true;
    }

    private void OnGive(GiveVolumes give)
    {
        var caller = Sender;
        var decision = _book.Give(give, At, NewId());
        StoreIfAny(decision.Event, () =>
        {
            var given = new VolumesGiven { VmId = give.VmId, Epoch = give.Epoch, Host = give.Host, Problem = decision.Problem };
            if (decision.Problem is null)
                given.Grants.AddRange(_book.GrantsOf(give));
            caller.Tell(given);
            // Where an earlier one is left its host may be ready to remove it by now.
            if (decision.Problem is { Code: "volume_in_use" })
                OnHostCame(give.Host);
        });
    }

    /// <summary>Has a host that is there remove what was left on it.</summary>
    private void OnHostCame(string host)
    {
        if (!_book.Left.Any(left => left.Host == host))
            return;
        _back.Add(host);
        OrderLeft(other => other == host);
    }

    private void OrderLeft(Predicate<string> isMeant)
    {
        var meant = _book.Left.Where(left => isMeant(left.Host)).ToList();
        // In turns: those that are not carried out keep no others from theirs.
        foreach (var left in meant.Skip(_leftOrdered % Math.Max(1, meant.Count)).Concat(meant).Take(Math.Min(MostOrders, meant.Count)))
            hosts.Tell(new OrderVolume { HostId = left.Host, Order = VolumeBook.OrderFor(left), Left = true });
        _leftOrdered = meant.Count > MostOrders ? (_leftOrdered + MostOrders) % meant.Count : 0;
    }

    private static string NewId() => Guid.NewGuid().ToString("n");

    private void Carry(VolumeDecision decision, string tenant, string name)
    {
        var caller = Sender;
        StoreIfAny(decision.Event, () =>
        {
            var volume = _book.Find(tenant, name);
            if (decision.Problem is null && decision.Event is not null && volume is { State: VolumeState.Copying or VolumeState.Removing })
            {
                // Answered when the host has said whether somebody has it.
                _waiting[VolumeRules.Key(tenant, name)] = caller;
                Order(volume);
                return;
            }
            Answer(caller, volume, decision.Problem);
        });
    }

    private void Order(VolumeRecord volume)
    {
        if (_book.OrderFor(volume) is { } order)
            hosts.Tell(new OrderVolume { HostId = volume.Host, Order = order });
    }

    private void OnAnswer(VolumeOrderAnswer answer)
    {
        if (_book.SubjectOf(answer.Order) is not { } volume)
        {
            OnLeftAnswer(answer);
            return;
        }
        _waiting.Remove(VolumeRules.Key(volume.Tenant, volume.Name), out var caller);
        var stored = _book.Answered(answer, first: caller is not null, At);
        if (answer.Problem is { } problem && caller is null)
            Log.Warning("Host {HostId} says to what is to be done with the volume {Volume}: {Code}: {Message}", answer.HostId, volume.Name, problem.Code, problem.Message);
        StoreIfAny(stored, () =>
        {
            if (caller is not null)
                Answer(caller, _book.Find(volume.Tenant, volume.Name) ?? volume, answer.Outcome is VolumeOrderOutcome.InUse or VolumeOrderOutcome.Refused ? answer.Problem : null);
        });
    }

    private void OnLeftAnswer(VolumeOrderAnswer answer)
    {
        if (answer.Outcome == VolumeOrderOutcome.NoHost)
            _back.Remove(answer.HostId);
        // A host may say what it likes of volumes that it was never told to remove, and the same of one for ever.
        if (_book.LeftOf(answer) is not { } left)
            return;
        if (answer.Problem is { } problem && _refusals.GetValueOrDefault(left) != problem.Code)
        {
            _refusals[left] = problem.Code;
            Log.Warning("Host {HostId} has not removed the volume {Volume}, which was left there: {Code}: {Message}", answer.HostId, left.Name, problem.Code, problem.Message);
        }
        if (_book.LeftAnswered(answer, At) is { } gone)
            Store(gone, () => _refusals.Remove(left));
    }

    private void StoreIfAny(IMessage? stored, Action then)
    {
        if (stored is null)
            then();
        else
            Store(stored, then);
    }

    private static void Answer(IActorRef caller, VolumeRecord? volume, Reason? problem) => caller.Tell(new VolumeReply
    {
        Volume = volume,
        Problem = problem is null ? null : new Problem { Code = problem.Code, Message = problem.Message },
    });
}
