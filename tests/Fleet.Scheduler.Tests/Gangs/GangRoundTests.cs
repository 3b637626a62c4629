using CsCheck;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Gangs;
using Fleet.Scheduler.Hosts;
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
        Assert.True(round.Wants("train-0", "a", 1));
        Assert.True(round.Wants("train-0", "a", 0), "its host does not know of rounds");
        Assert.False(round.Wants("train-0", "a", 7), "that is held for another round");
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
    /// Gangs race for the room of hosts whose views are old; answers come late, twice or never, coordinators die or move, and words of different senders overtake each other.
    /// Members are stopped and started meanwhile and look for themselves. None is ever placed in part, no host promises more than it has, whoever was told of room finds it and
    /// keeps it, and in the end nobody holds what he has no use for.
    /// </summary>
    [Fact]
    public void Should_place_all_of_a_gang_or_none_whatever_is_lost_and_whoever_dies_or_leaves()
    {
        Gen.Select(Gen.Int[1, 5].Array[2, 3], Gen.Int[0, 4].Array[1, 4], Gen.Int[0, 1399].Array[0, 350]).Sample(
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
                Assert.Equal(world.Taken.Order(), world.Held.Order());
                // Whom there is room for alone it has, when nobody else asks.
                world.RunAlone();
                world.Check();
                var left = rooms.Sum() - world.Held.Count();
                Assert.All(sizes.Where((_, gang) => !world.IsPlaced(gang) && world.IsComplete(gang)), size => Assert.True(size > left, $"{size} wait, and there is room for {left}"));
            },
            iter: 4000);
    }

    private static RoomAnswer Yes(string vmId, string host, ulong round = 1) => new() { VmId = vmId, HostId = host, Epoch = GangRound.Epoch, Round = round };

    private static GangMember[] Members(string name, int size) => [.. Enumerable.Range(0, size).Select(index => new GangMember(
        $"{name}-{index}", new VmSpec { Cpus = 1, MemoryMib = 128, Gang = new Gang { Name = name, Size = (uint)size, Index = (uint)index } }))];

    /// <summary>What the actors around a round do, over a network that the test drives: in order from one sender to one host, and in no other.</summary>
    private sealed class World(int[] sizes, int[] rooms)
    {
        private enum What
        {
            Reserve,
            GiveBack,
            Launch,
        }

        /// <param name="Gang">Whose it is about.</param>
        /// <param name="Vm">The member.</param>
        /// <param name="What">What is wanted.</param>
        /// <param name="Round">For which; null: the member itself gives back. A member itself asks for 0.</param>
        private sealed record Word(int Gang, string Vm, What What, ulong? Round);

        private readonly GangRound?[] _rounds = new GangRound?[sizes.Length];
        private readonly int[] _moves = new int[sizes.Length];
        private ulong _begun;
        private readonly IReadOnlyList<GangPlace>?[] _placed = new IReadOnlyList<GangPlace>?[sizes.Length];
        private readonly Dictionary<string, Reservation>[] _held = [.. rooms.Select(_ => new Dictionary<string, Reservation>(StringComparer.Ordinal))];

        // To each host, by sender.
        private readonly SortedDictionary<string, Queue<Word>>[] _words = [.. rooms.Select(_ => new SortedDictionary<string, Queue<Word>>(StringComparer.Ordinal))];
        private readonly Queue<RoomAnswer>[] _answers = [.. sizes.Select(_ => new Queue<RoomAnswer>())];

        // Members that were stopped and started: the host that each asks; empty: none.
        private readonly Dictionary<string, string> _alone = new(StringComparer.Ordinal);
        private readonly Queue<RoomAnswer> _ownAnswers = [];
        private readonly Dictionary<string, string> _taken = new(StringComparer.Ordinal);
        private readonly HashSet<string> _running = new(StringComparer.Ordinal);
        private readonly HashSet<string> _declined = new(StringComparer.Ordinal);

        public IEnumerable<(string VmId, string Host)> Held => _held.SelectMany((held, host) => held.Keys.Select(vm => (vm, Name(host))));

        /// <summary>Where each member is that has a place.</summary>
        public IEnumerable<(string VmId, string Host)> Taken => _taken.Select(place => (place.Key, place.Value));

        public bool IsPlaced(int gang) => _placed[gang] is not null;

        public bool IsComplete(int gang) => !Enumerable.Range(0, sizes[gang]).Any(index => _alone.ContainsKey(Vm(gang, index)));

        public void Step(int step)
        {
            var (gang, host, pick) = (step % sizes.Length, step / 10 % rooms.Length, step % 11);
            var vm = Vm(gang, pick % sizes[gang]);
            switch (step / 100)
            {
                case 0:
                    Begin(gang);
                    break;
                case 1 when step % 7 == 0:
                    // Its coordinator dies; what it held nobody knows.
                    Succeed(gang);
                    break;
                case 1 when step % 7 == 1:
                    // It moves: the next one's words may come before its own.
                    GiveBack(gang);
                    Succeed(gang);
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
                case 6 when step % 3 == 0 && !_taken.ContainsKey(vm):
                    _alone.TryAdd(vm, "");
                    break;
                case 7:
                    Search(gang, vm, host);
                    break;
                case 8:
                    TakePlace(gang, vm);
                    break;
                case 9 when _ownAnswers.TryDequeue(out var own):
                    TakeOwn(own);
                    break;
                case < 12:
                    AtHost(host, pick);
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
                Assert.All(places.Where(place => !_alone.ContainsKey(place.VmId)), place => Assert.Contains((place.VmId, place.Host), Held));
            }
            Assert.All(Taken, place => Assert.Contains(place, Held));
        }

        /// <summary>Every message arrives, every round comes to its end, and each host asks about all that it holds.</summary>
        public void Settle()
        {
            Drain();
            for (var host = 0; host < rooms.Length; host++)
                Audit(host);
            Drain();
        }

        private void Drain()
        {
            do
            {
                for (var host = 0; host < rooms.Length; host++)
                    AtHost(host, 0);
                if (_ownAnswers.TryDequeue(out var own))
                    TakeOwn(own);
                for (var gang = 0; gang < sizes.Length; gang++)
                {
                    if (_answers[gang].TryDequeue(out var answer))
                        Take(gang, answer);
                    else if (_rounds[gang] is { } round && _words.All(senders => senders.Values.All(queue => queue.All(word => word.Gang != gang))))
                    {
                        round.Overdue();
                        Go(gang);
                    }
                    for (var index = 0; index < sizes[gang]; index++)
                        TakePlace(gang, Vm(gang, index));
                }
            }
            while (_words.Any(senders => senders.Count > 0) || _answers.Any(queue => queue.Count > 0) || _ownAnswers.Count > 0 || _rounds.Any(round => round is not null));
        }

        public void RunAlone()
        {
            for (var gang = 0; gang < sizes.Length; gang++)
            {
                Begin(gang);
                Settle();
            }
        }

        private void Begin(int gang)
        {
            if (_placed[gang] is not null || _rounds[gang] is not null || !IsComplete(gang))
                return;
            _rounds[gang] = new GangRound(++_begun, Members($"gang{gang}", sizes[gang]), new Dictionary<string, string>());
            Go(gang);
        }

        private void Succeed(int gang)
        {
            _rounds[gang] = null;
            _moves[gang]++;
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
                        Say(gang, reserve.Host, new Word(gang, round.Member.VmId, What.Reserve, round.Number));
                        return;
                    case GangStep.Whole:
                        _placed[gang] = [.. round.Held];
                        _rounds[gang] = null;
                        return;
                    default:
                        GiveBack(gang);
                        _rounds[gang] = null;
                        return;
                }
            }
        }

        private void GiveBack(int gang)
        {
            if (_rounds[gang] is not { } round)
                return;
            foreach (var place in round.Held)
                Say(gang, place.Host, new Word(gang, place.VmId, What.GiveBack, place.Round));
            if (round.Search is { Asking.Length: > 0 } search)
                Say(gang, search.Asking, new Word(gang, round.Member.VmId, What.GiveBack, round.Number));
        }

        private void Say(int gang, string host, Word word) => Say($"gang{gang}.{_moves[gang]}", host, word);

        private void Say(string sender, string host, Word word)
        {
            var senders = _words[Number(host)];
            if (!senders.TryGetValue(sender, out var queue))
                senders[sender] = queue = [];
            queue.Enqueue(word);
        }

        private void AtHost(int host, int pick)
        {
            if (_words[host].Count == 0)
                return;
            var (sender, queue) = _words[host].ElementAt(pick % _words[host].Count);
            var word = queue.Dequeue();
            if (queue.Count == 0)
                _words[host].Remove(sender);
            var held = _held[host].GetValueOrDefault(word.Vm);
            switch (word.What)
            {
                case What.Launch:
                    Assert.True(held is not null, "the room of one that was placed is gone");
                    _running.Add(word.Vm);
                    break;
                case What.GiveBack:
                    var verdict = new PlacementVerdict();
                    if (word.Round is { } of)
                        verdict.Round = of;
                    if (held?.Goes(verdict, _running.Contains(word.Vm) && _taken[word.Vm] == Name(host)) == true)
                        _held[host].Remove(word.Vm);
                    break;
                default:
                    var answer = Yes(word.Vm, Name(host), word.Round!.Value);
                    if (held is null ? _held[host].Count == rooms[host] : !held.IsFor(word.Round.Value))
                        answer.Rejection = new Rejection { Reason = RejectionReason.Cpus, Hosts = 1, Wanted = 1 };
                    else if (held is null)
                        _held[host].Add(word.Vm, new Reservation(word.Vm, GangRound.Epoch, 1, 128, Vacated: false) { Round = word.Round.Value });
                    (word.Round == 0 ? _ownAnswers : _answers[word.Gang]).Enqueue(answer);
                    break;
            }
        }

        private void Take(int gang, RoomAnswer answer)
        {
            if (_rounds[gang]?.Take(answer) == true)
                Go(gang);
            else if (answer.Rejection is null && !IsMeant(gang, answer.VmId, answer.HostId, answer.Round))
                Say(gang, answer.HostId, new Word(gang, answer.VmId, What.GiveBack, answer.Round));
        }

        // --- a member ---

        private void Search(int gang, string vm, int host)
        {
            if (_taken.ContainsKey(vm) || _alone.GetValueOrDefault(vm) is not "")
                return;
            _alone[vm] = Name(host);
            Say(vm, Name(host), new Word(gang, vm, What.Reserve, 0));
        }

        private void TakeOwn(RoomAnswer answer)
        {
            Assert.Equal(_alone[answer.VmId], answer.HostId);
            _alone[answer.VmId] = "";
            if (answer.Rejection is null)
                Launch(GangOf(answer.VmId), answer.VmId, answer.HostId);
        }

        private void TakePlace(int gang, string vm)
        {
            if (_placed[gang]?.Single(place => place.VmId == vm) is not { } place || _taken.GetValueOrDefault(vm) == place.Host)
                return;
            if (_alone.ContainsKey(vm))
            {
                // Told once: the gang says it again only to who waits.
                if (_declined.Add(vm))
                    Say(vm, place.Host, new Word(gang, vm, What.GiveBack, place.Round));
                return;
            }
            Launch(gang, vm, place.Host);
        }

        private void Launch(int gang, string vm, string host)
        {
            _taken.Add(vm, host);
            Say(vm, host, new Word(gang, vm, What.Launch, null));
        }

        private void Audit(int host)
        {
            foreach (var (vm, held) in _held[host].ToList())
            {
                var gang = GangOf(vm);
                if (_taken.TryGetValue(vm, out var at) ? at == Name(host) : _alone.GetValueOrDefault(vm) == Name(host))
                    continue;
                if (_taken.ContainsKey(vm) || _alone.ContainsKey(vm))
                    Say(vm, Name(host), new Word(gang, vm, What.GiveBack, null));
                else if (!IsMeant(gang, vm, Name(host), held.Round))
                    Say(gang, Name(host), new Word(gang, vm, What.GiveBack, held.Round));
            }
        }

        private bool IsMeant(int gang, string vm, string host, ulong round) =>
            _rounds[gang]?.Wants(vm, host, round) == true || _placed[gang]?.Any(place => place.VmId == vm && place.Host == host) == true;

        private static string Vm(int gang, int index) => $"gang{gang}-{index}";

        private static int GangOf(string vm) => Number(vm[..vm.IndexOf('-', StringComparison.Ordinal)]);

        private static string Name(int host) => $"host{host}";

        private static int Number(string name) => int.Parse(name[4..], global::System.Globalization.CultureInfo.InvariantCulture);
    }
}
