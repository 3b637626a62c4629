using CsCheck;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Vms;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Xunit;

namespace Fleet.Scheduler.Tests.Placement;

/// <summary>Ten nodes with views of their own, as old as chance has it, and many that look for a host at once: the hosts' ledgers alone decide.</summary>
public sealed class RaceTests
{
    private static readonly CapacityCaps Caps = new(1, 1);
    private static readonly TimeSpan Now = TimeSpan.FromMinutes(5);

    [Fact]
    public void Should_give_the_last_slot_to_exactly_one_of_200_on_10_nodes() => Gen.Int[0, int.MaxValue].Sample(
        seed =>
        {
            var cell = new Cell(new Random(seed), hosts: 20, cpusOfEach: 4);
            // All is taken but one slot, and no node knows where.
            cell.Fill(leaving: 1);
            cell.ShowAll();
            cell.Fill(leaving: 1, moving: true);
            var searches = Enumerable.Range(0, 200).Select(i => cell.Begin($"vm-{i}", node: i % 10)).ToList();
            cell.Run(searches, between: static () => { });
            if (searches.All(search => search.Host.Length == 0))
            {
                // Word of it came to no node in time; they try again when it does.
                cell.ShowAll();
                searches = [.. searches.Select(search => cell.Begin(search.Id, search.Node))];
                cell.Run(searches, between: static () => { });
            }
            Assert.Equal(1, searches.Count(search => search.Host.Length > 0));
            Assert.All(searches, search => Assert.True(search.Search.Asked.Count <= PlacementSearch.MostRefusals));
            Assert.All(searches.Where(search => search.Host.Length == 0), search => Assert.Equal("no_capacity", search.Search.Explain().Code));
            cell.Check();
        },
        iter: 30);

    [Fact]
    public void Should_never_promise_more_than_there_is_while_hosts_join_leave_and_change_size() => Gen.Int[0, int.MaxValue].Sample(
        seed =>
        {
            var random = new Random(seed);
            var cell = new Cell(random, hosts: 12, cpusOfEach: 4);
            cell.ShowAll();
            for (var round = 0; round < 6; round++)
            {
                var searches = Enumerable.Range(0, 40).Select(i => cell.Begin($"vm-{round}-{i}", node: random.Next(10))).ToList();
                cell.Run(searches, between: () => cell.Change());
                cell.Check();
            }
            // When every node knows how it is, whoever has room is found.
            cell.ShowAll();
            for (var i = 0; cell.Free > 0; i++)
            {
                var last = cell.Begin($"vm-last-{i}", node: random.Next(10));
                cell.Run([last], between: static () => { });
                Assert.NotEqual("", last.Host);
                cell.ShowAll();
            }
            cell.Check();
        },
        iter: 60);

    /// <summary>Each node knows the hosts as they were at another moment, all of them since changed, and hears nothing more: that costs questions, a bounded number, and nothing else.</summary>
    [Fact]
    public void Should_cost_questions_alone_that_no_two_nodes_know_the_same_and_none_what_is() => Gen.Int[0, int.MaxValue].Sample(
        seed =>
        {
            var random = new Random(seed);
            var cell = new Cell(random, hosts: 24, cpusOfEach: 4);
            cell.Fill(leaving: 24);
            cell.Disagree();
            var searches = Enumerable.Range(0, 60).Select(i => cell.Begin($"vm-{i}", node: i % 10)).ToList();
            cell.Run(searches, between: static () => { }, deaf: true);
            cell.Check();
            Assert.All(searches, search => Assert.InRange(search.Search.Asked.Count, 0, PlacementSearch.MostRefusals));
            Assert.True(searches.Sum(search => search.Search.Asked.Count) > searches.Count(search => search.Host.Length > 0), "Nobody was ever refused.");
            Assert.All(searches.Where(search => search.Host.Length == 0), search => Assert.Equal("no_capacity", search.Search.Explain().Code));
            // Those that found none try again, and the cell is full to the last slot as soon as the nodes know how it is.
            foreach (var waiting in searches.Where(search => search.Host.Length == 0))
            {
                cell.ShowAll();
                var (room, again) = (cell.Free > 0, cell.Begin(waiting.Id, waiting.Node));
                cell.Run([again], between: static () => { });
                Assert.Equal(room, again.Host.Length > 0);
            }
            Assert.Equal(0, cell.Free);
            cell.Check();
        },
        iter: 60);

    private sealed class Placer(string id, int node, PlacementSearch search)
    {
        public string Id => id;

        public int Node => node;

        public PlacementSearch Search => search;

        public string Host { get; set; } = "";

        public bool IsOver { get; set; }

        public bool HasAdvice { get; set; }
    }

    private sealed class Host(uint cpus)
    {
        public uint Cpus { get; set; } = cpus;

        public ulong Version { get; set; } = 1;

        public bool Left { get; set; }

        public CapacityLedger Ledger { get; } = new();

        public Inventory Inventory => new()
        {
            Cpus = Cpus,
            MemoryMib = 65_536,
            AutoDriver = "qemu",
            Drivers = { new DriverStatus { Name = "qemu", Usable = true, StockKernels = true } },
        };

        /// <summary>The most that was promised at once since its size last changed, or what was there then.</summary>
        public ulong Bound { get; set; } = cpus;
    }

    private sealed class Cell
    {
        private readonly Random _random;
        private readonly HostIndex[] _nodes = [.. Enumerable.Range(0, 10).Select(_ => new HostIndex())];
        private readonly SortedDictionary<string, Host> _hosts = new(StringComparer.Ordinal);
        private readonly List<HostView> _told = [];
        private int _last;

        public Cell(Random random, int hosts, uint cpusOfEach)
        {
            _random = random;
            for (var i = 0; i < hosts; i++)
                Join(cpusOfEach);
        }

        public long Free => _hosts.Values.Where(host => !host.Left).Sum(host => Math.Max(0, (long)host.Cpus - (long)host.Ledger.ReservedCpus));

        public void ShowAll()
        {
            foreach (var (id, host) in _hosts)
            {
                foreach (var node in _nodes)
                    node.Update(View(id, host), Now);
            }
            _told.Clear();
        }

        /// <summary>Every slot is taken but so many, on one host.</summary>
        public void Fill(int leaving, bool moving = false)
        {
            if (moving)
            {
                // The slot that all know of is taken, and another one is free.
                var open = _hosts.First(host => host.Value.Ledger.ReservedCpus < host.Value.Cpus).Value;
                var other = _hosts.Where(host => host.Value != open).ElementAt(_random.Next(_hosts.Count - 1)).Value;
                Reserve(open, "late");
                var gone = other.Ledger.Reservations.First();
                Release(other, gone);
                Tell(_hosts.First(host => host.Value == open).Key);
                Tell(_hosts.First(host => host.Value == other).Key);
                return;
            }
            while (Free > leaving)
                Reserve(_hosts.Values.First(host => host.Ledger.ReservedCpus < host.Cpus), $"old-{_last++}");
        }

        /// <summary>Shows each node all hosts, and changes them after each: no two know the same, and none knows what is.</summary>
        public void Disagree()
        {
            foreach (var node in _nodes)
            {
                foreach (var (id, host) in _hosts)
                    node.Update(View(id, host), Now);
                for (var i = 0; i < 20; i++)
                {
                    var there = _hosts.ElementAt(_random.Next(_hosts.Count)).Value;
                    if (there.Ledger.Reservations.ElementAtOrDefault(_random.Next((int)there.Cpus)) is not { } gone)
                        continue;
                    Release(there, gone);
                    // As much is free afterwards, mostly elsewhere.
                    var open = _hosts.Values.Where(host => host.Ledger.ReservedCpus < host.Cpus).ToList();
                    Reserve(open[_random.Next(open.Count)], $"old-{_last++}");
                }
            }
        }

        public Placer Begin(string id, int node) => new(id, node, new PlacementSearch(Demand.Of(Spec), 1, []));

        /// <summary>All of them until each has a host or none, a step of one at a time; what hosts tell comes to each node when chance has it, or where they are deaf not at all.</summary>
        public void Run(IReadOnlyList<Placer> placers, Action between, bool deaf = false)
        {
            var open = placers.ToList();
            while (open.Count > 0)
            {
                var placer = open[_random.Next(open.Count)];
                Step(placer);
                if (placer.IsOver)
                    open.Remove(placer);
                if (!deaf && _told.Count > 0 && _random.Next(3) == 0)
                    _nodes[_random.Next(_nodes.Length)].Update(_told[_random.Next(_told.Count)], Now);
                if (_random.Next(8) == 0)
                    between();
            }
        }

        /// <summary>A host joins, leaves, or comes back larger or smaller.</summary>
        public void Change()
        {
            var (id, host) = _hosts.ElementAt(_random.Next(_hosts.Count));
            switch (_random.Next(4))
            {
                case 0 when _hosts.Count < 30:
                    Join((uint)_random.Next(1, 8));
                    return;
                case 1:
                    host.Left = !host.Left;
                    break;
                default:
                    host.Cpus = (uint)_random.Next(1, 10);
                    host.Bound = Math.Max(host.Cpus, host.Ledger.ReservedCpus);
                    break;
            }
            host.Version++;
            Tell(id);
        }

        public void Check()
        {
            var carried = _hosts.Values.SelectMany(host => host.Ledger.Reservations.Select(held => held.VmId)).ToList();
            Assert.Equal(carried.Count, carried.Distinct().Count());
            foreach (var host in _hosts.Values)
            {
                Assert.Equal(host.Ledger.Reservations.Sum(held => held.Cpus), (long)host.Ledger.ReservedCpus);
                Assert.True(host.Ledger.ReservedCpus <= host.Bound, $"{host.Ledger.ReservedCpus} of {host.Cpus}");
            }
        }

        private static VmSpec Spec => new() { Cpus = 1, MemoryMib = 1, Driver = "auto" };

        private void Join(uint cpus)
        {
            var id = $"host-{_hosts.Count:d2}";
            _hosts.Add(id, new Host(cpus));
            Tell(id);
        }

        private void Step(Placer placer)
        {
            if (placer.Search.Asking.Length > 0)
            {
                Answer(placer);
                return;
            }
            if (placer.HasAdvice && placer.Search.Next() is not null)
                return;
            if (placer.Search.MaySearchOn)
            {
                placer.Search.Take(_nodes[placer.Node].Find(placer.Search.Demand, placer.Search.Asked));
                placer.HasAdvice = true;
                return;
            }
            placer.IsOver = true;
        }

        private void Answer(Placer placer)
        {
            var id = placer.Search.Asking;
            var host = _hosts[id];
            var rejection = host.Left
                ? new Rejection { Reason = RejectionReason.Disconnected, Hosts = 1 }
                : host.Ledger.Check(placer.Search.Demand, host.Inventory, Caps);
            if (rejection is not null)
            {
                placer.Search.Refused(rejection);
                return;
            }
            Reserve(host, placer.Id);
            Tell(id);
            (placer.Host, placer.IsOver) = (id, true);
        }

        private static void Release(Host host, Reservation gone)
        {
            host.Ledger.Apply(new HostReleased { VmId = gone.VmId, Epoch = 1, WasReserved = true, Cpus = 1, MemoryMib = 1 });
            host.Version++;
        }

        private static void Reserve(Host host, string vmId)
        {
            host.Ledger.Apply(new HostReserved { VmId = vmId, Epoch = 1, Cpus = 1, MemoryMib = 1 });
            host.Version++;
        }

        private void Tell(string id) => _told.Add(View(id, _hosts[id]));

        private static HostView View(string id, Host host) => new()
        {
            HostId = id,
            Connected = !host.Left,
            ReservedCpus = (uint)host.Ledger.ReservedCpus,
            ReservedMemoryMib = host.Ledger.ReservedMemoryMib,
            Version = host.Version,
            CpuRatio = Caps.CpuRatio,
            MemoryRatio = Caps.MemoryRatio,
            Inventory = host.Inventory,
        };
    }
}
