using System.IO.Pipes;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Tests.Machines;

public sealed class StandardStreamTests
{
    [Fact]
    public void Should_know_what_stands_behind_a_descriptor()
    {
        using var pipe = new AnonymousPipeServerStream(PipeDirection.In);
        using var file = File.OpenHandle(typeof(StandardStreamTests).Assembly.Location);
        using var device = File.OpenHandle("/dev/zero");
        Assert.Equal(StreamKind.Pipe, Kind(pipe.ClientSafePipeHandle));
        Assert.Equal(StreamKind.File, Kind(file));
        Assert.Equal(StreamKind.Other, Kind(device));
        using var none = new StandardStream(-1);
        Assert.Equal(StreamKind.None, none.Kind);
    }

    [Fact]
    public void Should_put_the_descriptors_flags_back()
    {
        using var pipe = new AnonymousPipeServerStream(PipeDirection.In);
        var fd = (int)pipe.ClientSafePipeHandle.DangerousGetHandle();
        var before = Flags(fd);
        using (new StandardStream(fd))
        {
            Assert.Equal(before | 0x800, Flags(fd));
        }

        Assert.Equal(before, Flags(fd));
    }

    private static StreamKind Kind(System.Runtime.InteropServices.SafeHandle handle)
    {
        using var stream = new StandardStream((int)handle.DangerousGetHandle());
        return stream.Kind;
    }

    private static int Flags(int fd) =>
        Convert.ToInt32(File.ReadLines($"/proc/self/fdinfo/{fd}").First(line => line.StartsWith("flags:", StringComparison.Ordinal))[6..].Trim(), 8);
}
