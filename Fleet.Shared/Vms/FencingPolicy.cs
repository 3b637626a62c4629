namespace Fleet.Shared.Vms;

/// <summary>What a microVM does while its host is cut off from the control plane, as specs write it.</summary>
public static class FencingPolicy
{
    /// <summary>It stands still when the host's lease lapses: there is never a second copy that runs.</summary>
    public const string Strict = "strict";

    /// <summary>It runs on; once the host is given up there is a second copy beside it, until the host is back.</summary>
    public const string Relaxed = "relaxed";

    public static readonly IReadOnlyList<string> All = [Strict, Relaxed];
}
