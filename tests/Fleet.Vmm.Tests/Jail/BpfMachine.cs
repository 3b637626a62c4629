using Fleet.Vmm.Jail;

namespace Fleet.Vmm.Tests.Jail;

/// <summary>Runs seccomp filters as the kernel's interpreter does.</summary>
internal static class BpfMachine
{
    /// <summary>What the filter answers to a call: SECCOMP_RET_*.</summary>
    public static uint Run(BpfInstruction[] program, int number, ulong[] arguments, uint architecture = SystemCallFilter.Architecture)
    {
        // struct seccomp_data: number, architecture, instruction pointer, six arguments.
        var data = new uint[16];
        data[0] = (uint)number;
        data[1] = architecture;
        for (var i = 0; i < arguments.Length; i++)
        {
            data[4 + (2 * i)] = (uint)arguments[i];
            data[5 + (2 * i)] = (uint)(arguments[i] >> 32);
        }

        uint accumulator = 0;
        for (var at = 0; ; at++)
        {
            var instruction = program[at];
            switch (instruction.Code)
            {
                case 0x20:
                    accumulator = data[instruction.Value / 4];
                    break;
                case 0x54:
                    accumulator &= instruction.Value;
                    break;
                case 0x05:
                    at += (int)instruction.Value;
                    break;
                case 0x15:
                    at += accumulator == instruction.Value ? instruction.Yes : instruction.No;
                    break;
                case 0x35:
                    at += accumulator >= instruction.Value ? instruction.Yes : instruction.No;
                    break;
                case 0x06:
                    return instruction.Value;
                default:
                    throw new InvalidOperationException($"unknown instruction 0x{instruction.Code:x} at {at}");
            }
        }
    }
}
