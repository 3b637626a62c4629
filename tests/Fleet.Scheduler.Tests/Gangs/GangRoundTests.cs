using CsCheck;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Gangs;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Gangs;

public sealed class GangRoundTests
{
    [Fact]
    public void Should_hold_room_for_one_after_the_other_and_be_whole_with_the_last()
    {
        var round = new GangRound(1, Members("train", 2), new Dictionary<string, string>());
        Assert.IsType<GangStep.AskIndex>(round.Next());
        round.Search!.Take(new PlacementAdvice(["a", "b"], []));
        Assert.Equal(new GangStep.Reserve("a"), round.Next());
        Assert.False(round.Take(Yes("train-1", "a")), "nobody asked for that one");
        Assert.False(round.Take(Yes("train-0", "b")), "another host was asked");
        Assert.False(round.Take(Yes("train-0", "a", round: 7)), "it was asked in another round");
        Assert.True(round.Wants("train-0", "a"));
        Assert.True(round.Take(Yes("train-0", "a")));
        Assert.True(round.Holds("train-0", "a"));
        Assert.False(round.Take(Yes("train-0", "a")), "it came twice");
        Assert.IsType<GangStep.AskIndex>(round.Next());
        round.Search!.Take(new PlacementAdvice(["a", "b"], []));
        Assert.Equal(new GangStep.Reserve("a"), round.Next());
        round.Overdue();
        Assert.Equal(new GangStep.Reserve("b"), round.Next());
        Assert.True(round.Take(Yes("train-1", "b")));
        Assert.IsType<GangStep.Whole>(round.Next());
        Assert.Equal(["a", "b"], round.Held.Select(place => place.Host));
    }

    [Fact]
    public void Should_say_for_how_many_there_is_room()
    {
        var round = new GangRound(1, Members("train", 3), new Dictionary<string, string>());
        Assert.IsType<GangStep.AskIndex>(round.Next());
        round.Search!.Take(new PlacementAdvice(["a"], []));
        Assert.Equal(new GangStep.Reserve("a"), round.Next());
        Assert.True(round.Take(Yes("train-0", "a")));
        Assert.IsType<GangStep.AskIndex>(round.Next());
        round.Search!.Take(new PlacementAdvice([], [new Rejection { Reason = RejectionReason.Cpus, Hosts = 1, Wanted = 1 }]));
        var none = Assert.IsType<GangStep.Short>(round.Next());
        Assert.Equal(GangRound.WaitingCode, none.Why.Code);
        Assert.StartsWith("The gang train of 3 is placed when there is room for all at once: there is for 1 at most. No host has room for 1 vCPUs", none.Why.Message, StringComparison.Ordinal);
    }

    /// <summary>
    /// Gangs race for the room of hosts whose views are old; answers come late, twice or never, coordinators die. None is ever placed in part, no host promises more than
    /// it has, and in the end nobody holds what he has no use for.
    /// </summary>
    [Fact]
    public void Should_place_all_of_a_gang_or_none_whatever_is_lost_and_whoever_dies()
    {
        Gen.Select(Gen.Int[1, 5].Array[2, 3], Gen.Int[0, 4].Array[1, 4], Gen.Int[0, 999].Array[0, 250]).Sample(
            (sizes, rooms, steps) =>
            {
                var world = new World(sizes, rooms);
                foreach (var step in steps)
                {
                    world.Step(step);
                    world.Check();
                }
                world.Settle();
                world.Check();
                Assert.Equal(world.Placed.SelectMany(places => places.Select(place => (place.VmId, place.Host))).Order(), world.Held.Order());
                // Whom there is room for alone it has, when nobody else asks.
                world.RunAlone();
                world.Check();
                var left = rooms.Sum() - world.Held.Count();
                Assert.All(sizes.Where((_, gang) => !world.IsPlaced(gang)), size => Assert.True(size > left, $"{size} wait, and there is room for {left}"));
            },
            iter: 2000);
    }

    private static RoomAnswer Yes(string vmId, string host, ulong round = 1) => new() { VmId = vmId, HostId = host, Epoch = GangRound.Epoch, Round = round };

    private static GangMember[] Members(string name, int size) => [.. Enumerable.Range(0, size).Select(index => new GangMember(
        $"{name}-{index}", new VmSpec { Cpus = 1, MemoryMib = 128, Gang = new Gang { Name = name, Size = (uint)size, Index = (uint)index } }))];

    /// <summary>What the actors around a round do, over a network that the test drives.</summary>
    private sealed class World(int[] sizes, int[] rooms)
    {
        private readonly GangRound?[] _rounds = new GangRound?[sizes.Length];
        private ulong _begun;
        private readonly IReadOnlyList<GangPlace>?[] _placed = new IReadOnlyList<GangPlace>?[sizes.Length];
        private readonly HashSet<string>[] _held = [.. rooms.Select(_ => new HashSet<string>(StringComparer.Ordinal))];

        // To each host, in order: who wants room in which round, or gives it back (0).
        private readonly Queue<(int Gang, string Vm, ulong Round)>[] _asked = [.. rooms.Select(_ => new Queue<(int, string, ulong)>())];
        private readonly Queue<RoomAnswer>[] _answers = [.. sizes.Select(_ => new Queue<RoomAnswer>())];

        public IEnumerable<IReadOnlyList<GangPlace>> Placed => _placed.OfType<IReadOnlyList<GangPlace>>();

        public IEnumerable<(string VmId, string Host)> Held => _held.SelectMany((held, host) => held.Select(vm => (vm, Name(host))));

        public bool IsPlaced(int gang) => _placed[gang] is not null;

        public void Step(int step)
        {
            var (gang, host) = (step % sizes.Length, step / 10 % rooms.Length);
            switch (step / 100)
            {
                case 0 when _placed[gang] is null && _rounds[gang] is null:
                    Begin(gang);
                    break;
                case 1 when step % 7 == 0:
                    // Its coordinator dies; what it held nobody knows.
                    _rounds[gang] = null;
                    break;
                case 2 when _rounds[gang] is { Search.Asking.Length: > 0 } round:
                    round.Overdue();
                    Go(gang);
                    break;
                case 3:
                    Audit(host);
                    break;
                case 4 when _answers[gang].TryPeek(out var twice):
                    Take(gang, twice);
                    break;
                case 5 when step % 5 == 0:
                    _answers[gang].TryDequeue(out _);
                    break;
                case < 8:
                    AtHost(host);
                    break;
                default:
                    if (_answers[gang].TryDequeue(out var answer))
                        Take(gang, answer);
                    break;
            }
        }

        public void Check()
        {
            Assert.All(_held, (held, host) => Assert.True(held.Count <= rooms[host], "a host promised more than it has"));
            for (var gang = 0; gang < sizes.Length; gang++)
            {
                if (_placed[gang] is not { } places)
                    continue;
                Assert.Equal(sizes[gang], places.Select(place => place.VmId).Distinct().Count());
                Assert.All(places, place => Assert.Contains((place.VmId, place.Host), Held));
            }
        }

        /// <summary>Every message arrives, every round comes to its end, and each host asks about all that it holds.</summary>
        public void Settle()
        {
            while (_asked.Any(queue => queue.Count > 0) || _answers.Any(queue => queue.Count > 0) || _rounds.Any(round => round is not null))
            {
                for (var host = 0; host < rooms.Length; host++)
                    AtHost(host);
                for (var gang = 0; gang < sizes.Length; gang++)
                {
                    if (_answers[gang].TryDequeue(out var answer))
                        Take(gang, answer);
                    else if (_rounds[gang] is { } round && _asked.All(queue => queue.All(asked => asked.Gang != gang)))
                    {
                        round.Overdue();
                        Go(gang);
                    }
                }
            }
            for (var host = 0; host < rooms.Length; host++)
                Audit(host);
            while (_asked.Any(queue => queue.Count > 0))
            {
                for (var host = 0; host < rooms.Length; host++)
                    AtHost(host);
            }
        }

        public void RunAlone()
        {
            for (var gang = 0; gang < sizes.Length; gang++)
            {
                if (_placed[gang] is null)
                    Begin(gang);
                Settle();
            }
        }

        private void Begin(int gang)
        {
            _rounds[gang] = new GangRound(++_begun, Members($"gang{gang}", sizes[gang]), new Dictionary<string, string>());
            Go(gang);
        }

        private void Go(int gang)
        {
            var round = _rounds[gang]!;
            while (true)
            {
                switch (round.Next())
                {
                    case GangStep.AskIndex:
                        // Its view is behind: it names full hosts too.
                        round.Search!.Take(new PlacementAdvice([.. Enumerable.Range(0, rooms.Length).Select(Name).Where(name => !round.Search!.Asked.Contains(name))], []));
                        continue;
                    case GangStep.Reserve reserve:
                        _asked[Number(reserve.Host)].Enqueue((gang, round.Member.VmId, round.Number));
                        return;
                    case GangStep.Whole:
                        _placed[gang] = [.. round.Held];
                        _rounds[gang] = null;
                        return;
                    default:
                        foreach (var place in round.Held)
                            _asked[Number(place.Host)].Enqueue((gang, place.VmId, 0));
                        _rounds[gang] = null;
                        return;
                }
            }
        }

        private void AtHost(int host)
        {
            if (!_asked[host].TryDequeue(out var asked))
                return;
            if (asked.Round == 0)
            {
                _held[host].Remove(asked.Vm);
                return;
            }
            var answer = Yes(asked.Vm, Name(host), asked.Round);
            if (!_held[host].Contains(asked.Vm) && _held[host].Count == rooms[host])
                answer.Rejection = new Rejection { Reason = RejectionReason.Cpus, Hosts = 1, Wanted = 1 };
            else
                _held[host].Add(asked.Vm);
            _answers[asked.Gang].Enqueue(answer);
        }

        private void Take(int gang, RoomAnswer answer)
        {
            if (_rounds[gang]?.Take(answer) == true)
                Go(gang);
            else if (answer.Rejection is null && !IsMeant(gang, answer.VmId, answer.HostId))
                _asked[Number(answer.HostId)].Enqueue((gang, answer.VmId, 0));
        }

        private void Audit(int host)
        {
            foreach (var vm in _held[host].ToList())
            {
                var gang = Number(vm[..vm.IndexOf('-', StringComparison.Ordinal)]);
                if (!IsMeant(gang, vm, Name(host)))
                    _asked[host].Enqueue((gang, vm, 0));
            }
        }

        private bool IsMeant(int gang, string vm, string host) =>
            _rounds[gang]?.Wants(vm, host) == true || _placed[gang]?.Any(place => place.VmId == vm && place.Host == host) == true;

        private static string Name(int host) => $"host{host}";

        private static int Number(string name) => int.Parse(name[4..], global::System.Globalization.CultureInfo.InvariantCulture);
    }
}
