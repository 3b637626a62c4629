using Fleet.Benchmarks.Start;
using Fleet.Tests;

namespace Fleet.Benchmarks.Memory;

/// <summary>
/// <c>fleet bench memory</c>: what a microVM costs beyond its own memory, with a network interface, a disk, vsock and a
/// balloon; and what one more costs where fifty run.
/// </summary>
internal static class MemoryBenchmark
{
    private const int GuestMib = 128;
    private const int Others = 50;
    private const int More = 10;

    public static IReadOnlyList<Measurement> Run()
    {
        var all = new List<VmmProcess>();
        try
        {
            for (var i = 0; i < Others; i++)
                all.Add(Start());
            var figures = all.Select(vmm => ProcessFigures.MemoryBeyondGuestMib(vmm.Pid, GuestMib)).ToArray();
            var before = Available();
            for (var i = 0; i < More; i++)
                all.Add(Start());
            var touched = all[^More..].Sum(vmm => ProcessFigures.GuestMib(vmm.Pid, GuestMib));
            var marginal = (before - Available() - touched) / More;
            return
            [
                new("resident_mib", Median(figures.Select(figure => figure.Resident)), "MiB"),
                new("private_mib", Median(figures.Select(figure => figure.Private)), "MiB"),
                new("marginal_mib", marginal, "MiB"),
            ];
        }
        finally
        {
            foreach (var vmm in all)
                vmm.Dispose();
        }
    }

    private static VmmProcess Start()
    {
        var vmm = new VmmProcess(tap: "fleet0");
        try
        {
            SmallGuest.Write(vmm.File("kernel"), SmallGuest.MarkAndIdle);
            File.WriteAllBytes(vmm.File("disk"), new byte[1 << 20]);
            vmm.Put("/boot-source", $$"""{"kernel_image_path": "{{vmm.File("kernel")}}", "boot_args": "x"}""");
            vmm.Put("/machine-config", $$"""{"vcpu_count": 1, "mem_size_mib": {{GuestMib}}}""");
            vmm.Put("/drives/d", $$"""{"drive_id": "d", "is_root_device": false, "path_on_host": "{{vmm.File("disk")}}"}""");
            vmm.Put("/network-interfaces/e", """{"iface_id": "e", "host_dev_name": "fleet0"}""");
            vmm.Put("/vsock", $$"""{"guest_cid": 3, "uds_path": "{{vmm.File("vsock")}}"}""");
            vmm.Put("/balloon", """{"amount_mib": 0, "deflate_on_oom": true}""");
            vmm.Put("/actions", """{"action_type": "InstanceStart"}""");
            return vmm;
        }
        catch
        {
            vmm.Dispose();
            throw;
        }
    }

    private static double Available() =>
        double.Parse(File.ReadLines("/proc/meminfo").First(line => line.StartsWith("MemAvailable:", StringComparison.Ordinal)).Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], System.Globalization.CultureInfo.InvariantCulture) / 1024;

    private static double Median(IEnumerable<double> values)
    {
        var sorted = values.Order().ToArray();
        return sorted[sorted.Length / 2];
    }
}
