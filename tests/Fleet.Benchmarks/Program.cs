using Fleet.Benchmarks;
using Fleet.Benchmarks.RateLimit;
using Fleet.Benchmarks.Start;

// fleet bench NAME [--json]
var benchmarks = new Dictionary<string, (string What, Func<IReadOnlyList<Measurement>> Run)>
{
    ["start"] = ("VMM start to API socket and to the first guest instruction, memory beyond guest RAM", StartBenchmark.Run),
    ["ratelimit"] = ("how near a limited device comes to its rate and its burst", RateLimitBenchmark.Run),
};

var json = args.Contains("--json");
var names = args.Where(word => word != "--json").ToArray();
if (names.Length != 1 || !benchmarks.TryGetValue(names[0], out var chosen))
{
    Console.Error.WriteLine("usage: fleet bench NAME [--json]");
    foreach (var (name, (what, _)) in benchmarks)
        Console.Error.WriteLine($"  {name,-12} {what}");
    return 2;
}

try
{
    Report.Print(Console.Out, names[0], chosen.Run(), json);
    return 0;
}
catch (BenchmarkException cannot)
{
    Console.Error.WriteLine($"fleet bench: {cannot.Message}");
    return 1;
}
