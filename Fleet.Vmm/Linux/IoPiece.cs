using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>struct iovec: one of several pieces of memory that a system call reads or fills in one go.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct IoPiece
{
    public byte* Start;
    public nuint Length;
}
