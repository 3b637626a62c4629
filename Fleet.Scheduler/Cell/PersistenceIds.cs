namespace Fleet.Scheduler.Cell;

/// <summary>Names in the journal: for ever.</summary>
internal static class PersistenceIds
{
    public const string VmPrefix = "vm/";
    public const string HostPrefix = "host/";
    public const string Tokens = "access/tokens";
    public const string Volumes = "volumes/all";

    public static string Gang(string id) => "gang/" + id;

    public static string Vm(string id) => VmPrefix + id;

    public static string Host(string id) => HostPrefix + id;
}
