using CsCheck;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Xunit;

namespace Fleet.Scheduler.Tests.Placement;

public sealed class PlacementEngineTests
{
    private static readonly HashSet<string> Nobody = [];
    private static readonly string[] Zones = ["", "a", "b", "c"];
    private static readonly string[] Teams = ["red", "blue", "green"];

    private static Inventory Machine(string zone = "", string disk = "", bool kvm = true)
    {
        var inventory = new Inventory { AutoDriver = kvm ? "kvm" : "", Drivers = { new DriverStatus { Name = "kvm", Usable = kvm, StockKernels = true } } };
        if (zone.Length > 0)
            inventory.Labels.Add("zone", zone);
        if (disk.Length > 0)
            inventory.Labels.Add("disk", disk);
        return inventory;
    }

    private static Demand Wanting(uint cpus = 1, ulong memoryMib = 128, PlacementRules? rules = null) => new(cpus, memoryMib, "auto", false, "") { Rules = rules };

    private static PlacedHost Add(PlacementEngine engine, string id, string zone = "", string disk = "", long cpus = 8, long memoryMib = 8192) =>
        engine.Put(id, Machine(zone, disk), new(cpus, memoryMib), new(cpus, memoryMib), null);

    private static string[] Choose(PlacementEngine engine, Demand demand)
    {
        var best = engine.Choose(demand, Nobody);
        var ids = new string[best.Length];
        for (var i = 0; i < ids.Length; i++)
            ids[i] = best[i].Host.Id;
        return ids;
    }

    [Fact]
    public void Should_keep_to_labels_and_zones()
    {
        var engine = new PlacementEngine();
        Add(engine, "h1", "a", "ssd");
        Add(engine, "h2", "b", "ssd");
        Add(engine, "h3", "b", "hdd");
        Assert.Equal(["h1", "h2"], Choose(engine, Wanting(rules: new() { Labels = [new("disk", "ssd")] })));
        Assert.Equal(["h2", "h3"], Choose(engine, Wanting(rules: new() { Zones = ["b", "c"] })));
        Assert.Equal(["h3"], Choose(engine, Wanting(rules: new() { Zones = ["b"], Labels = [new("disk", "hdd")] })));
        Assert.Equal(RejectionReason.Labels, engine.Refuse(Wanting(rules: new() { Labels = [new("disk", "hdd")] }), engine.Find("h1")!)?.Reason);
    }

    [Theory]
    [InlineData(RuleScope.Host, true, true, "h2,h3")]
    [InlineData(RuleScope.Host, false, true, "h1")]
    [InlineData(RuleScope.Zone, true, true, "h3")]
    [InlineData(RuleScope.Zone, false, true, "h1,h2")]
    [InlineData(RuleScope.Host, true, false, "h2,h3,h1")]
    [InlineData(RuleScope.Host, false, false, "h1,h2,h3")]
    [InlineData(RuleScope.Zone, true, false, "h3,h1,h2")]
    [InlineData(RuleScope.Zone, false, false, "h1,h2,h3")]
    public void Should_keep_rules_about_groups_and_follow_wishes(RuleScope scope, bool apart, bool hard, string expected)
    {
        var engine = new PlacementEngine();
        var first = Add(engine, "h1", "a");
        Add(engine, "h2", "a");
        Add(engine, "h3", "b");
        engine.Count(first, "red", 1);
        var demand = Wanting(rules: new() { Groups = [new("red", scope, apart, hard)] });
        Assert.Equal(expected.Split(','), Choose(engine, demand));
        // Of a group that is gone, anywhere.
        engine.Count(first, "red", -1);
        Assert.Equal(3, Choose(engine, demand).Length);
    }

    [Fact]
    public void Should_find_the_host_without_the_group_behind_many_fuller_ones_that_have_it()
    {
        var engine = new PlacementEngine();
        for (var i = 0; i < 200; i++)
        {
            var full = Add(engine, $"full{i}");
            engine.SetFree(full, new(2, 2048));
            engine.Count(full, "red", 1);
        }
        Add(engine, "empty");
        Assert.Equal("empty", Choose(engine, Wanting(rules: new() { Groups = [new("red", RuleScope.Host, Apart: true, Hard: false)] }))[0]);
        Assert.Equal(["empty"], Choose(engine, Wanting(rules: new() { Groups = [new("red", RuleScope.Host, Apart: true, Hard: true)] })));
    }

    [Fact]
    public void Should_fill_zones_evenly_and_not_wait_for_one_that_is_closed()
    {
        var engine = new PlacementEngine();
        foreach (var zone in (string[])["a", "b", "c"])
            Add(engine, zone, zone, cpus: 30);
        Add(engine, "nowhere");
        var demand = Wanting(rules: new() { Spread = new("web", 1) });
        for (var i = 0; i < 30; i++)
        {
            var chosen = engine.Find(Choose(engine, demand)[0])!;
            engine.SetFree(chosen, chosen.Free - demand.Needs);
            engine.Count(chosen, "web", 1);
        }
        Assert.All((string[])["a", "b", "c"], id => Assert.Equal(20, engine.Find(id)!.Free.Cpus));
        engine.Count(engine.Find("a")!, "web", 1);
        Assert.Equal(["b", "c"], Choose(engine, demand).Order(StringComparer.Ordinal));
        engine.Put("b", Machine("b"), new(30, 8192), new(20, 8192), RejectionReason.Cordoned);
        engine.Count(engine.Find("c")!, "web", 1);
        Assert.Equal(["a", "c"], Choose(engine, demand).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Should_not_strand_what_the_fleet_is_short_of()
    {
        var engine = new PlacementEngine();
        engine.SetFree(Add(engine, "few-cpus"), new(2, 7168));
        engine.SetFree(Add(engine, "more-cpus"), new(6, 7168));
        var demand = Wanting(cpus: 2, memoryMib: 512);
        // Where CPU is what is short, the fullest host it is.
        Assert.Equal("few-cpus", Choose(engine, demand)[0]);
        engine.SetFree(Add(engine, "no-memory"), new(8, 0));
        engine.SetFree(Add(engine, "no-memory-either"), new(8, 0));
        Assert.Equal(["more-cpus", "few-cpus"], Choose(engine, demand));
        Assert.True(engine.Parts(demand, engine.Find("more-cpus")!).Single(part => part.Key == "balance").Value <= 0);
    }

    [Fact]
    public void Should_leave_the_last_rooms_to_those_that_fit_nowhere_else()
    {
        var engine = new PlacementEngine();
        for (var i = 0; i < 100; i++)
            engine.SetFree(Add(engine, $"full{i:d2}"), default);
        engine.SetFree(Add(engine, "just-four"), new(4, 4096));
        engine.SetFree(Add(engine, "five"), new(5, 5120));
        var small = Wanting(cpus: 1, memoryMib: 1024);
        Assert.Equal("just-four", Choose(engine, small)[0]);
        var large = Wanting(cpus: 4, memoryMib: 4096);
        for (var i = 0; i < 10; i++)
        {
            Choose(engine, large);
            engine.Placed(large);
        }
        Assert.Equal("five", Choose(engine, small)[0]);
        Assert.True(Room("just-four") > Room("five") + 0.5);
        // Where many have room for such ones, it matters no more.
        for (var i = 0; i < 100; i++)
            engine.SetFree(engine.Find($"full{i:d2}")!, new(8, 8192));
        Assert.Equal("just-four", Choose(engine, small)[0]);
        engine.Remove("just-four");
        Assert.Equal("five", Choose(engine, small)[0]);

        double Room(string host) => engine.Parts(small, engine.Find(host)!).Single(part => part.Key == "room").Value;
    }

    [Fact]
    public void Should_remember_no_more_than_so_many_sizes_and_those_that_come_often()
    {
        var mix = new DemandMix();
        var scarcity = new Scarcity(new(8, 8192), new(8, 8192));
        for (var i = 0; i < 200_000; i++)
        {
            mix.Placed(new(i % 3 == 0 ? 2 : 1 + (i % 5), i % 3 == 0 ? 2048 : i), new(8, 8192), scarcity);
            Assert.True(mix.Counted <= 1025, $"{mix.Counted} after {i}");
        }
        mix.Open(new(2, 2048));
        mix.Weigh();
        Assert.True(mix.Cost(2, 2048, 1, 2048) > 0);
    }

    [Theory]
    [InlineData(20)]
    [InlineData(400)]
    public void Should_find_those_with_a_label_however_many_have_it(int labelled)
    {
        var engine = new PlacementEngine();
        for (var i = 0; i < 400; i++)
        {
            engine.SetFree(Add(engine, $"other{i:d3}"), new(2, 1024));
            if (i < labelled)
                engine.SetFree(Add(engine, $"ssd{i:d3}", disk: "ssd"), new(i == 7 ? 5 : 1, 2048));
        }
        var rules = new PlacementRules { Labels = [new("disk", "ssd")] };
        Assert.Equal(["ssd007"], Choose(engine, Wanting(cpus: 2, rules: rules)));
        Assert.All(Choose(engine, Wanting(cpus: 1, rules: rules)), id => Assert.StartsWith("ssd", id, StringComparison.Ordinal));
        Assert.Empty(Choose(engine, Wanting(cpus: 6, rules: rules)));
        engine.Remove("ssd007");
        Assert.Empty(Choose(engine, Wanting(cpus: 2, rules: rules)));
        Assert.Empty(Choose(engine, Wanting(rules: new PlacementRules { Labels = [new("disk", "tape")] })));
        // One that comes back under another label is found by that alone.
        Add(engine, "ssd003", disk: "tape");
        Assert.Equal(["ssd003"], Choose(engine, Wanting(cpus: 3, rules: new PlacementRules { Labels = [new("disk", "tape")] })));
        Assert.Empty(Choose(engine, Wanting(cpus: 3, rules: rules)));
    }

    [Fact]
    public void Should_rather_go_where_the_image_is_and_anywhere_rather_than_nowhere()
    {
        var engine = new PlacementEngine();
        for (var i = 0; i < 400; i++)
            engine.SetFree(Add(engine, $"full{i:d3}"), new(2, 2048));
        var some = Add(engine, "some");
        engine.SetFree(some, new(6, 6144));
        engine.SetImages(some, ["web:1", "db:2"]);
        var demand = Wanting() with { Image = "web:1" };
        Assert.Equal("full000", Choose(engine, Wanting())[0]);
        Assert.Equal("some", Choose(engine, demand)[0]);
        Assert.Equal([("some", 0), ("full000", 0.5)], ((string[])["some", "full000"]).Select(id => (id, engine.Parts(demand, engine.Find(id)!).Single(part => part.Key == "image").Value)));
        engine.SetFree(some, default);
        Assert.Equal("full000", Choose(engine, demand)[0]);
        engine.SetFree(some, new(6, 6144));
        engine.SetImages(some, ["db:2"]);
        Assert.Equal("full000", Choose(engine, demand)[0]);
        engine.SetImages(some, ["db:2", "web:1"]);
        engine.Remove("some");
        Assert.Null(engine.Image("web:1"));
        Assert.Null(engine.Image("db:2"));
    }

    [Fact]
    public void Should_count_every_resource()
    {
        var engine = new PlacementEngine();
        engine.Put("h", Machine(), new(8, 8192, 1000, 100, 10), new(8, 8192, 500, 50, 5), null);
        Assert.Single(Choose(engine, Wanting() with { Needs = new(1, 1, 500, 50, 5) }));
        Demand[] tooMuch = [Wanting() with { Needs = new(1, 1, 501) }, Wanting() with { Needs = new(1, 1, 0, 51) }, Wanting() with { Needs = new(1, 1, 0, 0, 6) }];
        Assert.All(tooMuch, demand => Assert.Empty(Choose(engine, demand)));
        Assert.Equal([RejectionReason.Disk, RejectionReason.Network, RejectionReason.Iops], tooMuch.Select(demand => engine.Refuse(demand, engine.Find("h")!)!.Value.Reason));
    }

    [Fact]
    public void Should_go_anywhere_where_a_host_is_not_limited()
    {
        var engine = new PlacementEngine();
        engine.Put("old", Machine(), new(8, 8192), new(8, 8192, Resources.Unlimited, Resources.Unlimited, Resources.Unlimited), null);
        engine.Put("new", Machine(), new(8, 8192, 1000), new(4, 4096, 100, Resources.Unlimited, Resources.Unlimited), null);
        var demand = Wanting() with { Needs = new(1, 1, 500, 1000, 1000) };
        Assert.Equal(["old"], Choose(engine, demand));
        Assert.Equal(["new", "old"], Choose(engine, Wanting() with { Needs = new(1, 1, 50, 1000, 1000) }));
        Assert.Equal(new(RejectionReason.Disk, 500, 100), engine.Refuse(demand, engine.Find("new")!));
        Assert.Equal((new Resources(0, 0), new Resources(4, 4096, 900)), (engine.Find("old")!.Used, engine.Find("new")!.Used));
        Assert.All(engine.Parts(demand, engine.Find("old")!), part => Assert.InRange(part.Value, -100, 100));
    }

    [Fact]
    public void Should_keep_to_architecture_kernel_and_CPU_template()
    {
        var engine = new PlacementEngine();
        void Put(string id, string architecture, string kernel, string autoDriver, params string[] templates)
        {
            var inventory = Machine().Clone();
            (inventory.Architecture, inventory.Kernel, inventory.AutoDriver) = (architecture, kernel, autoDriver);
            inventory.CpuTemplates.AddRange(templates);
            engine.Put(id, inventory, new(8, 8192), new(8, 8192), null);
        }

        Put("arm", "aarch64", "6.8.0-40-generic", "qemu");
        Put("old", "x86_64", "5.10.0-28-amd64", "kvm", "t2");
        Put("new", "x86_64", "6.12.3", "kvm", "t2", "t3");
        Put("odd", "x86_64", "mainline", "qemu", "t3");
        string[] Of(Func<Demand, Demand> with) => [.. Choose(engine, with(Wanting())).Order(StringComparer.Ordinal)];
        KernelVersion Kernel(string text) => KernelVersion.TryParse(text, out var version) ? version : throw new ArgumentException(text);
        Assert.Equal(["arm"], Of(demand => demand with { Architecture = "aarch64" }));
        Assert.Equal(["new", "odd", "old"], Of(demand => demand with { Architecture = "x86_64" }));
        Assert.Equal(["arm", "new"], Of(demand => demand with { MinKernel = Kernel("6.8") }));
        Assert.Equal(["new"], Of(demand => demand with { MinKernel = Kernel("6.12.3") }));
        Assert.Empty(Of(demand => demand with { MinKernel = Kernel("6.12.4") }));
        Assert.Equal(["new", "old"], Of(demand => demand with { CpuTemplate = "t2" }));
        // What auto picks there can't give it.
        Assert.Equal(["new"], Of(demand => demand with { CpuTemplate = "t3" }));
        Assert.Empty(Of(demand => demand with { CpuTemplate = "t4" }));
        Assert.Equal(
            [RejectionReason.Architecture, RejectionReason.Kernel, RejectionReason.CpuTemplate],
            new[] { Wanting() with { Architecture = "aarch64" }, Wanting() with { MinKernel = Kernel("6.0") }, Wanting() with { CpuTemplate = "t3" } }.Select(demand => engine.Refuse(demand, engine.Find("old")!)!.Value.Reason));
    }

    /// <summary>
    /// Long random histories of hosts that come, go, change size, zone and room, and of groups: the engine says what asking every host says, when it may
    /// look at all of them; when it may not, it still finds a host exactly when there is one, and only such that keep the rules.
    /// </summary>
    [Fact]
    public void Should_say_what_asking_every_host_says()
    {
        Gen.UInt.Array[50, 400].Sample(dice =>
        {
            var whole = new PlacementEngine(int.MaxValue);
            var sampled = new PlacementEngine(6);
            var naive = new NaivePlacement();
            foreach (var die in dice)
            {
                var id = $"h{die % 37:d2}";
                var known = naive.Hosts.GetValueOrDefault(id);
                switch (die / 37 % 8)
                {
                    case 0 or 1 or 2 when known is not null:
                        var team = Teams[die / 300 % 3];
                        var by = die / 900 % 3 == 0 ? -1 : 1;
                        naive.Count(known, team, by);
                        whole.Count(whole.Find(id)!, team, by);
                        sampled.Count(sampled.Find(id)!, team, by);
                        break;
                    case 4 when known is not null && die / 300 % 3 == 0:
                        known.Images = [.. Teams.Where((_, i) => (die >> (20 + i)) % 2 == 0)];
                        whole.SetImages(whole.Find(id)!, known.Images);
                        sampled.SetImages(sampled.Find(id)!, known.Images);
                        break;
                    case 3 when known is not null:
                        naive.Hosts.Remove(id);
                        whole.Remove(id);
                        sampled.Remove(id);
                        break;
                    case 4 when known is not null:
                        known.Free = new(die / 300 % (known.Capacity.Cpus + 1), die / 3000 % (known.Capacity.MemoryMib + 1));
                        whole.SetFree(whole.Find(id)!, known.Free);
                        sampled.SetFree(sampled.Find(id)!, known.Free);
                        break;
                    default:
                        known ??= naive.Hosts[id] = new NaiveHost(id);
                        known.Inventory = Machine(Zones[die / 300 % 4], die / 1200 % 2 == 0 ? "" : "ssd", die / 2400 % 8 != 0);
                        known.Capacity = new(8 << (int)(die / 20000 % 3), 8192 + (die / 60000 % 1000));
                        known.Free = new(die / 6000 % (known.Capacity.Cpus + 1), die / 9000 % (known.Capacity.MemoryMib + 1));
                        known.Closed = die / 12000 % 9 == 0 ? RejectionReason.Cordoned : null;
                        whole.Put(id, known.Inventory, known.Capacity, known.Free, known.Closed);
                        sampled.Put(id, known.Inventory, known.Capacity, known.Free, known.Closed);
                        break;
                }
                var demand = Random(die);
                var expected = naive.Choose(demand);
                Assert.Equal(expected.Take(PlacementEngine.Candidates), Choose(whole, demand));
                var some = Choose(sampled, demand);
                Assert.Equal(Math.Min(expected.Count, PlacementEngine.Candidates), some.Length);
                Assert.Subset(expected.ToHashSet(), some.ToHashSet());
                foreach (var host in naive.Hosts.Keys)
                    Assert.Equal(expected.Contains(host), whole.Refuse(demand, whole.Find(host)!) is null);
                if (expected.Count == 0)
                    continue;
                naive.Placed(demand);
                whole.Placed(demand);
                sampled.Placed(demand);
            }
        }, iter: 60);
    }

    private static Demand Random(uint die)
    {
        die *= 2654435761;
        var groups = Enumerable.Range(0, (int)(die >> 4) % 3).Select(i => new GroupRule(
            Teams[(die >> (5 + i)) % 3], (die >> (8 + i)) % 2 == 0 ? RuleScope.Host : RuleScope.Zone, (die >> (11 + i)) % 3 != 0, (die >> (14 + i)) % 2 == 0)
            {
                Most = (die >> (8 + i)) % 2 == 0 && (die >> (11 + i)) % 3 != 0 ? (int)(die >> (17 + i)) % 3 : 0,
            });
        return Wanting(die % 5, die % 2048, (die >> 20) % 4 == 0 ? null : new PlacementRules
        {
            Labels = (die >> 22) % 4 == 0 ? [new("disk", "ssd")] : [],
            Zones = (die >> 24) % 3 == 0 ? ["a", "c"] : [],
            Spread = (die >> 26) % 4 == 0 ? new(Teams[(die >> 28) % 3], 1 + (int)((die >> 30) % 2)) : null,
            Groups = [.. groups],
        }) with { Image = (die >> 13) % 3 == 0 ? Teams[(die >> 15) % 3] : "" };
    }
}
