using System.Runtime.InteropServices;
using System.Text;

namespace Fleet.Guest.Linux;

/// <summary>Strings as the kernel takes them: UTF-8 with a NUL behind, outside the managed heap, freed with this object.</summary>
internal sealed unsafe class NativeStrings : IDisposable
{
    private readonly List<nint> _owned = [];

    /// <summary>One string. It must not contain a NUL; the parser of run.json has made sure.</summary>
    public byte* Add(string text)
    {
        var length = Encoding.UTF8.GetByteCount(text);
        var memory = (byte*)NativeMemory.Alloc((nuint)length + 1);
        _owned.Add((nint)memory);
        // SAFETY: the block holds length + 1 bytes.
        Encoding.UTF8.GetBytes(text, new Span<byte>(memory, length));
        memory[length] = 0;
        return memory;
    }

    /// <summary>An array of strings that ends with a null pointer, as execve wants it.</summary>
    public byte** AddArray(IReadOnlyList<string> texts)
    {
        var array = (byte**)NativeMemory.Alloc((nuint)texts.Count + 1, (nuint)sizeof(byte*));
        _owned.Add((nint)array);
        // SAFETY: the block holds Count + 1 pointers.
        for (var i = 0; i < texts.Count; i++) array[i] = Add(texts[i]);
        array[texts.Count] = null;
        return array;
    }

    public void Dispose()
    {
        // SAFETY: all of it came from NativeMemory.Alloc, and the list is emptied: nothing is freed twice.
        foreach (var memory in _owned) NativeMemory.Free((void*)memory);
        _owned.Clear();
    }
}
