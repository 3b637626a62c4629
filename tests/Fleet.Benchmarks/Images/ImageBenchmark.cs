using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using Fleet.Benchmarks.Lab;
using Fleet.Host.Images.Oci;
using Fleet.Host.Tests.Images.Oci;
using Fleet.Tests;

namespace Fleet.Benchmarks.Images;

/// <summary>
/// <c>fleet bench image</c>: an image of 8 layers and 100 MB from a registry on this machine to a root that boots, against skopeo and umoci, which leave
/// it as a folder. Ours is on the disk when it is done (fsync); theirs may be in the page cache. One after the other, in turns; the first turn does not count.
/// </summary>
internal static class ImageBenchmark
{
    private const int Layers = 8, FilesOfLayer = 200, BytesOfFile = 64 * 1024, Rounds = 5;

    public static IReadOnlyList<Measurement> Run() => RunAsync().GetAwaiter().GetResult();

    private static async Task<IReadOnlyList<Measurement>> RunAsync()
    {
        if (!DockerRegistry.IsInstalled) throw new BenchmarkException("docker-registry is not installed; run ./fleet build");
        var folder = Directory.CreateTempSubdirectory("fleet-bench-image-");
        string At(string name) => Path.Combine(folder.FullName, name);
        try
        {
            using var registry = await DockerRegistry.StartAsync(At("registry"));
            Make().WriteLayout(At("made"), "v1");
            Tool("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", $"oci:{At("made")}:v1", $"docker://{registry.Address}/bench:v1");
            var reference = $"{registry.Address}/bench:v1";
            List<double> ours = [], theirs = [];
            var second = 0.0;
            for (var round = 0; round <= Rounds; round++)
            {
                var began = Stopwatch.GetTimestamp();
                var store = new ImageStore(At("images"), new ImageStoreOptions());
                var image = await store.GetAsync(reference, "", null, again: false, default);
                var our = Stopwatch.GetElapsedTime(began).TotalSeconds;
                var before = Used(At("images"));
                var again = await store.GetAsync(reference, "", null, again: false, default);
                second = (Used(At("images")) - before + (again == image || again.Root == image.Root ? 0 : 1)) / 1e6;
                Directory.Delete(At("images"), recursive: true);

                began = Stopwatch.GetTimestamp();
                Tool("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", $"docker://{reference}", $"oci:{At("copy")}:v1");
                Tool("umoci", "unpack", "--image", $"{At("copy")}:v1", At("bundle"));
                var their = Stopwatch.GetElapsedTime(began).TotalSeconds;
                Directory.Delete(At("copy"), recursive: true);
                Directory.Delete(At("bundle"), recursive: true);
                if (round == 0) continue;
                ours.Add(our);
                theirs.Add(their);
            }
            return
            [
                new Measurement("pull_s", LabBench.Median(ours), "s", "skopeo copy + umoci unpack", LabBench.Median(theirs)),
                new Measurement("pull_ratio", LabBench.Median(ours) / LabBench.Median(theirs), ""),
                new Measurement("second_copy_mb", second, "MB"),
            ];
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static TestImage Make()
    {
        var random = new Random(1);
        var layers = new byte[Layers][];
        for (var i = 0; i < Layers; i++)
        {
            var tar = new TarMaker();
            for (var file = 0; file < FilesOfLayer; file++)
            {
                // As programs are: about half of it compresses away.
                var content = new byte[BytesOfFile];
                random.NextBytes(content.AsSpan(0, BytesOfFile / 2));
                for (var at = BytesOfFile / 2; at < BytesOfFile; at++) content[at] = (byte)(at / 16 % 61);
                tar.File(string.Create(CultureInfo.InvariantCulture, $"usr/lib/{i}/{file}"), content);
            }
            layers[i] = tar.ToArray();
        }
        return TestImage.Of(layers);
    }

    private static long Used(string folder) => new DirectoryInfo(folder).EnumerateFiles("*", SearchOption.AllDirectories).Sum(file => file.Length);

    private static void Tool(string program, params string[] arguments)
    {
        try
        {
            using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
            var errors = process.StandardError.ReadToEndAsync();
            process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            if (process.ExitCode != 0) throw new BenchmarkException($"{program} failed: {errors.Result}");
        }
        catch (Win32Exception missing)
        {
            throw new BenchmarkException($"{program} can't be started: {missing.Message}; run ./fleet build");
        }
    }
}
