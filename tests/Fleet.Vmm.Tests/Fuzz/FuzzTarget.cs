namespace Fleet.Vmm.Tests.Fuzz;

/// <summary>Something that takes hostile input, and a way to make such input.</summary>
internal abstract class FuzzTarget : IDisposable
{
    public abstract string Name { get; }

    /// <summary>
    /// Makes one case and runs it. What the thing may answer to bad input is caught in here; whatever else is thrown is a
    /// finding, as is a case that takes seconds.
    /// </summary>
    public abstract void Run(FuzzRandom random);

    /// <summary>What must hold at the end of a run, in words where it does not.</summary>
    public virtual string? Check() => null;

    public virtual void Dispose()
    {
    }
}

/// <summary>A case that did what none may do.</summary>
internal sealed class FuzzFindingException(string target, ulong seed, string what, Exception? inner = null)
    : Exception($"{target}, seed {seed}: {what}", inner);
