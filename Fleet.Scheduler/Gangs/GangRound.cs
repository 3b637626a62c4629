using System.Globalization;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Vms;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Gangs;

/// <summary>A member that waits.</summary>
/// <param name="VmId">Its id.</param>
/// <param name="Spec">What it wants; its gang is set.</param>
internal sealed record GangMember(string VmId, VmSpec Spec);

/// <summary>What a round wants next.</summary>
internal abstract record GangStep
{
    private GangStep()
    {
    }

    /// <summary>Candidates for <see cref="GangRound.Member"/>.</summary>
    public sealed record AskIndex : GangStep;

    /// <summary>Room for <see cref="GangRound.Member"/> on that host.</summary>
    public sealed record Reserve(string Host) : GangStep;

    /// <summary>Each member has room.</summary>
    public sealed record Whole : GangStep;

    /// <summary>There is no room for all: what is held is to be given back.</summary>
    /// <param name="Why">How many have some.</param>
    /// <param name="IsDecided">Every host was asked or is known to have none; false: another round may find what this one did not.</param>
    public sealed record Short(Reason Why, bool IsDecided) : GangStep;
}

/// <summary>
/// One try to get room for every member of a gang, one after the other. What it holds is nobody's until it has all: who gives up gives back, and whoever forgets is asked by
/// the hosts. Bounded, since the search of each member is. Nobody gives way to a gang, which may yet not come to be.
/// </summary>
internal sealed class GangRound
{
    /// <summary>A gang is the first place of its members. Its rounds share it, and with them a member that left and looks for itself: what a host holds it holds for one of them.</summary>
    public const ulong Epoch = 1;

    /// <summary>The reason of a member that waits.</summary>
    public const string WaitingCode = "waiting_for_gang";

    private readonly IReadOnlyList<GangMember> _members;
    private readonly IReadOnlyDictionary<string, string> _neighbours;
    private readonly List<GangPlace> _held = [];
    private PlacementSearch? _search;

    /// <param name="number">Never 0, and no other round's of this gang, also not of an actor before: what hosts hold for it goes by it.</param>
    /// <param name="members">All of them, one at least.</param>
    /// <param name="neighbours">The hosts of the microVMs that their rules name.</param>
    public GangRound(ulong number, IReadOnlyList<GangMember> members, IReadOnlyDictionary<string, string> neighbours)
    {
        Number = number;
        _members = members;
        _neighbours = neighbours;
        BeginSearch();
    }

    public ulong Number { get; }

    /// <summary>For whom room is sought.</summary>
    public GangMember Member => _members[Math.Min(_held.Count, _members.Count - 1)];

    public PlacementSearch? Search => _search;

    public IReadOnlyList<GangPlace> Held => _held;

    /// <summary>The next step. Each is to be taken once: a host that is named counts as asked.</summary>
    public GangStep Next()
    {
        if (_search is null)
            return new GangStep.Whole();
        if (_search.Next() is { } host)
            return new GangStep.Reserve(host);
        if (_search.MaySearchOn)
            return new GangStep.AskIndex();
        return new GangStep.Short(Waits(Member.Spec.Gang, _held.Count, _search.Explain().Message), !_search.IsUndecided);
    }

    /// <summary>What a host said. False: nobody asked it, and what it holds for the member goes back, unless this round <see cref="Wants"/> it.</summary>
    public bool Take(RoomAnswer answer)
    {
        if (_search is null || answer.VmId != Member.VmId || answer.HostId != _search.Asking || answer.Epoch != Epoch || answer.Round != Number)
            return false;
        if (answer.Rejection is { } rejection)
        {
            _search.Refused(rejection);
            return true;
        }
        _held.Add(new GangPlace { VmId = answer.VmId, Host = answer.HostId, Epoch = Epoch, Round = Number });
        BeginSearch();
        return true;
    }

    /// <summary>The host that was asked says nothing.</summary>
    public void Overdue() => _search!.Silent();

    public bool Holds(string vmId, string hostId) => _held.Any(place => place.VmId == vmId && place.Host == hostId);

    /// <summary>Held, or asked for just now, by the round <paramref name="number"/>; 0: by one that the host does not know.</summary>
    public bool Wants(string vmId, string hostId, ulong number) =>
        (number == Number || number == 0) && (Holds(vmId, hostId) || (_search is not null && Member.VmId == vmId && _search.Asking == hostId));

    /// <summary>Why a gang waits for which there is no room at once.</summary>
    /// <param name="gang">The gang.</param>
    /// <param name="room">How many of it have some.</param>
    /// <param name="why">Why the next has none; empty: nobody asked.</param>
    public static Reason Waits(Gang gang, int room, string why) => new()
    {
        Code = WaitingCode,
        Message = string.Create(CultureInfo.InvariantCulture, $"The gang {(gang.Name.Length > 0 ? gang.Name + " " : "")}of {gang.Size} is placed when there is room for all at once: there is for {room} at most.{(why.Length > 0 ? " " + why : "")}"),
    };

    /// <summary>Why a gang waits of which some are not there.</summary>
    public static Reason Incomplete(Gang gang, int there) => new()
    {
        Code = WaitingCode,
        Message = string.Create(CultureInfo.InvariantCulture, $"The gang {gang.Name} of {gang.Size} is placed when all its members wait: {there} do. Delete them, if the others are gone."),
    };

    private void BeginSearch() =>
        _search = _held.Count < _members.Count ? new PlacementSearch(Neighbours.With(Demand.Of(Member.Spec), _neighbours), Epoch, []) : null;
}
