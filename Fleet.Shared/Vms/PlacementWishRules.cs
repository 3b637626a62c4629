using Fleet.Shared.Contracts;
using Google.Protobuf.Collections;

namespace Fleet.Shared.Vms;

/// <summary>The rules that what a microVM wants of its place by where others are keeps.</summary>
public static class PlacementWishRules
{
    public const string Host = "host";
    public const string Zone = "zone";

    /// <summary>The first rule that is broken, or null. The field begins with <paramref name="field"/>.</summary>
    public static SpecProblem? FirstProblem(string field, PlacementWishes? wishes)
    {
        ArgumentNullException.ThrowIfNull(field);
        if (wishes is null)
            return null;
        return Groups($"{field}.groups", wishes.Groups)
            ?? Affinities($"{field}.affinity", wishes.Affinity)
            ?? Spreads($"{field}.spread", wishes.Spread);
    }

    private static SpecProblem? Groups(string field, RepeatedField<string> groups)
    {
        if (Bounded(field, groups.Count, VmLimits.MaxGroups) is { } many)
            return many;
        for (var i = 0; i < groups.Count; i++)
        {
            if (Group($"{field}[{i}]", groups[i]) is { } problem)
                return problem;
            if (groups.IndexOf(groups[i]) < i)
                return new($"{field}[{i}]", $"{field}[{i}] names a group a second time.");
        }
        return null;
    }

    private static SpecProblem? Affinities(string field, RepeatedField<Affinity> rules)
    {
        if (Bounded(field, rules.Count, VmLimits.MaxAffinities) is { } many)
            return many;
        for (var i = 0; i < rules.Count; i++)
        {
            if ((Whom($"{field}[{i}]", rules[i]) ?? Scope($"{field}[{i}].within", rules[i].Within)) is { } problem)
                return problem;
        }
        return null;
    }

    private static SpecProblem? Spreads(string field, RepeatedField<GroupSpread> rules)
    {
        if (Bounded(field, rules.Count, VmLimits.MaxSpreads) is { } many)
            return many;
        var hardZones = 0;
        for (var i = 0; i < rules.Count; i++)
        {
            var rule = rules[i];
            if ((Group($"{field}[{i}].group", rule.Group)
                ?? Scope($"{field}[{i}].over", rule.Over)
                ?? VmSpecRules.Range($"{field}[{i}].most_ahead", rule.MostAhead, 1, VmLimits.MaxSpreadAhead)) is { } problem)
                return problem;
            if (rule is { Over: Zone, Soft: false } && ++hardZones > 1)
                return new($"{field}[{i}]", $"Only one hard spread over zones is allowed; make {field}[{i}] soft.");
        }
        return null;
    }

    private static SpecProblem? Whom(string field, Affinity rule)
    {
        if (rule.Vm.Length == 0)
            return Group($"{field}.group", rule.Group);
        if (rule.Group.Length > 0)
            return new($"{field}.vm", $"{field} names a group and a microVM; a rule is about one of them.");
        return VmId.IsValid(rule.Vm) ? null : new($"{field}.vm", $"{field}.vm must be a microVM's id.");
    }

    private static SpecProblem? Bounded(string field, int count, int most) =>
        count <= most ? null : new(field, $"{field} has {count} entries; at most {most} are allowed.");

    private static SpecProblem? Group(string field, string name) => VmSpecRules.IsLabelKey(name)
        ? null
        : new(field, $"A group's name must be 1 to {VmLimits.MaxLabelKeyLength} of the characters a-z, 0-9, '.', '_', '/' and '-', and begin and end with a letter or a digit.");

    private static SpecProblem? Scope(string field, string scope) =>
        scope is Host or Zone ? null : new(field, $"{field} must be {Host} or {Zone}.");
}
