using System.Collections.Concurrent;
using Fleet.Chaos.Harness;

namespace Fleet.Chaos.Load;

/// <summary>One answered or given up question of a probe.</summary>
/// <param name="Vm">Asked about.</param>
/// <param name="AskedMs">On the boot clock.</param>
/// <param name="AnsweredMs">When an answer other than "try again" came, or the last try ended.</param>
/// <param name="Statuses">Of every try in order; 0: no answer.</param>
internal sealed record ProbeResult(string Vm, long AskedMs, long AnsweredMs, IReadOnlyList<int> Statuses)
{
    public bool Succeeded => Statuses[^1] == 200;

    /// <summary>A node said that it can't now. That the next try went to one that is away takes nothing from it.</summary>
    public bool ToldToRetry => !Succeeded && Statuses.Contains(503);
}

/// <summary>
/// Asks the actor of each microVM about it, again and again, each time at the next node, and at the one after that when the node gives no answer or says
/// that it can't now: what a caller with one retry sees of nodes that die.
/// </summary>
internal sealed class Probes(ApiClient api, IReadOnlyList<string> vms)
{
    private static readonly TimeSpan Pause = TimeSpan.FromMilliseconds(200);

    private readonly ConcurrentQueue<ProbeResult> _results = new();
    private int _next;

    /// <summary>Those asked in that span of the boot clock.</summary>
    public IReadOnlyList<ProbeResult> Between(long fromMs, long toMs) => [.. _results.Where(result => result.AskedMs >= fromMs && result.AskedMs < toMs)];

    /// <summary>How long each microVM was not to be reached at most: from one good answer to the next, both within the span or next to it.</summary>
    public IReadOnlyDictionary<string, long> Pauses(long fromMs, long toMs)
    {
        var pauses = new Dictionary<string, long>();
        foreach (var ofOne in _results.Where(result => result.Succeeded).GroupBy(result => result.Vm))
        {
            var answers = ofOne.Select(result => result.AnsweredMs).Order().ToList();
            pauses[ofOne.Key] = answers.Zip(answers.Skip(1), (before, after) => (Before: before, After: after)).Where(pair => pair.After >= fromMs && pair.Before <= toMs)
                .Select(pair => pair.After - pair.Before - (long)Pause.TotalMilliseconds).DefaultIfEmpty(0).Max();
        }
        return pauses;
    }

    public async Task RunAsync(CancellationToken cancellation) => await Task.WhenAll(vms.Select((vm, at) => AskOnAsync(vm, at, cancellation)));

    private async Task AskOnAsync(string vm, int at, CancellationToken cancellation)
    {
        // Spread, or all would ask at once for ever.
        await Task.Delay(Pause * at / vms.Count, CancellationToken.None);
        while (!cancellation.IsCancellationRequested)
        {
            var asked = Network.Kernel.BootMs;
            var statuses = new List<int>();
            var first = Interlocked.Increment(ref _next);
            do
                statuses.Add((await api.SendAsync((first + statuses.Count) % api.Nodes, HttpMethod.Get, $"/v1/vms/{vm}", timeout: TimeSpan.FromSeconds(20))).Status);
            while (statuses.Count < 2 && statuses[^1] is 0 or >= 500);
            _results.Enqueue(new(vm, asked, Network.Kernel.BootMs, statuses));
            await Task.Delay(Pause, CancellationToken.None);
        }
    }
}
