using System.Buffers.Binary;
using Fleet.Vmm.Snapshots;
using Fleet.Vmm.Tests.Api;
using Fleet.Vmm.Tests.Fuzz;

namespace Fleet.Vmm.Tests.Snapshots;

/// <summary>State files that are another version's, torn, damaged or made up.</summary>
public sealed class StateFileTests
{
    private static byte[] Good => new StateFile("{\"a\": 1}"u8.ToArray(), [1, 2, 3, 4, 5, 6, 7]).Encode();

    [Fact]
    public void Should_read_what_it_wrote()
    {
        var state = StateFile.Decode(Good);
        Assert.Equal("{\"a\": 1}"u8.ToArray(), state.Configuration);
        Assert.Equal([1, 2, 3, 4, 5, 6, 7], state.Machine);
    }

    [Theory]
    [InlineData(8)]
    [InlineData(10)]
    [InlineData(12)]
    public void Should_refuse_another_version_by_its_name(int part)
    {
        var file = Good;
        file[part] = 77;
        var expected = part switch { 8 => "77.0.0", 10 => "1.77.0", _ => "1.0.77" };
        Assert.Equal($"it has version {expected}, this program reads 1.0.0 only: restore it with the program that wrote it", Refusal(file));
    }

    [Fact]
    public void Should_refuse_every_torn_file()
    {
        var file = Good;
        for (var length = 8; length < file.Length; length++)
        {
            Assert.Contains("it is cut short: ", Refusal(file[..length]), StringComparison.Ordinal);
        }

        Assert.Equal("1 bytes stand behind its end", Refusal([.. file, 0]));
    }

    [Fact]
    public void Should_refuse_every_flipped_bit()
    {
        for (var bit = 0; bit < Good.Length * 8; bit++)
        {
            var file = Good;
            file[bit / 8] ^= (byte)(1 << (bit % 8));
            Assert.NotEmpty(Refusal(file));
        }
    }

    [Fact]
    public void Should_know_what_is_not_its_own()
    {
        Assert.Equal("it is no state file of fleet-vmm", Refusal([]));
        Assert.Equal("it is no state file of fleet-vmm", Refusal(new byte[100]));
        var firecracker = new byte[100];
        BinaryPrimitives.WriteUInt64LittleEndian(firecracker, 0x0710_1984_8664_0000);
        Assert.Equal("it is a snapshot of Firecracker's, which only Firecracker can restore", Refusal(firecracker));
    }

    [Fact]
    public void Should_refuse_lengths_that_lie_in_spite_of_a_right_checksum()
    {
        // Resealed: only the reader itself is left to notice.
        foreach (var length in new uint[] { 0, 3, 9, 1000, int.MaxValue, uint.MaxValue })
        {
            var file = Good;
            BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(32), length);
            Assert.NotEmpty(Refusal(SnapshotTarget.Reseal(file)));
        }
    }

    [Fact]
    public void Should_not_read_what_is_too_large()
    {
        using var files = new ScratchDirectory();
        var path = files.File("huge");
        using (var file = File.Create(path))
        {
            file.Write(Good);
            file.SetLength(1L << 40);
        }

        var failure = Assert.Throws<SnapshotException>(() => StateFile.Load(path));
        Assert.Equal($"the state file {path} can't be used: larger than {StateFile.LargestFile} bytes", failure.Message);
    }

    private static string Refusal(byte[] file) => Assert.Throws<SnapshotException>(() => StateFile.Decode(file)).Message;
}
