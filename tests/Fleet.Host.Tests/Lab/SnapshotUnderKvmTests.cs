using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Fleet.Host.Drivers;
using Fleet.Host.Images;
using Fleet.Host.Lab;
using Fleet.Tests;
using Serilog.Core;

namespace Fleet.Host.Tests.Lab;

/// <summary>Debian's Linux under fleet-vmm in a lab node: what it changes is saved piece by piece, put together, and gone on with on another disk and with a processor made to measure.</summary>
[Trait("Kind", "Slow")]
[Collection(NodeForGuests.Name)]
public sealed class SnapshotUnderKvmTests(LabNodeFixture fixture)
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(180);

    // In the guest: a line every so often, until the disk says that it is enough.
    private const string Guest = """
        echo pni $(grep -c pni /proc/cpuinfo)
        n=0
        while :; do
            n=$((n+1)); echo 3 >/proc/sys/vm/drop_caches
            word=$(head -c 4 /dev/vda); dd if=/dev/urandom of=/tmp/r bs=64k count=1 2>/dev/null; sha256sum /tmp/r >/tmp/sum
            echo tick $n $word size $(cat /sys/block/vda/size) good $(sha256sum -c /tmp/sum 2>/dev/null | grep -c OK)
            [ "$word" = stop ] && break
            sleep 0.2
        done
        find / -xdev -name '*.ko' -o -name busybox | xargs sha256sum >/tmp/all; wc -l </tmp/all; exit 9
        """;

    // In the node: a whole snapshot, two of what changed, each put over the base, and the outcome in a new process.
    private const string Node = """
        api() { perl -MIO::Socket::UNIX -e '
          my ($name, $method, $path, $body) = @ARGV;
          my $socket; for (1 .. 100) { $socket = IO::Socket::UNIX->new($name) and last; select undef, undef, undef, 0.05; }
          printf $socket "%s %s HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", $method, $path, length $body, $body;
          $socket->flush; local $/; my $answer = <$socket>; print "$path: $answer"; exit($answer !~ m{^HTTP/1.1 2});' "$@" || exit 6; }
        wait_for() { i=0; until grep -q "$1" a.console; do i=$((i+1)); [ $i -lt 600 ] || { echo "no $1"; cat a.console; exit 5; }; sleep 0.1; done; }
        take() { api a.sock PATCH /vm '{"state": "Paused"}'; api a.sock PUT /snapshot/create "{\"snapshot_path\": \"vmstate\", \"mem_file_path\": \"$2\", \"snapshot_type\": \"$1\"}"; }
        "$VMM" --api-sock a.sock --config-file vm.json --log-path a.log >a.console &
        first=$!
        wait_for 'tick 3 '; take Full mem; api a.sock PATCH /vm '{"state": "Resumed"}'
        wait_for 'tick 6 '; take Diff diff1; api a.sock PATCH /vm '{"state": "Resumed"}'
        wait_for 'tick 9 '; take Diff diff2; cp vmstate vmstate2
        api a.sock PUT /snapshot/create '{"snapshot_path": "vmstate3", "mem_file_path": "whole"}'
        kill $first; wait $first
        cat a.console; echo; echo ==; grep -i warn a.log
        ls -s mem diff1 diff2 whole
        "$VMM" --merge-diff diff1 --into mem && "$VMM" --merge-diff diff2 --into mem || exit 7
        cmp mem whole && echo the same
        "$VMM" --api-sock c.sock --log-path c.log --metrics-path c.metrics >c.console &
        third=$!
        api c.sock PUT /snapshot/load '{"snapshot_path": "vmstate2", "mem_file_path": "mem", "resume_vm": true, "clock_realtime": true, "track_dirty_pages": true,
            "drive_overrides": [{"drive_id": "data", "path_on_host": "clone.img"}], "fleet_status_port_override": {"output_path": "c.status"}}'
        wait $third; echo third ended $?
        echo ==; cat c.console; echo; grep -i warn c.log; cat c.status; grep -o '"load_snapshot":[0-9]*' c.metrics | tail -n 1
        """;

    [Fact]
    public async Task Should_go_on_from_a_snapshot_and_two_of_what_changed()
    {
        var result = await RunAsync(new JsonObject
        {
            ["drives"] = new JsonArray(new JsonObject { ["drive_id"] = "data", ["is_root_device"] = false, ["path_on_host"] = "data.img", ["io_engine"] = "Async" }),
            ["entropy"] = new JsonObject(),
            ["machine-config"] = new JsonObject { ["vcpu_count"] = 2, ["mem_size_mib"] = 256, ["track_dirty_pages"] = true },
            ["cpu-config"] = JsonNode.Parse(
                """{"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [{"register": "ecx", "bitmap": "0b0"}]}]}"""),
        });
        Assert.True(result.ExitStatus == 0, result.Output + result.Errors);
        var parts = result.Output.Split("==");
        Assert.True(parts.Length == 3, result.Output);
        var (before, merged, clone) = (parts[0], parts[1], parts[2]);

        // The processor is the template's: without SSE3.
        Assert.Matches(@"pni 0\r?\n", before);
        Assert.DoesNotContain("WARN", merged, StringComparison.OrdinalIgnoreCase);
        Assert.Contains("the same", merged, StringComparison.Ordinal);
        Assert.True(Size(merged, "diff2") < Size(merged, "whole") / 2, merged);
        Assert.Contains("third ended 0", merged, StringComparison.Ordinal);

        // No line twice, none left out; then the other disk, whose size the guest was told.
        var ticks = Ticks(before);
        Assert.Equal(Enumerable.Range(1, ticks.Count), ticks.Select(tick => tick.Number));
        Assert.All(ticks, tick => Assert.Equal(("aaaa", 8, 1), (tick.Word, tick.Size, tick.Good)));
        var later = Ticks(clone);
        Assert.True(later.Count > 0 && later[0].Number - ticks[^1].Number is 0 or 1, result.Output);
        Assert.True(later[^1] is { Word: "stop", Size: 16, Good: 1 }, clone);
        Assert.Contains("FLEET 1 exit 9", clone, StringComparison.Ordinal);
    }

    private static List<(int Number, string Word, int Size, int Good)> Ticks(string console) =>
        [.. Regex.Matches(console, @"tick (\d+) (\w+) size (\d+) good (\d+)").Select(match => (
            Number(match, 1), match.Groups[2].Value, Number(match, 3), Number(match, 4)))];

    // Of a line of ls -s: blocks of 1 KiB.
    private static int Size(string text, string name) => Number(Regex.Match(text, $@"(\d+) {name}\b"), 1);

    private static int Number(Match match, int group) => int.Parse(match.Groups[group].Value, System.Globalization.CultureInfo.InvariantCulture);

    private async Task<LabResult> RunAsync(JsonObject devices)
    {
        var program = Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm");
        Assert.True(File.Exists(program), $"{program} is missing; build it with: ./fleet build");
        var folder = Directory.CreateTempSubdirectory("fleet-lab-").FullName;
        try
        {
            using var images = new DefaultImageStore(
                new ImageOptions(fixture.Options.CacheDirectory, Path.Combine(Checkout.Artifacts, "guest", "fleet-init")), Logger.None);
            var image = await images.GetDefaultAsync(default);
            await images.WriteInitrdAsync(image, new GuestRun(["sh", "-c", Guest], new Dictionary<string, string>(), "guest"), Path.Combine(folder, "initrd"), default);
            devices["boot-source"] = new JsonObject
            {
                ["kernel_image_path"] = image.KernelPath,
                ["initrd_path"] = "initrd",
                ["boot_args"] = BootFiles.DefaultArguments,
            };
            devices["fleet-status-port"] = new JsonObject { ["output_path"] = "status.log" };
            await File.WriteAllTextAsync(Path.Combine(folder, "vm.json"), devices.ToJsonString());
            await File.WriteAllTextAsync(Path.Combine(folder, "data.img"), new string('a', 4096));
            await File.WriteAllTextAsync(Path.Combine(folder, "clone.img"), "stop" + new string('c', 8188));
            return await fixture.RunAsync(
                LabCommand.Shell(Node) with { WorkingDirectory = folder, Environment = new Dictionary<string, string> { ["VMM"] = program } }, Limit);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
