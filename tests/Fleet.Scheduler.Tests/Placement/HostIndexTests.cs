using CsCheck;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Placement;

public sealed class HostIndexTests
{
    private static readonly TimeSpan Now = TimeSpan.FromMinutes(5);
    private static readonly HashSet<string> Nobody = [];

    private static HostView View(
        string id, uint cpus = 8, ulong memoryMib = 8192, uint usedCpus = 0, ulong usedMemory = 0, bool connected = true,
        ulong version = 1, string autoDriver = "qemu") => new()
        {
            HostId = id,
            Connected = connected,
            ReservedCpus = usedCpus,
            ReservedMemoryMib = usedMemory,
            Version = version,
            CpuRatio = 1,
            MemoryRatio = 1,
            Inventory = new Inventory
            {
                Cpus = cpus,
                MemoryMib = memoryMib,
                AutoDriver = autoDriver,
                Drivers =
                {
                    new DriverStatus { Name = "qemu", Usable = autoDriver.Length > 0, StockKernels = true },
                    new DriverStatus { Name = "kvm", Usable = true, StockKernels = false },
                },
            },
        };

    private static Demand Wanting(uint cpus = 1, ulong memoryMib = 128, string driver = "auto", bool ownKernel = false, string host = "") =>
        new(cpus, memoryMib, driver, ownKernel, host);

    private static HostIndex Of(params HostView[] views)
    {
        var index = new HostIndex();
        foreach (var view in views)
            index.Update(view, Now);
        return index;
    }

    /// <summary>Many that wait ask the same again and again, and hosts say the same again and again.</summary>
    [Fact]
    public void Should_remember_what_is_refused_until_a_host_says_something_new()
    {
        var index = Of(View("a"), View("b"));
        var refused = index.Find(Wanting(cpus: 9), Nobody).Rejections;
        Assert.False(index.Update(View("a"), Now + TimeSpan.FromSeconds(10)));
        Assert.Same(refused, index.Find(Wanting(cpus: 9), Nobody).Rejections);
        // It was heard all the same.
        Assert.Equal(1, index.DropSilent(Now + TimeSpan.FromSeconds(1)));
        Assert.Equal(1U, Assert.Single(index.Find(Wanting(cpus: 9), Nobody).Rejections).Hosts);
        Assert.True(index.Update(View("a", cpus: 9), Now));
        Assert.Equal(["a"], index.Find(Wanting(cpus: 9), Nobody).Hosts);
    }

    [Fact]
    public void Should_know_what_is_left_of_the_other_resources_and_what_would_have_to_be_less()
    {
        var small = View("small");
        (small.CapOther, small.FreeOther) = (new() { DiskMib = 1000, Iops = 100 }, new() { DiskMib = 300, Iops = 0 });
        var index = Of(small);
        var spec = new VmSpec { Cpus = 1, MemoryMib = 128, Driver = "auto", DiskMib = 400, NetworkMbit = 5000 };
        PlacementReview Review() => index.Review(spec, new Dictionary<string, string>());
        Assert.Equal("No host has room for 1 vCPUs, 128 MiB, 400 MiB of disk and 5000 Mbit/s of network: 1 host short of disk (wanted 400 MiB, most free 300 MiB).", Review().Reason!.Message);
        Assert.Equal([("disk_mib", 300UL, 1), ("hosts", null, 1)], Review().Changes.Select(change => (change.Field, change.Value, change.Fitting)));
        spec.DiskMib = 300;
        Assert.Null(Review().Reason);
        spec.Iops = 1;
        Assert.Equal(("iops", 0UL), Review().Changes.Select(change => (change.Field, change.Value!.Value)).First());
        Assert.Equal(Review().Reason, index.Review(spec, new Dictionary<string, string>(), briefly: true).Reason);
        Assert.Null(index.Review(new VmSpec { Cpus = 1, MemoryMib = 128, Driver = "auto" }, new Dictionary<string, string>(), briefly: true).Reason);
        spec.Architecture = "aarch64";
        Assert.Equal([RejectionReason.Architecture], Review().Rejections.Select(rejection => rejection.Reason));
        // More of any is a reason to ask again; less is not.
        var more = View("small", version: 2);
        (more.CapOther, more.FreeOther) = (small.CapOther, new() { DiskMib = 300, Iops = 10 });
        Assert.True(index.Update(more, Now));
        var less = View("small", version: 3);
        (less.CapOther, less.FreeOther) = (small.CapOther, new() { DiskMib = 200, Iops = 10 });
        Assert.False(index.Update(less, Now));
        Assert.Equal(4, index.Room(Wanting() with { Needs = new(1, 128, 50) }, 100));
    }

    [Fact]
    public void Should_keep_the_images_of_a_host_until_it_tells_others()
    {
        var there = View("b");
        there.Images = new HostImages { Names = { "web:1" } };
        var index = Of(View("a"), there);
        var demand = Wanting() with { Image = "web:1" };
        Assert.Equal(["b", "a"], index.Find(demand, Nobody).Hosts);
        index.Update(View("b", version: 2), Now);
        Assert.Equal(["b", "a"], index.Find(demand, Nobody).Hosts);
        var gone = View("b", version: 3);
        gone.Images = new HostImages();
        index.Update(gone, Now);
        Assert.Equal(["a", "b"], index.Find(demand, Nobody).Hosts);
    }

    [Fact]
    public void Should_count_room_anew_when_a_host_says_something()
    {
        var index = Of(View("a", cpus: 3), View("b", cpus: 2));
        Assert.Equal((5, 4, 5), (index.Room(Wanting(), 8), index.Room(Wanting(), 4), index.Room(Wanting(), 6)));
        Assert.Equal(2, index.Room(Wanting(cpus: 2), 8));
        index.Update(View("b", cpus: 2, usedCpus: 2, version: 2), Now);
        Assert.Equal(3, index.Room(Wanting(), 8));
        index.Update(View("b", cpus: 4, version: 3), Now);
        Assert.Equal(7, index.Room(Wanting(), 8));
        index.DropSilent(Now + TimeSpan.FromSeconds(1));
        Assert.Equal(0, index.Room(Wanting(), 8));
    }

    [Fact]
    public void Should_forget_a_host_that_was_removed()
    {
        var index = Of(View("gone"));
        Assert.Equal(["gone"], index.Find(Wanting(host: "gone"), Nobody).Hosts);
        var removed = View("gone", connected: false, version: 2);
        removed.Removed = true;
        Assert.False(index.Update(removed, Now));
        Assert.Equal(0, index.Count);
        var tally = new RejectionTally();
        foreach (var rejection in index.Find(Wanting(host: "gone"), Nobody).Rejections)
            tally.Add(rejection);
        Assert.Contains("No host named 'gone' is known", tally.Explain(Wanting(host: "gone")).Message, StringComparison.Ordinal);
        index.Update(View("gone", version: 3), Now);
        Assert.Equal(["gone"], index.Find(Wanting(host: "gone"), Nobody).Hosts);
    }

    [Fact]
    public void Should_choose_the_fullest_host_that_fits()
    {
        var index = Of(View("empty"), View("half", usedCpus: 4, usedMemory: 4096), View("full", usedCpus: 8), View("nearly", usedCpus: 7, usedMemory: 7000));
        Assert.Equal(["nearly", "half", "empty"], index.Find(Wanting(), Nobody).Hosts);
        Assert.Equal(["half", "empty"], index.Find(Wanting(cpus: 2), Nobody).Hosts);
    }

    [Fact]
    public void Should_go_by_what_predictions_leave_free_where_that_is_less()
    {
        var tight = View("tight", usedCpus: 1);
        tight.PeakRoom = new PeakRoom { Cpus = 2, MemoryMib = 200 };
        var index = Of(tight);
        Assert.Equal(["tight"], index.Find(Wanting(cpus: 2, memoryMib: 200), Nobody).Hosts);
        Assert.Equal(new Rejection { Reason = "cpu_peak", Hosts = 1, Wanted = 3, MostFree = 2 }, Assert.Single(index.Find(Wanting(cpus: 3), Nobody).Rejections));
        Assert.Equal(new Rejection { Reason = "memory_peak", Hosts = 1, Wanted = 201, MostFree = 200 }, Assert.Single(index.Find(Wanting(memoryMib: 201), Nobody).Rejections));
        tight.PeakRoom = new PeakRoom { Cpus = 20, MemoryMib = 20_000 };
        Assert.Equal("cpus", Assert.Single(index.Find(Wanting(cpus: 8), Nobody).Rejections).Reason);
    }

    private static HostView Predicted(string id, uint usedCpus, ulong freeCpus, ulong freeMemory)
    {
        var view = View(id, cpus: 4, memoryMib: 16_384, usedCpus: usedCpus);
        view.CpuRatio = 4;
        view.PeakRoom = new PeakRoom { Cpus = freeCpus, MemoryMib = freeMemory, MostCpus = 3, MostMemoryMib = 14_745 };
        return view;
    }

    /// <summary>By the ratio an empty one would have 16 vCPUs, by the prediction 3.</summary>
    [Fact]
    public void Should_name_a_host_as_one_that_would_do_only_where_predictions_would_leave_so_much_of_it()
    {
        var view = Predicted("x", usedCpus: 2, freeCpus: 1, freeMemory: 14_000);
        var index = Of(view);
        IEnumerable<(string, ulong?, int)> Changes(uint cpus, uint memoryMib = 128) =>
            index.Review(new VmSpec { Cpus = cpus, MemoryMib = memoryMib, Driver = "auto" }, new Dictionary<string, string>()).Changes.Select(change => (change.Field, change.Value, change.Fitting));
        Assert.Equal([("cpus", 1UL, 1)], Changes(4));
        Assert.Equal([("cpus", 1UL, 1), ("hosts", null, 1)], Changes(3));
        Assert.Equal([("memory_mib", 14_000UL, 1), ("hosts", null, 1)], Changes(1, 14_745));
        Assert.Equal([("memory_mib", 14_000UL, 1)], Changes(1, 14_746));
        // A node of before does not tell.
        var before = view.Clone();
        before.PeakRoom.ClearMostCpus();
        before.Version++;
        index.Update(before, Now);
        Assert.Contains(("hosts", null, 1), Changes(4));
    }

    [Fact]
    public void Should_weigh_a_host_that_is_predicted_as_one_that_has_what_predictions_leave_of_it()
    {
        var predicted = Of(Predicted("a", usedCpus: 0, freeCpus: 3, freeMemory: 2048), Predicted("b", usedCpus: 8, freeCpus: 1, freeMemory: 8192), Predicted("c", usedCpus: 0, freeCpus: 3, freeMemory: 14_745));
        HostView Plain(string id, uint usedCpus, ulong freeMemory) => View(id, cpus: 3, memoryMib: 14_745, usedCpus: usedCpus, usedMemory: 14_745 - freeMemory);
        var plain = Of(Plain("a", 0, 2048), Plain("b", 2, 8192), Plain("c", 0, 14_745));
        foreach (var demand in new[] { Wanting(), Wanting(memoryMib: 1024), Wanting(cpus: 3) })
        {
            Assert.Equal(plain.Find(demand, Nobody).Hosts, predicted.Find(demand, Nobody).Hosts);
            Assert.Equal(plain.Judge(demand, Now).Select(host => host.Cost.Sum(part => part.Value)), predicted.Judge(demand, Now).Select(host => host.Cost.Sum(part => part.Value)));
        }
    }

    [Fact]
    public void Should_not_have_others_give_way_where_even_an_empty_host_would_be_predicted_too_full()
    {
        var view = Predicted("x", usedCpus: 12, freeCpus: 0, freeMemory: 14_000);
        view.Preemptible.Add(new ClassRoom { Rank = 0, Vms = 12, Cpus = 12, MemoryMib = 1536 });
        var index = Of(view);
        PlacementReview Review(uint cpus) => index.Review(new VmSpec { Cpus = cpus, MemoryMib = 128, Driver = "auto", Priority = "high" }, new Dictionary<string, string>());
        Assert.True(Review(3) is { Preempts: true, Fitting: 1 });
        Assert.True(Review(4) is { Preempts: false, Fitting: 0, Reason.Code: "no_capacity" });
    }

    /// <summary>A wish to be with one other chooses among the hosts, and rules none out; nor does it make room for fewer.</summary>
    [Fact]
    public void Should_count_hosts_that_break_a_wish_as_hosts_that_would_do()
    {
        var index = Of(View("a"), View("b"), View("c", usedCpus: 8));
        var spec = new VmSpec { Cpus = 1, MemoryMib = 128, Driver = "auto", Placement = new PlacementWishes { Affinity = { new Affinity { Vm = "other", Within = "host", Soft = true } } } };
        var there = new Dictionary<string, string> { ["other"] = "b" };
        var review = index.Review(spec, there);
        Assert.Equal((2, "b"), (review.Fitting, review.Candidates[0].Host));
        Assert.Equal([RejectionReason.Cpus], review.Rejections.Select(rejection => rejection.Reason));
        spec.Gang = new Gang { Size = 16 };
        Assert.Null(index.Review(spec, there).Reason);
        Assert.Null(index.Review(spec, there, briefly: true).Reason);
        spec.Placement.Affinity[0].Soft = false;
        Assert.Contains("for 8 at most", index.Review(spec, there).Reason!.Message, StringComparison.Ordinal);
        Assert.Contains("for 8 at most", index.Review(spec, there, briefly: true).Reason!.Message, StringComparison.Ordinal);
    }

    /// <summary>What would make one of a gang fit is not said to make all of it fit.</summary>
    [Fact]
    public void Should_name_changes_by_which_there_is_room_for_all_of_a_gang()
    {
        var index = Of(View("a"), View("b"), View("x", autoDriver: ""));
        IEnumerable<(string, ulong?, int)> Changes(uint size, uint memoryMib)
        {
            var spec = new VmSpec { Cpus = 1, MemoryMib = memoryMib, Driver = "auto", Gang = new Gang { Size = size } };
            var review = index.Review(spec, new Dictionary<string, string>());
            Assert.NotNull(review.Reason);
            return review.Changes.Select(change => (change.Field, change.Value, change.Fitting));
        }

        Assert.Equal([("memory_mib", 2), ("hosts", 1)], Changes(3, 6000).Select(change => (change.Item1, change.Item3)));
        Assert.Equal([("memory_mib", 2)], Changes(4, 6000).Select(change => (change.Item1, change.Item3)));
        Assert.Empty(Changes(25, 128));
        // It is found to a 64th of what is wanted, and fits.
        Assert.InRange(Changes(3, 6000).First().Item2!.Value, 4096UL - (6000 / 64), 4096UL);
        Assert.InRange(Changes(2, 9000).Single().Item2!.Value, 8192UL - (9000 / 64), 8192UL);
        // Small numbers are found exactly.
        Assert.Equal(("cpus", 4U, 2), Cpus(4));

        (string, ulong?, int) Cpus(uint size)
        {
            var spec = new VmSpec { Cpus = 5, MemoryMib = 128, Driver = "auto", Gang = new Gang { Size = size } };
            return index.Review(spec, new Dictionary<string, string>()).Changes.Select(change => (change.Field, change.Value, change.Fitting)).First();
        }
    }

    /// <summary>Each wish that no host meets, alone.</summary>
    [Fact]
    public void Should_name_the_one_wish_without_which_it_would_fit()
    {
        HostView Labelled(string id)
        {
            var view = View(id);
            (view.Inventory.Architecture, view.Inventory.Kernel) = ("x86_64", "6.8.0");
            view.Inventory.Labels["pool"] = "web";
            (view.CapOther, view.FreeOther) = (new() { NetworkMbit = 1000 }, new() { NetworkMbit = 400 });
            return view;
        }

        var index = Of(Labelled("a"), Labelled("b"));
        IEnumerable<(string, ulong?, int)> Changes(Action<VmSpec> wish)
        {
            var spec = new VmSpec { Cpus = 1, MemoryMib = 128, Driver = "auto" };
            Assert.Null(index.Review(spec, new Dictionary<string, string>()).Reason);
            wish(spec);
            var review = index.Review(spec, new Dictionary<string, string>());
            Assert.NotNull(review.Reason);
            return review.Changes.Select(change => (change.Field, change.Value, change.Fitting));
        }

        Assert.Equal([("host", null, 2)], Changes(spec => spec.Host = "c"));
        Assert.Equal([("driver", null, 2)], Changes(spec => spec.Driver = "kvm"));
        Assert.Equal([("architecture", null, 2)], Changes(spec => spec.Architecture = "aarch64"));
        Assert.Equal([("min_kernel", null, 2)], Changes(spec => spec.MinKernel = "6.9"));
        Assert.Equal([("cpu_template", null, 2)], Changes(spec => spec.CpuTemplate = "T2"));
        Assert.Equal([("rate_limits", null, 2)], Changes(spec => spec.RateLimits["entropy"] = new RateLimit()));
        Assert.Equal([("host_labels.disk", null, 2)], Changes(spec =>
        {
            spec.HostLabels["disk"] = "nvme";
            spec.HostLabels["pool"] = "web";
        }));
        Assert.Equal([("network_mbit", 400UL, 2), ("hosts", null, 1)], Changes(spec => spec.NetworkMbit = 500));
        Assert.Equal([("network_mbit", 400UL, 2)], Changes(spec => spec.NetworkMbit = 1001));
        // One alone is not enough then.
        Assert.Empty(Changes(spec => (spec.Architecture, spec.MinKernel) = ("aarch64", "6.9")));
    }

    [Fact]
    public void Should_send_what_has_rate_limits_where_they_are_kept()
    {
        var limited = Wanting() with { Limited = true };
        Assert.Equal(["b"], Of(View("a"), View("b", autoDriver: "kvm")).Find(limited, Nobody).Hosts);
        var advice = Of(View("a")).Find(limited, Nobody);
        Assert.Empty(advice.Hosts);
        Assert.Equal(RejectionReason.Driver, Assert.Single(advice.Rejections).Reason);
    }

    [Fact]
    public void Should_name_at_most_three_and_the_best_three()
    {
        Gen.UInt[0, 7].Array[0, 30].Sample(used =>
        {
            var index = Of([.. used.Select((cpus, at) => View($"h{at:d2}", usedCpus: cpus))]);
            var expected = used.Select((cpus, at) => (cpus, $"h{at:d2}")).OrderByDescending(h => h.cpus).ThenBy(h => h.Item2, StringComparer.Ordinal).Take(3).Select(h => h.Item2);
            Assert.Equal(expected, index.Find(Wanting(), Nobody).Hosts);
        });
    }

    [Fact]
    public void Should_send_a_spec_where_its_labels_and_zones_say()
    {
        var views = new[] { View("a"), View("b"), View("c") };
        views[0].Inventory.Labels.Add("disk", "ssd");
        views[1].Inventory.Labels.Add("zone", "west");
        views[2].Inventory.Labels.Add("zone", "west");
        views[2].Inventory.Labels.Add("disk", "ssd");
        var index = Of(views);
        var spec = new VmSpec { Cpus = 1, MemoryMib = 128, Zones = { "east", "west" }, HostLabels = { ["disk"] = "ssd" } };
        Assert.Equal(["c"], index.Find(Demand.Of(spec), Nobody).Hosts);
        spec.Zones.Clear();
        Assert.Equal(["a", "c"], index.Find(Demand.Of(spec), Nobody).Hosts);
        spec.HostLabels["disk"] = "tape";
        var reason = Explain(index, Demand.Of(spec));
        Assert.Equal("no_capacity", reason.Code);
        Assert.Contains("3 hosts without the labels", reason.Message, StringComparison.Ordinal);
        // A host that comes back with other labels is another one.
        var relabelled = View("a", version: 2);
        relabelled.Inventory.Labels.Add("disk", "tape");
        Assert.True(index.Update(relabelled, Now));
        Assert.Equal(["a"], index.Find(Demand.Of(spec), Nobody).Hosts);
    }

    private static VmSpec Web(params Affinity[] rules) =>
        new() { Cpus = 1, MemoryMib = 128, Tenant = "acme", Placement = new PlacementWishes { Groups = { "web" }, Affinity = { rules } } };

    [Fact]
    public void Should_go_by_the_groups_that_hosts_tell_of_and_keep_tenants_apart()
    {
        var busy = View("busy", usedCpus: 4);
        busy.Groups.Add(new GroupCount { Group = "acme/web", Members = 2 });
        var index = Of(busy, View("free"));
        var apart = Web(new Affinity { Group = "web", Within = "host", Apart = true });
        Assert.Equal(["free"], index.Find(Demand.Of(apart), Nobody).Hosts);
        apart.Tenant = "evil";
        Assert.Equal(["busy", "free"], index.Find(Demand.Of(apart), Nobody).Hosts);

        // Two on a host are enough; and then its members are gone.
        var few = Web();
        few.Placement.Spread.Add(new GroupSpread { Group = "web", Over = "host", MostAhead = 2 });
        Assert.Equal(["free"], index.Find(Demand.Of(few), Nobody).Hosts);
        few.Placement.Spread[0].MostAhead = 3;
        Assert.Equal(["busy", "free"], index.Find(Demand.Of(few), Nobody).Hosts);
        Assert.True(index.Update(View("busy", usedCpus: 4, version: 2), Now));
        apart.Tenant = "acme";
        Assert.Equal(["busy", "free"], index.Find(Demand.Of(apart), Nobody).Hosts);
    }

    [Theory]
    [InlineData("host", false, true, "b")]
    [InlineData("host", true, true, "c,a")]
    [InlineData("zone", false, true, "b,c")]
    [InlineData("zone", true, true, "a")]
    [InlineData("host", false, false, "b")]
    [InlineData("zone", true, false, "a")]
    public void Should_go_by_where_one_other_is(string within, bool apart, bool hard, string expected)
    {
        var views = new[] { View("a"), View("b", usedCpus: 4, usedMemory: 4096), View("c", usedCpus: 2, usedMemory: 2048) };
        foreach (var view in views)
            view.Inventory.Labels.Add("zone", view.HostId == "a" ? "west" : "east");
        var index = Of(views);
        var spec = new VmSpec { Cpus = 1, MemoryMib = 128, Placement = new PlacementWishes { Affinity = { new Affinity { Vm = "vm-2", Within = within, Apart = apart, Soft = !hard } } } };
        IReadOnlyList<string> Hosts(string carriedBy) =>
            index.Find(Neighbours.With(Demand.Of(spec), new Dictionary<string, string> { ["vm-2"] = carriedBy }), Nobody, "vm-1", "", Now).Hosts;
        Assert.Equal(expected.Split(','), Hosts("b"));
        // One that is nowhere is no hindrance.
        Assert.Equal(["b", "c", "a"], Hosts(""));
        // Where it is there is no room for both: the wish is given up, the rule is not.
        spec.MemoryMib = within == "host" && !apart ? 5000U : 128;
        if (spec.MemoryMib == 5000)
            Assert.Equal(hard ? [] : ["c", "a"], Hosts("b"));
    }

    [Fact]
    public void Should_count_what_is_on_its_way_until_the_host_shows_it_or_it_goes_elsewhere()
    {
        HostView Zoned(string id, ulong version = 1, uint members = 0)
        {
            var view = View(id, version: version);
            view.Inventory.Labels.Add("zone", id);
            if (members > 0)
                view.Groups.Add(new GroupCount { Group = "acme/web", Members = members });
            return view;
        }

        var index = Of(Zoned("a"), Zoned("b"), Zoned("c"));
        var spec = Web();
        spec.Placement.Spread.Add(new GroupSpread { Group = "web", Over = "zone", MostAhead = 1 });
        var demand = Demand.Of(spec);
        string First(string vmId, string leaving = "") => index.Find(demand, Nobody, vmId, leaving, Now).Hosts[0];

        Assert.Equal(["a", "b", "c", "a"], new[] { First("vm-1"), First("vm-2"), First("vm-3"), First("vm-4") });
        Assert.Equal(["b", "c"], index.Find(demand, Nobody).Hosts);
        // The fourth is refused at a and asks b; the first is taken, which the view shows at once or later.
        index.Tried("vm-4", "b", 0, demand.Groups, Now);
        Assert.Equal(["a", "c"], index.Find(demand, Nobody).Hosts);
        index.Tried("vm-4", "", 0, demand.Groups, Now);
        index.Tried("vm-1", "a", 2, demand.Groups, Now);
        index.Update(Zoned("a", version: 2, members: 1), Now);
        index.Update(Zoned("b", version: 2, members: 1), Now);
        index.Tried("vm-2", "b", 2, demand.Groups, Now);
        Assert.Equal(["a", "b", "c"], index.Find(demand, Nobody).Hosts);
        // One that moves does not count where it leaves: the other zones are as full as its own.
        index.Tried("vm-3", "c", 3, demand.Groups, Now);
        index.Update(Zoned("c", version: 3, members: 2), Now);
        Assert.Equal(["a", "b"], index.Find(demand, Nobody).Hosts);
        Assert.Equal("a", First("vm-3", leaving: "c"));
        Assert.Equal(["a", "b", "c"], index.Find(demand, Nobody, "vm-3", "c", Now).Hosts);
        index.Tried("vm-3", "", 0, demand.Groups, Now);
        Assert.Equal(["a", "b"], index.Find(demand, Nobody).Hosts);

        // Whoever asked and was never heard of again does not count for ever.
        Assert.Equal("a", First("vm-5"));
        Assert.Equal(["b"], index.Find(demand, Nobody).Hosts);
        index.DropSilent(Now);
        Assert.Equal(["b"], index.Find(demand, Nobody).Hosts);
        foreach (var view in new[] { Zoned("a", 4, 1), Zoned("b", 4, 1), Zoned("c", 4, 2) })
            index.Update(view, Now + TimeSpan.FromSeconds(1));
        index.DropSilent(Now + TimeSpan.FromSeconds(1));
        Assert.Equal(["a", "b"], index.Find(demand, Nobody).Hosts);
    }

    [Fact]
    public void Should_leave_out_those_that_said_no()
    {
        var index = Of(View("a"), View("b"));
        Assert.Equal(["b"], index.Find(Wanting(), new HashSet<string> { "a" }).Hosts);
    }

    [Theory]
    [InlineData("auto", false, "qemu", true)]
    [InlineData("auto", false, "", false)]
    [InlineData("kvm", false, "qemu", false)]
    [InlineData("kvm", true, "qemu", true)]
    [InlineData("qemu", false, "qemu", true)]
    [InlineData("simulated", false, "qemu", false)]
    public void Should_know_which_driver_boots_which_kernel(string driver, bool ownKernel, string autoDriver, bool fits)
    {
        var advice = Of(View("a", autoDriver: autoDriver)).Find(Wanting(driver: driver, ownKernel: ownKernel), Nobody);
        Assert.Equal(fits, advice.Hosts.Count == 1);
        Assert.Equal(fits ? null : "driver", advice.Rejections.SingleOrDefault()?.Reason);
    }

    [Fact]
    public void Should_keep_the_newer_view_when_the_older_comes_late()
    {
        var index = Of(View("a", usedCpus: 8, version: 5));
        Assert.False(index.Update(View("a", version: 4), Now));
        Assert.Empty(index.Find(Wanting(), Nobody).Hosts);
    }

    [Fact]
    public void Should_wake_waiting_microVMs_only_when_there_is_more_room()
    {
        var index = new HostIndex();
        Assert.True(index.Update(View("a", usedCpus: 4), Now));
        Assert.False(index.Update(View("a", usedCpus: 5, version: 2), Now));
        Assert.True(index.Update(View("a", usedCpus: 4, version: 3), Now));
        Assert.False(index.Update(View("a", connected: false, version: 4), Now));
        Assert.True(index.Update(View("a", usedCpus: 4, version: 5), Now));
    }

    [Fact]
    public void Should_pass_by_a_host_in_quarantine_and_wake_those_that_wait_when_it_is_over()
    {
        var quarantined = View("a", version: 2);
        quarantined.Quarantined = true;
        var index = Of(View("a"), View("b", usedCpus: 8));
        Assert.False(index.Update(quarantined, Now));
        Assert.Equal(["cpus", "quarantined"], index.Find(Wanting(), Nobody).Rejections.Select(one => one.Reason));
        Assert.True(index.Update(View("a", version: 3), Now));
        Assert.Equal(["a"], index.Find(Wanting(), Nobody).Hosts);
    }

    [Fact]
    public void Should_forget_hosts_that_say_nothing()
    {
        var index = Of(View("a"));
        index.Update(View("b"), Now + TimeSpan.FromSeconds(30));
        Assert.Equal(1, index.DropSilent(Now + TimeSpan.FromSeconds(10)));
        Assert.Equal(["b"], index.Find(Wanting(), Nobody).Hosts);
    }

    [Fact]
    public void Should_explain_a_full_cell_with_numbers()
    {
        var demand = Wanting(cpus: 2, memoryMib: 4096);
        var index = Of(View("a", usedMemory: 7168), View("b", usedMemory: 6144), View("c", usedCpus: 7), View("d", connected: false), View("e", autoDriver: ""));
        var reason = Explain(index, demand);
        Assert.Equal("no_capacity", reason.Code);
        Assert.Contains("2 vCPUs and 4096 MiB", reason.Message, StringComparison.Ordinal);
        Assert.Contains("2 hosts short of memory (wanted 4096 MiB, most free 2048 MiB)", reason.Message, StringComparison.Ordinal);
        Assert.Contains("1 host short of vCPUs (wanted 2, most free 1)", reason.Message, StringComparison.Ordinal);
        Assert.Contains("1 host not connected", reason.Message, StringComparison.Ordinal);
        Assert.Contains("1 host without the driver", reason.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("", "auto", "no_hosts")]
    [InlineData("d", "auto", "host_not_found")]
    [InlineData("nobody", "auto", "host_not_found")]
    public void Should_tell_an_empty_cell_from_a_full_one(string host, string driver, string code) =>
        Assert.Equal(code, Explain(Of(View("d", connected: false)), Wanting(host: host, driver: driver)).Code);

    [Fact]
    public void Should_say_when_it_is_the_driver_that_is_missing() =>
        Assert.Equal("no_driver", Explain(Of(View("a"), View("b", connected: false)), Wanting(driver: "kvm")).Code);

    private static Reason Explain(HostIndex index, Demand demand)
    {
        var tally = new RejectionTally();
        foreach (var rejection in index.Find(demand, Nobody).Rejections)
            tally.Add(rejection);
        return tally.Explain(demand);
    }
}
