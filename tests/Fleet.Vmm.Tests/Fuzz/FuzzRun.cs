using System.Diagnostics;

namespace Fleet.Vmm.Tests.Fuzz;

/// <summary>Runs many cases of one target; every case has a seed of its own, so that a finding can be run again alone.</summary>
internal static class FuzzRun
{
    /// <summary>Far above what any case takes, and above what a busy machine adds.</summary>
    private static readonly TimeSpan Hang = TimeSpan.FromSeconds(20);

    /// <summary>Everything that is fuzzed.</summary>
    public static IReadOnlyList<Func<FuzzTarget>> Targets { get; } =
    [
        static () => new EntropyTarget(),
        static () => new BlockTarget(asynchronous: false, readOnly: false),
        static () => new BlockTarget(asynchronous: false, readOnly: true),
        static () => new BlockTarget(asynchronous: true, readOnly: false),
        static () => new NetTarget(),
        static () => new MetadataTarget(),
        static () => new VsockTarget(),
        static () => new BalloonTarget(),
        static () => new JsonTarget(),
        static () => new HttpTarget(),
        static () => new KernelTarget(),
        static () => new SnapshotTarget(),
    ];

    /// <exception cref="FuzzFindingException">A case that threw, or broke what must hold.</exception>
    public static void Run(FuzzTarget target, ulong seed, long cases)
    {
        var current = seed;
        var began = Stopwatch.GetTimestamp();
        using var watch = new Timer(
            _ =>
            {
                if (Stopwatch.GetElapsedTime(Volatile.Read(ref began)) > Hang)
                {
                    // Nothing else would end a thread that hangs.
                    Environment.FailFast($"{target.Name}, seed {Volatile.Read(ref current)}: a case hangs");
                }
            },
            null,
            Hang,
            Hang / 4);
        for (var i = 0L; i < cases; i++)
        {
            Volatile.Write(ref current, seed + (ulong)i);
            if ((i & 255) == 0)
            {
                Volatile.Write(ref began, Stopwatch.GetTimestamp());
            }

            try
            {
                target.Run(new FuzzRandom(current));
            }
            catch (Exception finding)
            {
                throw new FuzzFindingException(target.Name, current, finding.Message, finding);
            }
        }

        if (target.Check() is { } broken)
        {
            throw new FuzzFindingException(target.Name, seed, broken);
        }
    }
}
