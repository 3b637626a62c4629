namespace Fleet.Shared.Vms;

/// <summary>What may follow a microVM's end, as specs write it.</summary>
public static class RestartPolicy
{
    public const string Never = "never";

    public const string OnFailure = "on_failure";

    public const string Always = "always";

    public static readonly IReadOnlyList<string> All = [Never, OnFailure, Always];
}
