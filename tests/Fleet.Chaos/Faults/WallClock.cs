using System.Buffers.Binary;
using Fleet.Chaos.Network;
using Fleet.Tests;

namespace Fleet.Chaos.Faults;

/// <summary>The wall clock of one process, which can be moved while it runs.</summary>
internal sealed class WallClock
{
    private readonly string _file;
    private readonly string _program;

    /// <param name="folder">Where to keep what it needs; must stay as long as the process.</param>
    /// <param name="name">Of the clock, unique in the folder.</param>
    /// <param name="program">That the process runs, without its folder.</param>
    public WallClock(string folder, string name, string program)
    {
        _program = program;
        _file = Path.Combine(folder, $"{name}.clock");
        Library = Path.Combine(folder, "wallclock.so");
        if (!File.Exists(Library))
            Kernel.Run("gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", Library, Path.Combine(Checkout.Root, "tests/Fleet.Chaos/Faults/wallclock.c"));
        File.WriteAllBytes(_file, new byte[8]);
    }

    private string Library { get; }

    /// <summary>For the process that shall live by this clock.</summary>
    public IEnumerable<string> Environment => [$"LD_PRELOAD={Library}", $"FLEET_WALLCLOCK={_file}", $"FLEET_WALLCLOCK_OF={_program}"];

    public void Set(TimeSpan off)
    {
        var nanoseconds = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(nanoseconds, (long)off.TotalMilliseconds * 1_000_000);
        using var file = File.OpenHandle(_file, FileMode.Open, FileAccess.Write);
        RandomAccess.Write(file, nanoseconds, 0);
    }
}
