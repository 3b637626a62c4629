using System.Buffers.Binary;
using Fleet.Vmm.Machines;

namespace Fleet.Vmm.Tests.Machines;

/// <summary>Guests that do at random what devices are made for, and what they are not. The worst they can do is end themselves.</summary>
public sealed class HostileGuestTests
{
    private const int Instructions = 3000;

    // Where something answers, in this program or in the kernel, and the edges.
    private static readonly ushort[] Ports =
        [0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff, 0x2f8, 0x2f9, 0x2fa, 0x2fc, 0x60, 0x5f, 0x64, 0x40, 0x43, 0x20, 0x21, 0xcf8, 0xffff, 0];

    // Where a random value soon switches the machine off; only every fourth guest goes there, the others shall get far.
    private static readonly ushort[] PortsWithPower = [.. Ports, 0x61, 0x600, 0x601, 0x602, 0x5ff];

    private static readonly uint[] Addresses =
        [0xc0000000, 0xc0001000, 0xd0000ffd, 0xfec00000, 0xfec00010, 0xfee00020, 0xfee000f0, 0xfee00380, 0xfffbcfff, 0xffffffff, 16 << 20, (16 << 20) - 1, 0xbffffffe];

    [SkippableTheory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(5)]
    [InlineData(6)]
    [InlineData(7)]
    [InlineData(8)]
    public void Should_outlive_any_guest(int seed)
    {
        using var run = new MachineRun(ElfImage.Pvh(RandomProgram(new Random(seed), seed % 4 == 0 ? PortsWithPower : Ports)), vcpus: 2, statusPort: true);
        run.Type("typed ahead, for whoever reads it");
        run.After(TimeSpan.FromMilliseconds(400), run.Machine.Stop);
        run.Poll(() =>
        {
            run.Machine.SendCtrlAltDel();
            run.Machine.Pause();
            run.Machine.Resume();
            return false;
        });
        var end = run.RunToEnd();
        Assert.NotEqual(MachineEndKind.VmmFailed, end.Kind);
        Assert.NotEqual(0UL, run.Machine.ReadCounters().Exits);
        Assert.InRange(new FileInfo(run.StatusPath!).Length, 0, 64 * 1024);
    }

    private static byte[] RandomProgram(Random random, ushort[] ports)
    {
        var code = new List<byte>();
        for (var i = 0; i < Instructions; i++)
        {
            switch (random.Next(6))
            {
                case 0:
                    Port(code, random, ports);
                    code.AddRange(One(random, [0xec], [0xed], [0x66, 0xed]));
                    break;
                case 1 or 2:
                    Port(code, random, ports);
                    code.AddRange([0xb8, .. Word(Value(random, code))]);
                    code.AddRange(One(random, [0xee], [0xef], [0x66, 0xef]));
                    break;
                case 3:
                    // A string of 1 to 600 elements from or to memory at 2 MiB.
                    Port(code, random, ports);
                    code.AddRange([0xb9, .. Word((uint)random.Next(1, 600)), 0xbe, .. Word(0x200000), 0xbf, .. Word(0x200000), 0xf3]);
                    code.AddRange(One(random, [0x6c], [0x6d], [0x6e], [0x6f]));
                    break;
                case 4:
                    code.AddRange(One(random, [0xa0], [0xa1], [0x66, 0xa1]));
                    code.AddRange(Word(Addresses[random.Next(Addresses.Length)]));
                    break;
                default:
                    code.AddRange([0xb8, .. Word((uint)random.Next())]);
                    code.AddRange(One(random, [0xa2], [0xa3], [0x66, 0xa3]));
                    code.AddRange(Word(Addresses[random.Next(Addresses.Length)]));
                    break;
            }
        }

        code.AddRange([0xeb, 0xfe]);
        return [.. code];
    }

    private static void Port(List<byte> code, Random random, ushort[] ports) =>
        code.AddRange([0xba, .. Word(ports[random.Next(ports.Length)])]);

    // An even number from 0xf0 on at port 0x64 is a reset, which would end most guests before they get anywhere.
    private static uint Value(Random random, List<byte> code) =>
        code[^4] == 0x64 ? (uint)random.Next(0xf0) : (uint)random.Next();

    private static byte[] One(Random random, params byte[][] choices) => choices[random.Next(choices.Length)];

    private static byte[] Word(uint value)
    {
        var bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        return bytes;
    }
}
