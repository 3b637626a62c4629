using System.Formats.Tar;
using System.IO.Compression;
using System.Text;
using Fleet.Scheduler.Simulation;
using Xunit;

namespace Fleet.Scheduler.Tests.Simulation;

public sealed class TraceTests : IDisposable
{
    private const string Header = "vmId,tenantId,cores,ram,vmTypeId,starttime,endtime";

    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-traces-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Should_read_a_packed_protean_sample_in_the_order_of_its_times()
    {
        var path = Packed("sample.csv.gz", $"{Header}\n7,1,2.5,4,0,-3,inf\n8,1,1,2,1,-5,1\n9,2,1,3,0,1,2\n");
        var trace = ArrivalTrace.Read(path, 1);
        Assert.Equal("sample", trace.Name);
        Assert.Equal([new(3, 4), new(1, 2), new(1, 3)], trace.Needs);
        // The second was there first, and goes before the third comes.
        Assert.Equal([new(0, 1, true), new(0, 0, true), new(86_400, 1, false), new(86_400, 2, true), new(172_800, 2, false)], trace.Events);
    }

    [Theory]
    [InlineData("vmId\n", 1)]
    [InlineData("", 1)]
    [InlineData(Header + "\n1,1,1,1,0,0,1\n1,1,1,1,0,0\n", 3)]
    [InlineData(Header + "\n1,1,1,x,0,0,1\n", 2)]
    [InlineData(Header + "\n1,1,1,1,0,NaN,1\n", 2)]
    [InlineData(Header + "\n1,1,1,1,0,0,never\n", 2)]
    [InlineData(Header + "\n1,1,-1,1,0,0,1\n", 2)]
    [InlineData(Header + "\n1,1,1,1,0,2,1\n", 2)]
    [InlineData(Header + "\n1,1,1,1e300,0,0,1\n", 2)]
    public void Should_name_the_line_of_a_protean_sample_that_is_broken(string text, int line)
    {
        var broken = Assert.Throws<TraceException>(() => ArrivalTrace.Read(Written("sample.csv", text), 1));
        Assert.Equal(TraceException.Malformed, broken.Code);
        Assert.Contains($"line {line}:", broken.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_not_take_in_a_line_without_end_or_what_is_no_archive()
    {
        var endless = Assert.Throws<TraceException>(() => ArrivalTrace.Read(Packed("bomb.csv.gz", Header + "\n" + new string('1', 10_000_000)), 1));
        Assert.Contains("line 2: longer than", endless.Message, StringComparison.Ordinal);
        Assert.Equal(TraceException.Malformed, Assert.Throws<TraceException>(() => ArrivalTrace.Read(Written("plain.csv.gz", "not packed at all"), 1)).Code);
        Assert.Equal(TraceException.NotFound, Assert.Throws<TraceException>(() => ArrivalTrace.Read(Path.Combine(_folder, "nowhere.csv"), 1)).Code);
        Assert.Equal(TraceException.Malformed, Assert.Throws<TraceException>(() => UsageCurves.Read(Written("plain.tar.gz", "not packed at all")).ToList()).Code);
        Assert.Equal(TraceException.NotFound, Assert.Throws<TraceException>(() => UsageCurves.Read(Path.Combine(_folder, "nowhere.tar.gz")).ToList()).Code);
    }

    [Fact]
    public void Should_read_azures_batches_with_their_lifetimes()
    {
        Azure("1800 a,|,b,b,|\n2100 a,|\n", "1800 U0,|,U1,C1,|\n2100 U1,|\n");
        var trace = ArrivalTrace.Read(_folder, 5);
        Assert.Equal([new(1, 768), new(4, 7168), new(4, 7168), new(1, 768)], trace.Needs);
        double Of(int vm, bool comes) => trace.Events.Single(one => one.Vm == vm && one.Comes == comes).At;
        Assert.All([0, 1, 2], vm => Assert.InRange(Of(vm, true), 0, 300));
        Assert.InRange(Of(3, true), 300, 600);
        Assert.InRange(Of(0, false) - Of(0, true), 0, 300);
        Assert.InRange(Of(1, false) - Of(1, true), 300, 900);
        // It had not ended when the record did.
        Assert.DoesNotContain(trace.Events, one => one is { Vm: 2, Comes: false });
        Assert.Equal(trace.Events, ArrivalTrace.Read(_folder, 5).Events);
    }

    [Theory]
    [InlineData("1800 a,|,z,|\n", "1800 U0,|,U0,|\n", "v1.dev.txt', line 1")]
    [InlineData("1800 a,|\n", "1800 U9,|\n", "v1.dev.c2100000.txt.gz', line 1")]
    [InlineData("1800 a,|\n", "1800 X0,|\n", "v1.dev.c2100000.txt.gz', line 1")]
    [InlineData("1800 a,|\n", "1800 U0,U0\n", "v1.dev.c2100000.txt.gz', line 1")]
    [InlineData("1800 a,|\n2100 a,|\n", "1800 U0,|\n", "v1.dev.c2100000.txt.gz', line 2")]
    [InlineData("1800 a,|\n", "2100 U0,|\n", "v1.dev.c2100000.txt.gz', line 1")]
    [InlineData("soon a,|\n", "soon U0,|\n", "v1.dev.txt', line 1")]
    [InlineData("", "", "v1.dev.txt', line 1")]
    public void Should_name_the_line_of_azures_trace_that_is_broken(string arrivals, string lifetimes, string where)
    {
        Azure(arrivals, lifetimes);
        var broken = Assert.Throws<TraceException>(() => ArrivalTrace.Read(_folder, 1));
        Assert.Equal(TraceException.Malformed, broken.Code);
        Assert.Contains(where, broken.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_read_curves_with_and_without_memory_and_leave_out_short_ones()
    {
        var day = string.Concat(Enumerable.Range(0, UsageCurves.Samples).Select(at => $"{at % 100}\n"));
        var both = string.Concat(Enumerable.Range(0, UsageCurves.Samples).Select(_ => "50.5 120\n"));
        var path = Archive(("day/one", day), ("day/short", "1\n2\n"), ("day/two", both));
        var curves = UsageCurves.Read(path).ToList();
        Assert.Equal(["day/one", "day/two"], curves.Select(curve => curve.Name));
        Assert.Equal(0.99, curves[0].Cpu[99]);
        Assert.Null(curves[0].Memory);
        Assert.Equal((0.505, 1.0), (curves[1].Cpu[0], curves[1].Memory![0]));
    }

    [Theory]
    [InlineData("1\n2\nthree\n", 3)]
    [InlineData("1\n2 3\n", 2)]
    [InlineData("1 2\n3\n", 2)]
    [InlineData("1 2 3\n", 1)]
    public void Should_name_the_line_of_a_curve_that_is_broken(string text, int line)
    {
        var broken = Assert.Throws<TraceException>(() => UsageCurves.Read(Archive(("vm", text))).ToList());
        Assert.Contains($"vm', line {line}:", broken.Message, StringComparison.Ordinal);
    }

    private void Azure(string arrivals, string lifetimes)
    {
        Written("flav_map.txt", "1,0.75 a\n4,7 b\n");
        Written("v1.interval_map.txt", "0 0\n300 1\n600 1\n");
        Written("v1.dev.txt", arrivals);
        Packed("v1.dev.c2100000.txt.gz", lifetimes);
    }

    private string Written(string name, string text)
    {
        var path = Path.Combine(_folder, name);
        File.WriteAllText(path, text);
        return path;
    }

    private string Packed(string name, string text)
    {
        var path = Path.Combine(_folder, name);
        using var packed = new GZipStream(File.Create(path), CompressionLevel.Fastest);
        packed.Write(Encoding.UTF8.GetBytes(text));
        return path;
    }

    private string Archive(params (string Name, string Text)[] files)
    {
        var path = Path.Combine(_folder, "curves.tar.gz");
        using var tar = new TarWriter(new GZipStream(File.Create(path), CompressionLevel.Fastest));
        foreach (var (name, text) in files)
            tar.WriteEntry(new PaxTarEntry(TarEntryType.RegularFile, name) { DataStream = new MemoryStream(Encoding.UTF8.GetBytes(text)) });
        return path;
    }
}
