using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Jail;

/// <summary>A wall that could not be built; the message says which, why, and what now. The VMM is not started then.</summary>
internal sealed class JailException(string message) : Exception(message)
{
    public JailException(string what, SystemCallException failure, string cure = "")
        : this($"{what}: {failure.Message}.{(failure.ErrorNumber == SystemCallException.NotPermitted && cure.Length == 0 ? " The jail is built by root, with all capabilities." : cure)}")
    {
    }
}
