using System.Text;
using System.Text.Json.Nodes;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Images;
using Fleet.Host.Images.Oci;

namespace Fleet.Host.Tests.Images.Oci;

public sealed partial class ImageStoreTests : IDisposable
{
    private static readonly ImageStoreOptions Quick = new() { Retries = new RetryTerms(3, TimeSpan.FromMilliseconds(1)), KeptFree = 0 };

    private readonly TestFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task An_image_is_pulled_once_however_many_want_it()
    {
        var image = TestImage.Small();
        using var registry = new FakeRegistry(image);
        var store = Store();

        var all = await Task.WhenAll(Enumerable.Range(0, 50).Select(_ => Get(store, registry.Reference)));

        Assert.All(all, one => Assert.Equal((image.Digest, registry.Reference), (one.Digest, one.Reference)));
        Assert.All(image.Layers, layer => Assert.Equal(1, registry.Asked(layer)));
        Assert.Equal(1, registry.Asked("/manifests/"));
        Assert.Equal([registry.Reference], store.List().Select(one => one.Reference));
        Assert.Single(Files("roots"));
        Assert.Equal(UnixFileMode.UserRead, File.GetUnixFileMode(store.RootOf(all[0])));
    }

    [Fact]
    public async Task What_the_agent_and_somebody_at_the_machine_want_at_once_is_fetched_once()
    {
        var image = TestImage.Big();
        using var registry = new FakeRegistry(image);
        // The lock that keeps processes apart keeps stores apart as well.
        var (agent, beside) = (Store(), Store());
        File.WriteAllText(_folder.At("images", "fetching", "of-a-killed-one"), "");

        var both = await Task.WhenAll(Get(agent, registry.Reference), Get(beside, registry.Reference));

        Assert.All(both, one => Assert.Equal(image.Digest, one.Digest));
        Assert.All(image.Layers, layer => Assert.Equal(1, registry.Asked(layer)));
        agent.RemoveLeftovers();
        Assert.Empty(Files("fetching"));
    }

    [Fact]
    public async Task What_one_process_fetches_or_makes_another_does_not_remove()
    {
        var content = new byte[3 << 20];
        new Random(11).NextBytes(content);
        var image = TestImage.Of([new TarMaker().File("big", content).ToArray(), new TarMaker().File("second", "2").ToArray()]);
        using var registry = new FakeRegistry(image);
        using var other = new FakeRegistry(TestImage.Small());
        using var asked = new SemaphoreSlim(0);
        using var goOn = new ManualResetEventSlim();
        registry.Fault = context =>
        {
            if (!context.Request.RawUrl!.Contains(image.Layers[1], StringComparison.Ordinal)) return false;
            // One request after the other: the first layer comes first.
            if (registry.Asked(image.Layers[0]) == 0) return FakeRegistry.Answer(context, 503, null, ("Retry-After", "0"));
            asked.Release();
            goOn.Wait();
            return false;
        };
        var pull = Get(Store(Quick with { Retries = new RetryTerms(1000, TimeSpan.FromMilliseconds(1)) }), registry.Reference);
        try
        {
            await asked.WaitAsync();
            string first = _folder.At("images", "layers", image.Layers[0][7..]), part = _folder.At("images", "layers", image.Layers[1][7..] + ".part");
            Assert.True(SpinWait.SpinUntil(() => IsHeld(first), TimeSpan.FromSeconds(30)));
            var making = Path.Combine(_folder.At("images", "roots"), Path.GetFileNameWithoutExtension(Assert.Single(Files("fetching"), file => Path.GetFileName(file).StartsWith(".making-", StringComparison.Ordinal))));
            File.WriteAllText(making, "being made");
            File.WriteAllText(_folder.At("images", "roots", ".making-dead"), "half");

            // The lock that keeps processes apart keeps stores apart as well.
            var beside = Store(Quick with { MaxBytes = 1 << 20 });
            Assert.Equal("image_no_space", await CodeOf(other.Reference, beside));
            beside.RemoveLeftovers();

            Assert.True(File.Exists(first), "a layer that a root is to be made of went");
            Assert.True(File.Exists(part), "what comes of a layer went");
            Assert.Equal(making, Assert.Single(Files("roots")));
            File.Delete(making);
        }
        finally
        {
            goOn.Set();
        }
        Assert.Equal(image.Digest, (await pull).Digest);
        Assert.Equal(1, registry.Asked(image.Layers[0]));
        Assert.Empty(Files("fetching"));

        // Nothing holds it any more.
        await Get(Store(Quick with { Clock = new SetClock { Now = DateTimeOffset.UtcNow.AddHours(1) }, MaxBytes = 1 << 20 }), other.Reference);
        Assert.DoesNotContain(Files("layers"), file => file.EndsWith(image.Layers[0][7..], StringComparison.Ordinal));

        static bool IsHeld(string layer)
        {
            // Not so often that it is in the way.
            Thread.Sleep(20);
            if (!File.Exists(layer)) return false;
            using var taken = FileLock.TryTake(layer);
            return taken is null;
        }
    }

    [Fact]
    public async Task What_is_here_is_not_asked_for_again_also_by_the_next_agent()
    {
        using var registry = new FakeRegistry(TestImage.Small());
        await Get(Store(), registry.Reference);
        var asked = registry.Requests.Count;
        await Get(Store(), registry.Reference);
        Assert.Equal(asked, registry.Requests.Count);
        Assert.Null(Store().Find("127.0.0.1:1/other:1"));
    }

    [Fact]
    public async Task Two_names_of_one_image_share_its_root_and_the_last_name_takes_it_along()
    {
        using var registry = new FakeRegistry(TestImage.Small());
        registry.Tags["2"] = registry.Tags["1"];
        var store = Store();
        await Get(store, registry.Reference);
        var second = registry.Reference[..^1] + "2";
        var image = await Get(store, second);
        Assert.Single(Files("roots"));
        Assert.True(store.Remove(registry.Reference));
        Assert.True(File.Exists(store.RootOf(image)));
        Assert.True(store.Remove(second));
        Assert.False(store.Remove(second));
        Assert.Empty(Files("roots"));
        Assert.Empty(Files("names"));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_layer_that_breaks_off_is_gone_on_with(bool ranges)
    {
        var image = TestImage.Big();
        using var registry = new FakeRegistry(image) { KnowsRanges = ranges };
        var broken = false;
        registry.Fault = context => !broken && context.Request.RawUrl!.Contains(image.Layers[0], StringComparison.Ordinal)
            && (broken = FakeRegistry.BreakOff(context, image.Blobs[image.Layers[0]], 1 << 20));
        await Get(Store(), registry.Reference);
        var ask = registry.Requests.Where(request => request.Path.Contains(image.Layers[0], StringComparison.Ordinal)).ToArray();
        Assert.Equal(2, ask.Length);
        Assert.Matches("^bytes=[1-9][0-9]*-$", ask[1].Range);
    }

    [Fact]
    public async Task What_a_killed_agent_had_of_a_layer_the_next_one_keeps()
    {
        var image = TestImage.Big();
        using var registry = new FakeRegistry(image);
        var blob = image.Blobs[image.Layers[0]];
        var store = Store();
        File.WriteAllBytes(_folder.At("images", "layers", image.Layers[0][7..] + ".part"), blob[..2_000_000]);
        File.WriteAllText(_folder.At("images", "roots", ".making-dead"), "half");
        store.RemoveLeftovers();
        await Get(store, registry.Reference);
        Assert.Equal(["bytes=2000000-"], registry.Requests.Where(request => request.Path.Contains(image.Layers[0], StringComparison.Ordinal)).Select(request => request.Range));
        Assert.Single(Files("roots"));
    }

    [Fact]
    public async Task What_a_killed_agent_left_wrong_is_had_anew()
    {
        var image = TestImage.Big();
        using var registry = new FakeRegistry(image);
        var store = Store();
        File.WriteAllBytes(_folder.At("images", "layers", image.Layers[0][7..] + ".part"), new byte[1_000_000]);
        await Get(store, registry.Reference);
        Assert.Equal(2, registry.Asked(image.Layers[0]));
    }

    [Fact]
    public async Task A_registry_in_trouble_is_asked_again()
    {
        using var registry = new FakeRegistry(TestImage.Small());
        var answers = new Queue<int>([503, 429, 200, 500, 200, 502]);
        registry.Fault = context => answers.TryDequeue(out var status) && status != 200 && FakeRegistry.Answer(context, status, null, ("Retry-After", "0"));
        await Get(Store(), registry.Reference);
        Assert.Empty(answers);
    }

    [Fact]
    public async Task A_registry_that_never_works_is_given_up_and_one_that_is_not_there_as_well()
    {
        using var registry = new FakeRegistry(TestImage.Small()) { Fault = context => FakeRegistry.Answer(context, 503) };
        Assert.Equal("registry_unavailable", await CodeOf(registry.Reference));
        Assert.Equal(3, registry.Requests.Count);
        Assert.Equal("registry_unavailable", await CodeOf($"127.0.0.1:{Fleet.Tests.FreePort.Next()}/a:1"));
    }

    [Fact]
    public async Task What_the_registry_has_not_is_not_found()
    {
        using var registry = new FakeRegistry(TestImage.Small());
        Assert.Equal("image_not_found", await CodeOf($"{registry.Address}/some/image:no"));
        Assert.Equal("image_not_found", await CodeOf($"oci:{_folder.At("nothing")}"));
        Assert.Equal("image_not_found", await CodeOf($"docker-archive:{_folder.At("nothing.tar")}"));
        Assert.Empty(Files("names"));
    }

    [Fact]
    public async Task A_token_is_got_where_the_registry_says_and_given_to_nobody_else()
    {
        var image = TestImage.Small();
        using var registry = new FakeRegistry(image);
        using var elsewhere = new FakeRegistry(image);
        registry.Fault = context =>
        {
            if (context.Request.RawUrl!.StartsWith("/token?", StringComparison.Ordinal))
                return FakeRegistry.Answer(context, context.Request.QueryString["scope"] == "repository:some/image:pull" ? 200 : 500, """{"token":"abc"}"""u8.ToArray());
            if (context.Request.Headers["Authorization"] != "Bearer abc")
                return FakeRegistry.Answer(context, 401, null, ("WWW-Authenticate", $"Bearer realm=\"http://{registry.Address}/token\",service=\"it\""));
            return context.Request.RawUrl.Contains("/blobs/", StringComparison.Ordinal)
                && FakeRegistry.Answer(context, 307, null, ("Location", $"http://{elsewhere.Address}{context.Request.RawUrl}"));
        };
        await Get(Store(), registry.Reference);
        Assert.All(elsewhere.Requests, request => Assert.Null(request.Authorization));
        Assert.Equal(3, elsewhere.Requests.Count);
    }

    [Fact]
    public async Task What_nobody_expected_of_a_pull_is_not_the_hosts_fault()
    {
        using var registry = new FakeRegistry(TestImage.Small());
        var store = Store();
        Assert.Equal("image_refused", (await Assert.ThrowsAsync<LaunchFailedException>(() => store.GetAsync(registry.Reference, "", new Broken(), again: false, default))).Code);
    }

    [Theory]
    [InlineData("http://192.0.2.1/x")]
    [InlineData("ftp://127.0.0.1/x")]
    [InlineData("file:///etc/passwd")]
    [InlineData("/v2/some/image/manifests/1")]
    public async Task Where_it_must_not_be_sent_it_does_not_go(string location)
    {
        using var registry = new FakeRegistry(TestImage.Small()) { Fault = context => FakeRegistry.Answer(context, 307, null, ("Location", location)) };
        Assert.Equal("registry_unavailable", await CodeOf(registry.Reference));
        Assert.InRange(registry.Requests.Count, 1, 6);
    }

    [SkippableFact]
    public async Task A_name_that_leads_to_this_machine_is_not_asked()
    {
        var name = System.Net.Dns.GetHostName();
        Skip.IfNot((await System.Net.Dns.GetHostAddressesAsync(name)).Any(System.Net.IPAddress.IsLoopback), "this machine's name does not lead to its loopback");
        using var listener = new System.Net.Sockets.TcpListener(System.Net.IPAddress.Loopback, 0);
        listener.Start();
        var port = ((System.Net.IPEndPoint)listener.LocalEndpoint).Port;
        var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => Get(Store(), $"{name}:{port}/a:1"));
        Assert.Equal("registry_unavailable", refused.Code);
        Assert.Contains("this machine", refused.Message, StringComparison.Ordinal);
        Assert.False(listener.Pending());
    }

    [Theory]
    [InlineData("127.0.0.1", true)]
    [InlineData("0.0.0.0", true)]
    [InlineData("169.254.169.254", true)]
    [InlineData("::1", true)]
    [InlineData("::", true)]
    [InlineData("::ffff:127.0.0.1", true)]
    [InlineData("fe80::1", true)]
    [InlineData("10.0.0.1", false)]
    [InlineData("2001:db8::1", false)]
    public void Addresses_of_this_machine_and_its_link_are_known(string address, bool own) =>
        Assert.Equal(own, RegistryOrigin.IsNear(System.Net.IPAddress.Parse(address)));

    [Fact]
    public async Task Bytes_that_are_not_what_they_are_called_are_refused_and_not_kept()
    {
        var image = TestImage.Big();
        using var registry = new FakeRegistry(image);
        var wrong = (byte[])image.Blobs[image.Layers[0]].Clone();
        wrong[1000] ^= 1;
        registry.Blobs[image.Layers[0]] = wrong;
        Assert.Equal("image_refused", await CodeOf(registry.Reference));
        registry.Blobs[image.Layers[0]] = [.. image.Blobs[image.Layers[0]], 0];
        Assert.Equal("image_refused", await CodeOf(registry.Reference));
        Assert.Empty(Files("layers"));
        Assert.Empty(Files("roots"));

        // A manifest that is asked for by its digest.
        registry.Blobs[TarMaker.Digest([])] = image.Manifest;
        Assert.Equal("image_refused", await CodeOf($"{registry.Address}/some/image@{TarMaker.Digest([])}"));
    }

    [Fact]
    public async Task A_layer_cut_short_for_ever_is_the_registrys_fault()
    {
        var image = TestImage.Big();
        using var registry = new FakeRegistry(image);
        registry.Blobs[image.Layers[0]] = image.Blobs[image.Layers[0]][..1000];
        Assert.Equal("registry_unavailable", await CodeOf(registry.Reference));
    }

    [Fact]
    public async Task A_hostile_layer_leaves_nothing_behind()
    {
        using var registry = new FakeRegistry(TestImage.Of([new TarMaker().File("../../../../etc/fleet-was-here", "x").ToArray()]));
        Assert.Equal("image_refused", await CodeOf(registry.Reference));
        Assert.Empty(Files("layers"));
        Assert.Empty(Files("roots"));
        Assert.Empty(Files("names"));
        Assert.False(File.Exists("/etc/fleet-was-here"));
    }

    [Fact]
    public async Task A_refused_image_takes_no_layer_from_another_pull()
    {
        var shared = new TarMaker().File("shared", "x").ToArray();
        var slow = new byte[1 << 20];
        new Random(3).NextBytes(slow);
        var good = TestImage.Of([shared, new TarMaker().File("slow", slow).ToArray()]);
        using var registry = new FakeRegistry(good);
        using var hostile = new FakeRegistry(TestImage.Of([shared, new TarMaker().File("../out", "x").ToArray()]));
        using var asked = new SemaphoreSlim(0);
        using var goOn = new ManualResetEventSlim();
        registry.Fault = context =>
        {
            if (!context.Request.RawUrl!.Contains(good.Layers[1], StringComparison.Ordinal)) return false;
            // One request after the other: the layer that both have comes first.
            if (registry.Asked(good.Layers[0]) == 0) return FakeRegistry.Answer(context, 503, null, ("Retry-After", "0"));
            asked.Release();
            goOn.Wait();
            return false;
        };
        var store = Store(Quick with { Retries = new RetryTerms(1000, TimeSpan.FromMilliseconds(1)) });
        var pull = Get(store, registry.Reference);
        await asked.WaitAsync();
        Assert.Equal("image_refused", await CodeOf(hostile.Reference, store));
        goOn.Set();
        await pull;
        Assert.Equal(1, registry.Asked(good.Layers[0]) + hostile.Asked(good.Layers[0]));
    }

    [Fact]
    public async Task An_index_leads_to_the_manifest_for_this_machine()
    {
        var image = TestImage.Small();
        using var registry = new FakeRegistry(image);
        JsonObject Entry(string architecture, string digest) => new() { ["digest"] = digest, ["size"] = 1, ["platform"] = new JsonObject { ["os"] = "linux", ["architecture"] = architecture } };
        byte[] Index(string architecture) => Encoding.UTF8.GetBytes(new JsonObject
        {
            ["schemaVersion"] = 2,
            ["manifests"] = new JsonArray(Entry("s390x", TarMaker.Digest([])), Entry(architecture, image.Digest)),
        }.ToJsonString());
        registry.Tags["1"] = Index(ImageDocuments.Architecture);
        Assert.Equal(image.Digest, (await Get(Store(), registry.Reference)).Digest);
        registry.Tags["2"] = Index("riscv64");
        Assert.Equal("image_refused", await CodeOf($"{registry.Address}/some/image:2"));
    }

    public static TheoryData<string> WrongDocuments() =>
    [
        "", "x", "[]", "{}", "null", """{"schemaVersion":1}""", """{"schemaVersion":2,"config":{},"layers":[]}""", """{"schemaVersion":2,"config":3,"layers":3}""",
        """{"manifests":{}}""", """{"manifests":[]}""", """{"manifests":[1]}""", """{"manifests":[{"digest":"sha256:zz","size":1}]}""", new string('[', 100_000),
    ];

    [Theory]
    [MemberData(nameof(WrongDocuments))]
    public async Task A_manifest_that_is_none_is_refused(string text)
    {
        using var registry = new FakeRegistry(TestImage.Small());
        registry.Tags["1"] = Encoding.UTF8.GetBytes(text);
        Assert.Equal("image_refused", await CodeOf(registry.Reference));
    }

    [Fact]
    public async Task What_can_not_be_run_here_is_refused()
    {
        byte[][] layers = [new TarMaker().File("a", "x").ToArray()];
        TestImage[] wrong =
        [
            TestImage.Of(layers, architecture: "s390x"),
            TestImage.Of(layers, new JsonObject { ["StopSignal"] = "SIGNONE" }),
            TestImage.Of(layers, new JsonObject { ["Env"] = new JsonArray("novalue") }),
            TestImage.Of(layers, change: manifest => manifest["layers"] = new JsonArray()),
            TestImage.Of(layers, change: manifest => manifest["layers"]![0]!["size"] = 1L << 50),
            TestImage.Of(layers, change: manifest => manifest["layers"]![0]!["size"] = -1),
            TestImage.Of(layers, change: manifest => manifest["layers"]![0]!["digest"] = "sha256:../../etc/passwd"),
            TestImage.Of(layers, change: manifest => manifest["layers"]![0]!["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
            TestImage.Of([.. Enumerable.Range(0, 257).Select(i => new TarMaker().File($"{i}", "").ToArray())]),
        ];
        foreach (var image in wrong)
        {
            using var registry = new FakeRegistry(image);
            Assert.Equal("image_refused", await CodeOf(registry.Reference));
        }
    }

    [Fact]
    public async Task An_image_removed_while_in_use_stays_with_its_microVM()
    {
        using var registry = new FakeRegistry(TestImage.Small());
        var store = Store();
        var image = await Get(store, registry.Reference);
        var link = _folder.At("root.squashfs");
        Posix.Link(store.RootOf(image), link);
        var bytes = File.ReadAllBytes(link);
        store.Remove(registry.Reference);
        Assert.Equal(bytes, File.ReadAllBytes(link));
        Assert.Null(store.Find(registry.Reference));
    }

    [Fact]
    public async Task Who_asked_first_for_a_layer_may_leave_while_others_wait_for_it()
    {
        var image = TestImage.Big();
        using var registry = new FakeRegistry(image);
        registry.Tags["2"] = registry.Tags["1"];
        var config = image.Blobs.Keys.Single(digest => digest != image.Digest && !image.Layers.Contains(digest));
        using var configs = new SemaphoreSlim(0);
        using var layers = new SemaphoreSlim(0);
        using var goOn = new ManualResetEventSlim();
        registry.Fault = context =>
        {
            if (context.Request.RawUrl!.Contains(config, StringComparison.Ordinal)) configs.Release();
            if (!context.Request.RawUrl.Contains(image.Layers[0], StringComparison.Ordinal) || registry.Asked(image.Layers[0]) > 1) return false;
            // Breaks off once the first has left, so that it has to be asked again.
            var blob = image.Blobs[image.Layers[0]];
            context.Response.ContentLength64 = blob.Length;
            context.Response.OutputStream.Write(blob, 0, 1 << 20);
            context.Response.OutputStream.Flush();
            layers.Release();
            _ = Task.Run(() =>
            {
                goOn.Wait();
                context.Response.Abort();
            });
            return true;
        };
        var store = Store();
        using var impatient = new CancellationTokenSource();
        var first = store.GetAsync(registry.Reference, "", null, again: false, impatient.Token);
        await configs.WaitAsync();
        await layers.WaitAsync();
        var second = Get(store, registry.Reference[..^1] + "2");
        await configs.WaitAsync();
        await impatient.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => first);
        goOn.Set();
        Assert.Equal(image.Digest, (await second).Digest);
    }

    [Fact]
    public async Task Who_gives_up_keeps_nobody_else_from_it()
    {
        using var registry = new FakeRegistry(TestImage.Small());
        using var goOn = new ManualResetEventSlim();
        registry.Fault = context =>
        {
            if (context.Request.RawUrl!.Contains("/manifests/", StringComparison.Ordinal)) goOn.Wait();
            return false;
        };
        var store = Store();
        using var impatient = new CancellationTokenSource();
        var one = store.GetAsync(registry.Reference, "", null, again: false, impatient.Token);
        var other = Get(store, registry.Reference);
        await impatient.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => one);
        goOn.Set();
        await other;
        Assert.Equal(1, registry.Asked("/manifests/"));
    }

    [Fact]
    public async Task An_oci_layout_on_this_host_is_an_image()
    {
        var image = TestImage.Small();
        image.WriteLayout(_folder.At("layout"), "v1");
        Public();
        Assert.Equal(image.Digest, (await Get(Store(), $"oci:{_folder.At("layout")}:v1")).Digest);
        Assert.Equal(image.Digest, (await Get(Store(), $"oci:{_folder.At("layout")}")).Digest);
        Assert.Equal("image_not_found", await CodeOf($"oci:{_folder.At("layout")}:v2"));
    }

    [Fact]
    public void Stop_signals_have_names_and_numbers()
    {
        Assert.Equal([15, 15, 3, 3, 10, 37, 64, 9], ((string[])["", "SIGTERM", "SIGQUIT", "quit", "10", "SIGRTMIN+3", "RTMAX", "KILL"]).Select(StopSignals.Parse));
        Assert.All((string[])["0", "65", "SIG", "SIGFOO", "RTMIN+99", "RTMIN+x", "-1"], wrong => Assert.Throws<LaunchFailedException>(() => StopSignals.Parse(wrong)));
    }

    private void Public() => File.SetUnixFileMode(_folder.Path, (UnixFileMode)0x1ED);

    private ImageStore Store(ImageStoreOptions? options = null) => new(_folder.At("images"), options ?? Quick);

    private static Task<StoredImage> Get(ImageStore store, string reference) => store.GetAsync(reference, "", null, again: false, default);

    private string[] Files(string kind) => Directory.Exists(_folder.At("images", kind)) ? Directory.GetFiles(_folder.At("images", kind)) : [];

    private async Task<string> CodeOf(string reference, ImageStore? store = null) =>
        (await Assert.ThrowsAsync<LaunchFailedException>(() => Get(store ?? Store(), reference))).Code;

    private sealed class Broken : IProgress<PullProgress>
    {
        public void Report(PullProgress value) => throw new UriFormatException("nobody expected it");
    }

    private sealed class SetClock : TimeProvider
    {
        public DateTimeOffset Now { get; set; } = DateTimeOffset.UtcNow;

        public override DateTimeOffset GetUtcNow() => Now;
    }
}
