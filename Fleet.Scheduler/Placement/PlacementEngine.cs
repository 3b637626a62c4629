using System.Runtime.InteropServices;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Placement;

/// <summary>Why a host won't do.</summary>
/// <param name="Reason">See <see cref="RejectionReason"/>.</param>
/// <param name="Wanted">vCPUs, MiB and so on that were wanted, where it is about them.</param>
/// <param name="Free">... and what there is.</param>
public readonly record struct Refusal(string Reason, ulong Wanted = 0, ulong Free = 0);

/// <summary>
/// Chooses hosts, by filters and scores. The cost of a choice follows the number of classes of hosts, not of hosts: only the
/// most promising few that have room are scored. Not safe for several threads.
/// </summary>
/// <param name="sample">
/// Hosts that are scored for one choice at most, over all classes, with wishes at least <see cref="Candidates"/> of each; in a small fleet up to three times as many.
/// <see cref="int.MaxValue"/>: every host that has room.
/// </param>
public sealed class PlacementEngine(int sample = PlacementEngine.Sample)
{
    /// <summary>A few, so that a stale view costs a second question and not a second search.</summary>
    public const int Candidates = 3;

    /// <summary>More finds hardly better places (docs/benchmarks.md, "packing") and costs more than the search itself.</summary>
    public const int Sample = 32;

    /// <summary>Hosts from which on <see cref="Sample"/> is enough: among fewer the best ones differ more, and a search has less to pass over.</summary>
    private const int Many = 3000;

    /// <summary>Classes of which all cells are put in order, where hosts are not <see cref="Many"/>: that costs the square of the cells.</summary>
    private const int FewClasses = 4;

    private readonly Dictionary<string, PlacedHost> _hosts = new(StringComparer.Ordinal);
    /// <summary>Hosts with a label that are asked one by one; of more, as many of those with room as it takes.</summary>
    private const int Rare = 256;

    private readonly Dictionary<KeyValuePair<string, string>, HashSet<PlacedHost>> _byLabel = [];
    private readonly Dictionary<string, PlacedImage> _images = new(StringComparer.Ordinal);
    private readonly Dictionary<string, HostClass> _classByKey = new(StringComparer.Ordinal);
    private readonly List<HostClass> _classes = [];
    private readonly Dictionary<string, PlacedGroup> _groups = new(StringComparer.Ordinal);
    private readonly Dictionary<string, int> _openByZone = new(StringComparer.Ordinal);
    private readonly DemandMix _mix = new();
    private PlacementSurvey? _survey;
    private Resources _capacity;
    private Resources _used;
    private Scarcity _scarcity;

    public int Hosts => _hosts.Count;

    internal IReadOnlyDictionary<string, int> OpenByZone => _openByZone;

    internal PlacedGroup? Group(string name) => _groups.GetValueOrDefault(name);

    internal PlacedImage? Image(string name) => _images.GetValueOrDefault(name);

    private int MostScored => sample == int.MaxValue ? sample : (int)Math.Clamp((long)sample * Many / Math.Max(1, Hosts), sample, 3L * sample);

    /// <summary>As it is for the demand that is asked about.</summary>
    internal ref readonly Scarcity Scarcity => ref _scarcity;

    /// <summary>Likewise.</summary>
    internal DemandMix Mix => _mix;

    public PlacedHost? Find(string host) => _hosts.GetValueOrDefault(host);

    /// <summary>Takes a host as it now is, known or not.</summary>
    /// <param name="id">Its name.</param>
    /// <param name="inventory">Its drivers and labels; not to be changed.</param>
    /// <param name="capacity">All that it may promise.</param>
    /// <param name="free">What of it is not promised.</param>
    /// <param name="closed">Why it takes nothing; null: it does.</param>
    public PlacedHost Put(string id, Inventory inventory, in Resources capacity, in Resources free, string? closed)
    {
        ArgumentNullException.ThrowIfNull(inventory);
        ref var known = ref CollectionsMarshal.GetValueRefOrAddDefault(_hosts, id, out _);
        if (known is null)
        {
            known = new PlacedHost(id);
            Join(known, inventory, capacity);
        }
        else
        {
            Shut(known);
            // Its actor tells of each reservation: the same inventory is the common case.
            if (capacity != known.Capacity || !inventory.Equals(known.Inventory))
            {
                // Its zone may be another one then.
                KeyValuePair<PlacedGroup, int>[] groups = [.. known.Groups];
                foreach (var (group, count) in groups)
                    Count(known, group, -count);
                Leave(known);
                Join(known, inventory, capacity);
                foreach (var (group, count) in groups)
                    Count(known, group.Name, count);
            }
        }
        known.Capacity = capacity;
        known.Free = free;
        known.Closed = closed;
        Open(known);
        return known;
    }

    /// <summary>Its room has changed, and nothing else.</summary>
    public void SetFree(PlacedHost host, in Resources free)
    {
        ArgumentNullException.ThrowIfNull(host);
        Shut(host);
        host.Free = free;
        Open(host);
    }

    /// <summary>The images that are on a host now.</summary>
    public void SetImages(PlacedHost host, IReadOnlyCollection<string> names)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(names);
        if (names.SequenceEqual(host.Images.Select(image => image.Name)))
            return;
        foreach (var image in host.Images)
        {
            image.Hosts.Remove(host);
            if (image.Hosts.Count == 0)
                _images.Remove(image.Name);
        }
        host.Images = new PlacedImage[names.Count];
        var at = 0;
        foreach (var name in names)
        {
            // One name, however many hosts have it.
            ref var image = ref CollectionsMarshal.GetValueRefOrAddDefault(_images, name, out _);
            image ??= new PlacedImage(name);
            image.Hosts.Add(host);
            host.Images[at++] = image;
        }
    }

    public void Remove(string id)
    {
        if (!_hosts.Remove(id, out var host))
            return;
        SetImages(host, []);
        Shut(host);
        foreach (var (group, count) in host.Groups.ToList())
            Count(host, group, -count);
        Leave(host);
    }

    /// <summary>A host has more or fewer microVMs of a group than before.</summary>
    public void Count(PlacedHost host, string group, int by)
    {
        ArgumentNullException.ThrowIfNull(host);
        ref var placed = ref CollectionsMarshal.GetValueRefOrAddDefault(_groups, group, out _);
        placed ??= new PlacedGroup(group);
        Count(host, placed, by);
    }

    /// <summary>The best hosts for a demand, best first; valid until the next question.</summary>
    /// <param name="demand">What is wanted.</param>
    /// <param name="excluded">Hosts that are out of question.</param>
    public ReadOnlySpan<Candidate> Choose(Demand demand, IReadOnlySet<string> excluded)
    {
        ArgumentNullException.ThrowIfNull(demand);
        ArgumentNullException.ThrowIfNull(excluded);
        var survey = _survey ??= new PlacementSurvey(this);
        Weigh(demand);
        survey.Begin(demand, excluded);
        if (demand.Host.Length > 0)
        {
            Offer(_hosts.GetValueOrDefault(demand.Host), demand, survey);
            return survey.Best;
        }
        if (OfferShared(demand, survey) || OfferLabelled(demand, survey))
            return survey.Best;
        OfferWithImage(demand, survey);
        if (!Wishes.Any(demand))
        {
            Search(demand, survey, MostScored, null, null);
            return survey.Best;
        }
        var each = Math.Max(Candidates, MostScored / Math.Max(1, _classes.Count));
        foreach (var hosts in _classes)
        {
            // What it wishes may weigh more than what cells are told apart by: no class is left out.
            Search(demand, survey, each, hosts, null);
            foreach (var rule in demand.Rules!.Groups)
            {
                // The fullest may all have what it would rather be apart from.
                if (rule is { Hard: false, Apart: true, Scope: RuleScope.Host } && Group(rule.Group) is { } group)
                    Search(demand, survey, each, hosts, group);
            }
        }
        return survey.Best;
    }

    /// <summary>A microVM goes to one of the hosts that were chosen for it: such ones are wanted.</summary>
    public void Placed(Demand demand)
    {
        ArgumentNullException.ThrowIfNull(demand);
        if (!_mix.Placed(demand.Needs, _capacity, _scarcity))
            return;
        foreach (var host in _hosts.Values)
        {
            if (host.Closed is null)
                _mix.Open(host.Free);
        }
    }

    /// <summary>Why a host won't do for a demand; null: it would.</summary>
    public Refusal? Refuse(Demand demand, PlacedHost host)
    {
        ArgumentNullException.ThrowIfNull(demand);
        ArgumentNullException.ThrowIfNull(host);
        if (demand.Host.Length > 0 && demand.Host != host.Id)
            return new(RejectionReason.OtherHost);
        if (host.Closed is not null)
            return new(host.Closed);
        foreach (var filter in HostFilter.All)
        {
            if (filter.Concerns(demand) && !(filter.Allows(host.Class, demand, this) && filter.Allows(host, demand, this)))
                return new(filter.Reason);
        }
        for (var kind = 0; kind < Resources.Kinds; kind++)
        {
            if (demand.Needs[kind] > host.Free[kind])
                return new(Resources.ReasonOf(kind), (ulong)demand.Needs[kind], (ulong)Math.Max(0, host.Free[kind]));
        }
        return null;
    }

    /// <summary>What speaks against a host that would do, by part, weighed; their sum is <see cref="Candidate.Cost"/>.</summary>
    public IReadOnlyList<KeyValuePair<string, double>> Parts(Demand demand, PlacedHost host)
    {
        ArgumentNullException.ThrowIfNull(demand);
        ArgumentNullException.ThrowIfNull(host);
        Weigh(demand);
        return [.. HostScore.All.Where(score => score.Concerns(demand)).Select(score => KeyValuePair.Create(score.Name, score.Weight * score.Of(host, demand, this)))];
    }

    // Where it is to be with a group, hosts that have members are looked at, however empty they are. True: no others will do.
    private bool OfferShared(Demand demand, PlacementSurvey survey)
    {
        if (demand.Rules is null)
            return false;
        foreach (var rule in demand.Rules.Groups)
        {
            if (rule.Apart || rule.Scope != RuleScope.Host || Group(rule.Group) is not { } group)
                continue;
            var left = rule.Hard ? int.MaxValue : sample;
            foreach (var host in group.Hosts)
            {
                if (left-- == 0)
                    break;
                Offer(host, demand, survey);
            }
            if (rule.Hard)
                return true;
        }
        return false;
    }

    // Where few have a label that it wants, those are asked and no others. True: no others will do.
    private bool OfferLabelled(Demand demand, PlacementSurvey survey)
    {
        if (demand.Rules is null)
            return false;
        foreach (var label in demand.Rules.Labels)
        {
            if (!_byLabel.TryGetValue(label, out var hosts))
                return true;
            if (hosts.Count > Rare)
                continue;
            foreach (var host in hosts)
                Offer(host, demand, survey);
            return true;
        }
        return false;
    }

    // What few have is hardly among those that are fullest.
    private void OfferWithImage(Demand demand, PlacementSurvey survey)
    {
        if (demand.Image.Length == 0 || Image(demand.Image) is not { } image)
            return;
        var (left, room) = (Rare, sample);
        foreach (var host in image.Hosts)
        {
            if (left-- == 0 || room == 0)
                return;
            if (host.Closed is not null || !demand.Needs.FitsIn(host.Free))
                continue;
            room--;
            Offer(host, demand, survey);
        }
    }

    private static void Offer(PlacedHost? host, Demand demand, PlacementSurvey survey)
    {
        if (host is { Closed: null } && demand.Needs.FitsIn(host.Free) && survey.Allows(host.Class))
            survey.Offer(host);
    }

    // Of one class or all; once more with all cells where the most promising have too few that would do.
    private void Search(Demand demand, PlacementSurvey survey, int most, HostClass? only, PlacedGroup? without)
    {
        var keepAll = most == int.MaxValue || (Hosts < Many && _classes.Count <= FewClasses);
        do
        {
            survey.Next(keepAll);
            if (only is not null)
                Seek(only, demand, survey);
            else
            {
                foreach (var hosts in _classes)
                    Seek(hosts, demand, survey);
            }
            keepAll = true;
        }
        while (!survey.Search(most, without));
    }

    private static void Seek(HostClass hosts, Demand demand, PlacementSurvey survey)
    {
        if (hosts.Open.Count > 0 && survey.Allows(hosts))
            hosts.Open.Seek(demand.Needs, survey);
    }

    // The newcomer counts: of an empty fleet only it tells what is scarce.
    private void Weigh(Demand demand)
    {
        _scarcity = new(_used + demand.Needs, _capacity);
        _mix.Weigh();
    }

    private void Join(PlacedHost host, Inventory inventory, in Resources capacity)
    {
        var key = HostClass.KeyOf(inventory, capacity);
        if (!_classByKey.TryGetValue(key, out var hosts))
        {
            hosts = new HostClass(key, inventory, capacity);
            _classByKey.Add(key, hosts);
            _classes.Add(hosts);
        }
        hosts.Hosts++;
        host.Class = hosts;
        host.Inventory = inventory;
        foreach (var label in inventory.Labels)
            (CollectionsMarshal.GetValueRefOrAddDefault(_byLabel, label, out _) ??= []).Add(host);
    }

    private void Leave(PlacedHost host)
    {
        foreach (var label in host.Inventory.Labels)
        {
            if (_byLabel.TryGetValue(label, out var hosts) && hosts.Remove(host) && hosts.Count == 0)
                _byLabel.Remove(label);
        }
        if (--host.Class.Hosts > 0)
            return;
        _classByKey.Remove(host.Class.Key);
        _classes.Remove(host.Class);
    }

    private void Open(PlacedHost host)
    {
        if (host.Closed is not null)
            return;
        host.Class.Open.Add(host);
        _mix.Open(host.Free);
        _capacity += host.Capacity;
        _used += host.Used;
        if (host.Class.Zone.Length > 0)
            CollectionsMarshal.GetValueRefOrAddDefault(_openByZone, host.Class.Zone, out _)++;
    }

    private void Shut(PlacedHost host)
    {
        if (host.Closed is not null)
            return;
        host.Class.Open.Remove(host);
        _mix.Shut(host.Free);
        _capacity -= host.Capacity;
        _used -= host.Used;
        if (host.Class.Zone.Length > 0 && --CollectionsMarshal.GetValueRefOrAddDefault(_openByZone, host.Class.Zone, out _) <= 0)
            _openByZone.Remove(host.Class.Zone);
    }

    private void Count(PlacedHost host, PlacedGroup group, int by)
    {
        var before = host.Of(group);
        var after = host.Add(group, by);
        if (after > 0)
            group.Hosts.Add(host);
        else
            group.Hosts.Remove(host);
        if (host.Class.Zone.Length > 0)
        {
            ref var there = ref CollectionsMarshal.GetValueRefOrAddDefault(group.Zones, host.Class.Zone, out _);
            there += after - before;
            if (there <= 0)
                group.Zones.Remove(host.Class.Zone);
        }
        if (group.Hosts.Count == 0)
            _groups.Remove(group.Name);
    }
}
