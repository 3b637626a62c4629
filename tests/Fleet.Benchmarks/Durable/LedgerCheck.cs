using System.Diagnostics;
using System.Globalization;
using System.Net.Http.Json;
using System.Text.Json;
using Fleet.Benchmarks.Chaos;
using Fleet.Chaos.Harness;

namespace Fleet.Benchmarks.Durable;

/// <summary>
/// Holds what every host says of itself in the API against what it was told to launch and what it has. Nothing of that is taken from the scheduler's own reckoning of
/// what a host may promise: the size is the simulated machine's, the ratios are the documented ones.
/// </summary>
/// <param name="OverPromised">Hosts that have promised, or were told to launch, more CPUs or memory than their machine times the ratio.</param>
/// <param name="LedgersOff">Hosts that say that something else is reserved than what they were told to launch, or that the API does not know.</param>
internal sealed record LedgerCheck(int OverPromised, int LedgersOff)
{
    /// <summary>What each microVM asks for.</summary>
    public const ulong Cpus = 1;

    public const ulong MemoryMib = 64;

    private const ulong MemoryRatio = 1;

    /// <summary>Lists are told a moment after what they tell of.</summary>
    private static readonly TimeSpan Settling = TimeSpan.FromSeconds(10);

    private static readonly JsonSerializerOptions Json = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower };

    private sealed record HostBody(string Id, ulong ReservedCpus, ulong ReservedMemoryMib, ulong Vms);

    private sealed record HostPage(IReadOnlyList<HostBody> Items, string? NextPageToken);

    /// <summary>microVMs that a host has room for.</summary>
    public static int Slots(HostSize size) => (int)Math.Min(size.Cpus * FleetOptions.CpuRatio / Cpus, size.MemoryMib * MemoryRatio / MemoryMib);

    /// <summary>When nothing is under way any more. Reads again while a ledger is off, for it may not be told yet; what it says then counts.</summary>
    public static async Task<LedgerCheck> ReadAsync(HttpClient api, DurableCell cell)
    {
        for (var clock = Stopwatch.StartNew(); ; await Task.Delay(200))
        {
            var check = Compare(await HostsAsync(api), cell);
            if (check.LedgersOff == 0 || clock.Elapsed > Settling)
                return check;
        }
    }

    private static LedgerCheck Compare(IReadOnlyDictionary<string, HostBody> said, DurableCell cell)
    {
        var (over, off) = (0, 0);
        foreach (var (id, size) in cell.Sizes)
        {
            var host = said.GetValueOrDefault(id);
            var launched = (ulong)cell.Launches.On(id);
            var (cpus, memory) = (launched * Cpus, launched * MemoryMib);
            if (Math.Max(cpus, host?.ReservedCpus ?? 0) > size.Cpus * FleetOptions.CpuRatio || Math.Max(memory, host?.ReservedMemoryMib ?? 0) > size.MemoryMib * MemoryRatio)
                over++;
            if (host is null || host.Vms != launched || host.ReservedCpus != cpus || host.ReservedMemoryMib != memory)
                off++;
        }
        return new(over, off);
    }

    private static async Task<IReadOnlyDictionary<string, HostBody>> HostsAsync(HttpClient api)
    {
        var hosts = new Dictionary<string, HostBody>(StringComparer.Ordinal);
        string? token = null;
        do
        {
            var page = await api.GetFromJsonAsync<HostPage>(string.Create(CultureInfo.InvariantCulture, $"/v1/hosts?page_size=1000{(token is null ? "" : $"&page_token={Uri.EscapeDataString(token)}")}"), Json)
                ?? throw new BenchmarkException("the list of hosts is empty JSON");
            foreach (var host in page.Items)
                hosts[host.Id] = host;
            token = page.NextPageToken;
        }
        while (token is not null);
        return hosts;
    }
}
