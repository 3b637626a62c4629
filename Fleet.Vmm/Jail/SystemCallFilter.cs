namespace Fleet.Vmm.Jail;

/// <summary>
/// What one half of an argument must be. Most arguments that are tested are 32 bits wide for the kernel, whatever stands above
/// them; a pointer needs a test of either half.
/// </summary>
/// <param name="Index">0 to 5.</param>
/// <param name="IsHigh">The upper 32 bits.</param>
/// <param name="Mask">The bits that count.</param>
/// <param name="Values">One of which they must be.</param>
internal readonly record struct ArgumentTest(int Index, bool IsHigh, uint Mask, uint[] Values)
{
    /// <summary>Where the half stands in struct seccomp_data.</summary>
    public uint Offset => SystemCallFilter.ArgumentsOffset + (8 * (uint)Index) + (IsHigh ? 4u : 0);

    public static ArgumentTest OneOf(int index, params uint[] values) => new(index, false, uint.MaxValue, values);

    /// <summary>The masked bits are one of these.</summary>
    public static ArgumentTest Masked(int index, uint mask, params uint[] values) => new(index, false, mask, values);

    /// <summary>None of these bits.</summary>
    public static ArgumentTest Without(int index, uint bits) => new(index, false, bits, [0]);

    public static ArgumentTest HighIsZero(int index) => new(index, true, uint.MaxValue, [0]);
}

/// <summary>One way in which a call is answered: when all tests hold. A call may have several rules; the first that holds counts.</summary>
/// <param name="Call">Its number.</param>
/// <param name="Error">0: it is let through; else it is not made and fails with this errno.</param>
/// <param name="Tests">None: always.</param>
internal sealed record CallRule(int Call, int Error, ArgumentTest[] Tests)
{
    public static CallRule Allow(int call, params ArgumentTest[] tests) => new(call, 0, tests);

    public static CallRule Fail(int call, int error) => new(call, error, []);
}

/// <summary>
/// Makes a seccomp filter of rules: what no rule lets through ends the process (SIGSYS). A call is found by a binary search
/// over the numbers; the kernel remembers calls that are let through whatever their arguments, and runs the filter only for
/// the others.
/// </summary>
internal static class SystemCallFilter
{
    public const uint KillProcess = 0x80000000;
    public const uint FailWith = 0x00050000;
    public const uint LetThrough = 0x7fff0000;

    /// <summary>AUDIT_ARCH_X86_64. Another architecture's calls (int 0x80) have other numbers.</summary>
    public const uint Architecture = 0xc000003e;

    /// <summary>Offsets in struct seccomp_data.</summary>
    internal const uint NumberOffset = 0;
    internal const uint ArchitectureOffset = 4;
    internal const uint ArgumentsOffset = 16;

    /// <summary>Below this many calls a row of comparisons is as good as a search.</summary>
    private const int ShortRow = 3;

    public static BpfInstruction[] Build(IEnumerable<CallRule> rules)
    {
        // Sorted by number; the rules of one call stay in their order.
        var calls = new List<(int Number, List<CallRule> Rules)>();
        foreach (var rule in rules)
        {
            var at = calls.FindIndex(known => known.Number >= rule.Call);
            if (at < 0 || calls[at].Number != rule.Call)
            {
                at = at < 0 ? calls.Count : at;
                calls.Insert(at, (rule.Call, []));
            }

            calls[at].Rules.Add(rule);
        }

        var program = new BpfProgram();
        var bodies = new BpfProgram.Label[calls.Count];
        var native = new BpfProgram.Label();
        program.Load(ArchitectureOffset);
        program.IfEqual(Architecture, native, null);
        program.Return(KillProcess);
        program.Mark(native);
        program.Load(NumberOffset);
        Search(program, calls, bodies, 0, calls.Count);
        for (var i = 0; i < bodies.Length; i++)
        {
            program.Mark(bodies[i]);
            Judge(program, calls[i].Rules);
        }

        return program.Assemble();
    }

    private static void Search(BpfProgram program, List<(int Number, List<CallRule> Rules)> calls, BpfProgram.Label[] bodies, int from, int to)
    {
        if (to - from > ShortRow)
        {
            var middle = (from + to) / 2;
            var upper = new BpfProgram.Label();
            program.IfAtLeast((uint)calls[middle].Number, upper, null);
            Search(program, calls, bodies, from, middle);
            program.Mark(upper);
            Search(program, calls, bodies, middle, to);
            return;
        }

        for (var i = from; i < to; i++)
        {
            bodies[i] = new BpfProgram.Label();
            var next = new BpfProgram.Label();
            program.IfEqual((uint)calls[i].Number, null, next);
            program.Jump(bodies[i]);
            program.Mark(next);
        }

        program.Return(KillProcess);
    }

    private static void Judge(BpfProgram program, List<CallRule> rules)
    {
        foreach (var rule in rules)
        {
            var refused = new BpfProgram.Label();
            foreach (var test in rule.Tests)
            {
                program.Load(test.Offset);
                if (test.Mask != uint.MaxValue)
                {
                    program.And(test.Mask);
                }

                var passed = new BpfProgram.Label();
                foreach (var value in test.Values)
                {
                    program.IfEqual(value, passed, null);
                }

                program.Jump(refused);
                program.Mark(passed);
            }

            program.Return(rule.Error == 0 ? LetThrough : FailWith | (uint)rule.Error);
            program.Mark(refused);
            if (rule.Tests.Length == 0)
            {
                return;
            }
        }

        program.Return(KillProcess);
    }
}
