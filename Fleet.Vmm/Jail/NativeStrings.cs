using System.Runtime.InteropServices;

namespace Fleet.Vmm.Jail;

/// <summary>A null-terminated array of strings, as execve(2) takes them; outside the collected heap.</summary>
internal sealed unsafe class NativeStrings : IDisposable
{
    private readonly byte** _strings;
    private readonly int _count;

    public NativeStrings(ReadOnlySpan<string> strings)
    {
        // SAFETY: one more than there are strings, for the null.
        _count = strings.Length;
        _strings = (byte**)NativeMemory.AllocZeroed((nuint)(_count + 1), (nuint)sizeof(byte*));
        for (var i = 0; i < _count; i++)
        {
            _strings[i] = (byte*)Marshal.StringToCoTaskMemUTF8(strings[i]);
        }
    }

    public byte** First => _strings;

    public void Dispose()
    {
        for (var i = 0; i < _count; i++)
        {
            Marshal.FreeCoTaskMem((nint)_strings[i]);
        }

        NativeMemory.Free(_strings);
    }
}
