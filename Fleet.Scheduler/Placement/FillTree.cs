namespace Fleet.Scheduler.Placement;

/// <summary>
/// Hosts from the fullest to the emptiest, in a treap whose nodes know the most of each resource that is free below them: the
/// fullest that has room for a demand is found without looking at those that have none.
/// </summary>
internal sealed class FillTree
{
    private PlacedHost? _root;
    private uint _dice = 2463534242;

    public int Count { get; private set; }

    /// <summary>The most of each resource that one of them has free; not all of it on the same host.</summary>
    public Resources MostFree => _root is null ? default : _root.MostBelow;

    public void Add(PlacedHost host)
    {
        // Xorshift: the shape of the tree is chance, the order in it is not.
        _dice ^= _dice << 13;
        _dice ^= _dice >> 17;
        _dice ^= _dice << 5;
        host.Priority = _dice;
        host.Fill = BestFit.Emptiness(host.Free, host.Capacity);
        _root = Insert(_root, host);
        Count++;
    }

    /// <summary>Takes out a host whose <see cref="PlacedHost.Fill"/> is still the one with which it was added.</summary>
    public void Remove(PlacedHost host)
    {
        _root = Erase(_root, host);
        Count--;
    }

    /// <summary>Shows the search the hosts that have room, the fullest first, until it has enough.</summary>
    public void Walk(in Resources needs, PlacementSurvey survey) => Walk(_root, needs, survey);

    private static bool Walk(PlacedHost? node, in Resources needs, PlacementSurvey survey)
    {
        if (node is null || !needs.FitsIn(node.MostBelow))
            return true;
        if (!Walk(node.Left, needs, survey))
            return false;
        if (needs.FitsIn(node.Free) && !survey.Offer(node))
            return false;
        return Walk(node.Right, needs, survey);
    }

    private static bool Before(PlacedHost a, PlacedHost b) =>
        a.Fill < b.Fill || (a.Fill == b.Fill && string.CompareOrdinal(a.Id, b.Id) < 0);

    private static PlacedHost Insert(PlacedHost? root, PlacedHost host)
    {
        if (root is null)
            return Pull(host, null, null);
        if (host.Priority > root.Priority)
        {
            Split(root, host, out var left, out var right);
            return Pull(host, left, right);
        }
        return Before(host, root) ? Pull(root, Insert(root.Left, host), root.Right) : Pull(root, root.Left, Insert(root.Right, host));
    }

    private static PlacedHost? Erase(PlacedHost? root, PlacedHost host)
    {
        if (root is null)
            throw new InvalidOperationException($"{host.Id} is not where it was put.");
        if (root == host)
            return Join(host.Left, host.Right);
        return Before(host, root) ? Pull(root, Erase(root.Left, host), root.Right) : Pull(root, root.Left, Erase(root.Right, host));
    }

    private static void Split(PlacedHost? root, PlacedHost at, out PlacedHost? left, out PlacedHost? right)
    {
        if (root is null)
        {
            left = right = null;
            return;
        }
        if (Before(root, at))
        {
            Split(root.Right, at, out var middle, out right);
            left = Pull(root, root.Left, middle);
        }
        else
        {
            Split(root.Left, at, out left, out var middle);
            right = Pull(root, middle, root.Right);
        }
    }

    private static PlacedHost? Join(PlacedHost? left, PlacedHost? right)
    {
        if (left is null)
            return right;
        if (right is null)
            return left;
        return left.Priority > right.Priority ? Pull(left, left.Left, Join(left.Right, right)) : Pull(right, Join(left, right.Left), right.Right);
    }

    private static PlacedHost Pull(PlacedHost host, PlacedHost? left, PlacedHost? right)
    {
        host.Left = left;
        host.Right = right;
        var most = host.Free;
        if (left is not null)
            most = Resources.Most(most, left.MostBelow);
        if (right is not null)
            most = Resources.Most(most, right.MostBelow);
        host.MostBelow = most;
        return host;
    }
}
