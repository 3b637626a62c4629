namespace Fleet.Host.Pressure;

/// <summary>What this machine's kernel tells of pressure, for people.</summary>
public static class PressureProbe
{
    /// <summary>Whether it tells of stalls, and a sentence on what follows from that.</summary>
    public static (bool IsTold, string Detail) Look() => Describe(Stalls.OfMachine());

    internal static (bool IsTold, string Detail) Describe(Stalls stalls) => stalls.AreTold
        ? (true, $"the kernel tells of stalls (PSI) for {string.Join(", ", new[] { stalls.Cpu is null ? "" : "cpu", stalls.Memory is null ? "" : "memory", stalls.Io is null ? "" : "io" }.Where(name => name.Length > 0))}")
        : (false, "the kernel does not tell of stalls (no /proc/pressure): the host goes by free memory and waiting vCPUs alone. Boot with psi=1");
}
