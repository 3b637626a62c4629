using System.Globalization;
using Fleet.Vmm.Boot;

namespace Fleet.Vmm.Api;

/// <summary>What <c>PUT /cpu-config</c> says: a custom CPU template in Firecracker's form.</summary>
internal static class CpuTemplateBody
{
    private static readonly string[] Fields = ["kvm_capabilities", "cpuid_modifiers", "msr_modifiers", "reg_modifiers", "vcpu_features"];
    private static readonly string[] LeafFields = ["leaf", "subleaf", "flags", "modifiers"];
    private static readonly string[] RegisterFields = ["register", "bitmap"];
    private static readonly string[] MsrFields = ["addr", "bitmap"];
    private static readonly string[] Registers = ["eax", "ebx", "ecx", "edx"];

    public static CpuTemplate Read(ref JsonBody body)
    {
        body.ExpectObject("struct CustomCpuTemplate");
        List<uint> required = [], notRequired = [];
        List<CpuidChange> leaves = [];
        List<MsrChange> msrs = [];
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            if (field >= 3)
            {
                if (!body.IsNull && !body.IsEmptyArray())
                {
                    throw body.Fault($"`{Fields[field]}` is of aarch64, this is an x86-64 machine: leave it out");
                }

                continue;
            }

            body.ExpectArray();
            while (body.NextElement())
            {
                switch (field)
                {
                    case 0: ReadCapability(required, notRequired, ref body); break;
                    case 1: leaves.Add(ReadLeaf(ref body)); break;
                    default: msrs.Add(ReadMsr(ref body)); break;
                }
            }
        }

        return new CpuTemplate(required, notRequired, leaves, msrs);
    }

    // "171": the host must have it; "!171": it need not, although we would ask for it.
    private static void ReadCapability(List<uint> required, List<uint> notRequired, ref JsonBody body)
    {
        var text = body.String();
        var mayLack = text.StartsWith('!');
        (mayLack ? notRequired : required).Add(uint.TryParse(text.AsSpan(mayLack ? 1 : 0), NumberStyles.None, CultureInfo.InvariantCulture, out var capability)
            ? capability
            : throw body.Fault($"invalid KVM capability `{text}`, expected a number, after `!` where it need not be there"));
    }

    private static CpuidChange ReadLeaf(ref JsonBody body)
    {
        body.ExpectObject("struct CpuidLeafModifier");
        uint leaf = 0, subleaf = 0, flags = 0;
        List<KeyValuePair<CpuidRegister, BitChange>> changes = [];
        uint seen = 0;
        while (body.NextField(LeafFields, ref seen, out var field))
        {
            switch (field)
            {
                case 0: leaf = ReadNumber(ref body); break;
                case 1: subleaf = ReadNumber(ref body); break;
                case 2: flags = (uint)body.Unsigned(uint.MaxValue, "u32"); break;
                default:
                    body.ExpectArray();
                    while (body.NextElement())
                    {
                        changes.Add(ReadRegister(ref body));
                    }

                    break;
            }
        }

        for (var i = 0; i < LeafFields.Length; i++)
        {
            body.Require(LeafFields, seen, i);
        }

        return new CpuidChange(leaf, subleaf, flags, changes);
    }

    private static KeyValuePair<CpuidRegister, BitChange> ReadRegister(ref JsonBody body)
    {
        body.ExpectObject("struct CpuidRegisterModifier");
        var register = 0;
        BitChange bits = default;
        uint seen = 0;
        while (body.NextField(RegisterFields, ref seen, out var field))
        {
            if (field == 0)
            {
                register = body.Variant(Registers);
            }
            else
            {
                bits = ReadBits(ref body, 32);
            }
        }

        body.Require(RegisterFields, seen, 0);
        body.Require(RegisterFields, seen, 1);
        return new((CpuidRegister)register, bits);
    }

    private static MsrChange ReadMsr(ref JsonBody body)
    {
        body.ExpectObject("struct RegisterModifier");
        uint index = 0;
        BitChange bits = default;
        uint seen = 0;
        while (body.NextField(MsrFields, ref seen, out var field))
        {
            if (field == 0)
            {
                index = ReadNumber(ref body);
            }
            else
            {
                bits = ReadBits(ref body, 64);
            }
        }

        body.Require(MsrFields, seen, 0);
        body.Require(MsrFields, seen, 1);
        return new MsrChange(index, bits);
    }

    private static uint ReadNumber(ref JsonBody body)
    {
        var text = body.String();
        uint number;
        var isNumber = text switch
        {
            ['0', 'x', .. var digits] => uint.TryParse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out number),
            ['0', 'b', .. var digits] => uint.TryParse(digits, NumberStyles.AllowBinarySpecifier, CultureInfo.InvariantCulture, out number),
            _ => uint.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out number),
        };
        return isNumber ? number : throw body.Fault($"invalid number `{text}`, expected one such as \"0x1f\"");
    }

    // "0b0x1": the highest bit first; x leaves a bit as it is, and so does what is not written.
    private static BitChange ReadBits(ref JsonBody body, int most)
    {
        var text = body.String();
        var digits = text.StartsWith("0b", StringComparison.Ordinal) ? text.AsSpan(2) : text;
        ulong mask = 0, value = 0;
        var bit = 0;
        for (var i = digits.Length - 1; i >= 0; i--)
        {
            if (digits[i] == '_')
            {
                continue;
            }

            if (bit == most)
            {
                throw body.Fault($"a bitmap of more than {most} bits");
            }

            switch (digits[i])
            {
                case 'x':
                    break;
                case '0' or '1':
                    mask |= 1UL << bit;
                    value |= (ulong)(digits[i] - '0') << bit;
                    break;
                default:
                    throw body.Fault($"invalid bitmap `{text}`, expected 0, 1 and x");
            }

            bit++;
        }

        return new BitChange(mask, value);
    }
}
