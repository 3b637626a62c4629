using System.Runtime.InteropServices;

namespace Fleet.Vmm.Jail;

/// <summary>struct sock_filter of linux/filter.h: one instruction of classic BPF.</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly record struct BpfInstruction(ushort Code, byte Yes, byte No, uint Value);

/// <summary>
/// Writes classic BPF for seccomp. Jumps go forward only, as the kernel demands, so a place is named before it is known:
/// make a label, jump to it, mark it. What the program does with struct seccomp_data is up to the caller.
/// </summary>
internal sealed class BpfProgram
{
    /// <summary>BPF_MAXINSNS; the kernel takes no more.</summary>
    public const int Longest = 4096;

    internal const ushort LoadWordCode = 0x20; // BPF_LD | BPF_W | BPF_ABS
    internal const ushort AndCode = 0x54; // BPF_ALU | BPF_AND | BPF_K
    internal const ushort JumpCode = 0x05; // BPF_JMP | BPF_JA
    internal const ushort EqualCode = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    internal const ushort AtLeastCode = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    internal const ushort ReturnCode = 0x06; // BPF_RET | BPF_K

    private readonly List<(ushort Code, uint Value, Label? Yes, Label? No)> _instructions = [];

    /// <summary>A place in the program.</summary>
    public sealed class Label
    {
        /// <summary>Index of the instruction; negative until it is marked.</summary>
        public int At { get; set; } = -1;
    }

    /// <summary>Loads the word at this offset of struct seccomp_data.</summary>
    public void Load(uint offset) => _instructions.Add((LoadWordCode, offset, null, null));

    public void And(uint mask) => _instructions.Add((AndCode, mask, null, null));

    public void Return(uint action) => _instructions.Add((ReturnCode, action, null, null));

    /// <summary>However far it is.</summary>
    public void Jump(Label target) => _instructions.Add((JumpCode, 0, target, null));

    /// <summary>At most 255 instructions far; null: the next one.</summary>
    public void IfEqual(uint value, Label? yes, Label? no) => _instructions.Add((EqualCode, value, yes, no));

    /// <summary>Unsigned; at most 255 instructions far; null: the next one.</summary>
    public void IfAtLeast(uint value, Label? yes, Label? no) => _instructions.Add((AtLeastCode, value, yes, no));

    /// <summary>The label stands for the next instruction.</summary>
    public void Mark(Label label) => label.At = _instructions.Count;

    /// <exception cref="InvalidOperationException">A jump that goes nowhere, backwards or too far, or too long a program.</exception>
    public BpfInstruction[] Assemble()
    {
        if (_instructions.Count is 0 or > Longest)
        {
            throw new InvalidOperationException($"A filter has 1 to {Longest} instructions, this one {_instructions.Count}.");
        }

        var assembled = new BpfInstruction[_instructions.Count];
        for (var i = 0; i < assembled.Length; i++)
        {
            var (code, value, yes, no) = _instructions[i];
            assembled[i] = code == JumpCode
                ? new(code, 0, 0, (uint)Distance(i, yes!, int.MaxValue))
                : new(code, yes is null ? (byte)0 : (byte)Distance(i, yes, byte.MaxValue), no is null ? (byte)0 : (byte)Distance(i, no, byte.MaxValue), value);
        }

        return assembled;
    }

    private int Distance(int from, Label to, int most)
    {
        var distance = to.At - from - 1;
        return to.At >= 0 && to.At < _instructions.Count && distance >= 0 && distance <= most
            ? distance
            : throw new InvalidOperationException($"The jump of instruction {from} to {to.At} is not one that BPF knows.");
    }
}
