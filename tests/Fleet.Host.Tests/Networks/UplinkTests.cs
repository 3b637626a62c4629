using Fleet.Host.Networks;

namespace Fleet.Host.Tests.Networks;

public sealed class UplinkTests : IDisposable
{
    private const string Head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("fleet-uplink-");

    public void Dispose() => _folder.Delete(recursive: true);

    [Theory]
    [InlineData("10000\n", 10_000)]
    [InlineData("-1\n", null)]
    [InlineData("0\n", null)]
    [InlineData("fast\n", null)]
    [InlineData(null, null)]
    public void Should_tell_the_speed_of_the_preferred_default_route_where_its_driver_does(string? speed, int? expected)
    {
        Write("proc/net/route", Head + Route("wlan0", "00000000", 600) + Route("eth0", "00000000", 100) + Route("eth1", "0000FEA9", 0));
        Write("sys/class/net/wlan0/speed", "54\n");
        Write("sys/class/net/eth1/speed", "25000\n");
        if (speed is not null)
            Write("sys/class/net/eth0/speed", speed);
        Assert.Equal(expected, Uplink.SpeedMbit(Path.Combine(_folder.FullName, "proc"), Path.Combine(_folder.FullName, "sys")));
    }

    [Fact]
    public void Should_tell_none_without_a_default_route_or_where_the_kernel_is_silent()
    {
        Assert.Null(Uplink.DefaultInterface(Head + Route("eth1", "0000FEA9", 0)));
        Assert.Null(Uplink.DefaultInterface("broken\n\teth0\n\n"));
        Assert.Null(Uplink.DefaultInterface(Head + Route("../x", "00000000", 0)));
        Assert.Null(Uplink.SpeedMbit(_folder.FullName, _folder.FullName));
    }

    private static string Route(string name, string destination, int metric) =>
        $"{name}\t{destination}\t0102A8C0\t0003\t0\t0\t{metric}\t{(destination == "00000000" ? "00000000" : "0000FFFF")}\t0\t0\t0 \n";

    private void Write(string name, string text)
    {
        var path = Path.Combine(_folder.FullName, name);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        File.WriteAllText(path, text);
    }
}
