using System.Runtime.CompilerServices;
using System.Text;
using CsCheck;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Projection;
using Fleet.Scheduler.Tests.Api;
using Fleet.Shared.Contracts;
using Google.Protobuf.WellKnownTypes;
using Microsoft.Data.Sqlite;
using Microsoft.Extensions.Logging.Abstractions;
using Xunit;

namespace Fleet.Scheduler.Tests.Projection;

public sealed class ProjectionTests : IDisposable
{
    private const int ChangesKept = 40;

    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("fleet-view-");

    public void Dispose() => _folder.Delete(recursive: true);

    /// <summary>However the events are cut into batches, and wherever the process is cut off, the tables are the same.</summary>
    [Fact]
    public void Crashes_at_random_points_leave_the_same_tables()
    {
        var step = Gen.Select(Gen.Int[0, 5], Gen.Int[0, 9], (vm, what) => (vm, what));
        Gen.Select(step.Array[0, 120], Gen.Int[1, 30].Array[1, 20]).Sample((steps, cuts) =>
        {
            var journal = Journal(steps);
            var straight = Build(journal, [int.MaxValue]);
            Assert.Equal(straight, Build(journal, cuts));
        }, iter: 15, threads: 1);
    }

    [Fact]
    public void An_event_is_counted_once_when_it_comes_twice()
    {
        var journal = Journal([(0, 0), (0, 1), (0, 2), (1, 0)]);
        using var writer = Open("twice");
        writer.Apply(journal);
        writer.Apply(journal);
        Assert.Equal(journal[^1].Offset, writer.Offset);
        Assert.Equal(4, new ViewReader(Connection("twice")).Changes(null, 100).Changes.Count);
    }

    [Fact]
    public void A_gap_is_refused_and_nothing_of_the_batch_is_kept()
    {
        var journal = Journal([(0, 0), (0, 1), (0, 2)]);
        using var writer = Open("gap");
        writer.Apply([journal[0]]);
        Assert.Throws<ProjectionGapException>(() => writer.Apply([journal[2]]));
        Assert.Equal(journal[0].Offset, writer.Offset);
        writer.Apply([journal[1], journal[2]]);
        Assert.Equal(VmState.Running, Assert.Single(new ViewReader(Connection("gap")).ListVms(VmFilter.None, "", 10).Items).State);
    }

    [Fact]
    public void Another_format_is_built_anew()
    {
        var journal = Journal([(0, 0), (1, 0)]);
        using (var writer = Open("format"))
            writer.Apply(journal);
        using (var connection = new SqliteConnection(Connection("format")))
        {
            connection.Open();
            using var command = new SqliteCommand("UPDATE meta SET value = 999 WHERE name = 'format'", connection);
            command.ExecuteNonQuery();
        }
        using var again = Open("format");
        Assert.Equal(0, again.Offset);
        Assert.Empty(new ViewReader(Connection("format")).ListVms(VmFilter.None, "", 10).Items);
    }

    [Fact]
    public void Pages_and_the_change_log_are_bounded_in_bytes_too()
    {
        const int Large = 200_000;
        var events = Enumerable.Range(0, 40).Select(i => new JournalEvent(i + 1, $"vm/vm-{i:d26}", 1, new VmCreated
        {
            Id = $"vm-{i:d26}",
            At = Timestamp.FromDateTimeOffset(DateTimeOffset.UnixEpoch),
            Spec = new VmSpec { Name = $"n{i}", Command = { new string('x', Large) } },
        })).ToList();
        using var writer = Open("bytes", changeBytesKept: 20 * Large);
        foreach (var entry in events)
            writer.Apply([entry]);
        var reader = new ViewReader(Connection("bytes"));

        var names = new HashSet<string>();
        for (string? after = ""; after is not null;)
        {
            var page = reader.ListVms(VmFilter.None, after, 1000);
            Assert.InRange(page.Items.Sum(vm => vm.CalculateSize()), 1, ViewReader.MostBytes + (2 * Large));
            names.UnionWith(page.Items.Select(vm => vm.Spec.Name));
            after = page.NextAfter;
        }

        Assert.Equal(40, names.Count);
        var slice = reader.Changes(null, 1000);
        Assert.InRange(slice.Compacted, 15, 30);
        var seen = new List<long>();
        for (var at = slice.Compacted; at < 40; at = slice.Index)
        {
            slice = reader.Changes(at, 1000);
            Assert.InRange(slice.Changes.Sum(change => change.Vm!.CalculateSize()), 1, ViewReader.MostBytes + (2 * Large));
            seen.AddRange(slice.Changes.Select(change => change.Index));
        }

        Assert.Equal(Enumerable.Range((int)seen[0], 41 - (int)seen[0]).Select(i => (long)i), seen);
        Assert.Equal(0UL, reader.VersionOf("vm/vm-none"));
        Assert.Equal(1UL, reader.VersionOf(events[7].PersistenceId));
    }

    [Fact]
    public async Task A_restarted_projection_goes_on_where_it_left_off()
    {
        var journal = Journal([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]);
        var feed = new ListFeed(journal.Take(3));
        await using (var projection = await StartAsync(feed, "restart"))
            await ApiUnderTest.UntilAsync(() => projection.Index == journal[2].Offset);
        Assert.Equal([0L], feed.Starts);

        feed.Add(journal.Skip(3));
        await using (var projection = await StartAsync(feed, "restart"))
        {
            Assert.InRange(projection.Index, journal[2].Offset, journal[^1].Offset);
            await ApiUnderTest.UntilAsync(() => projection.Index == journal[^1].Offset);
            Assert.Equal(2, projection.Reader.ListVms(VmFilter.None, "", 10).Items.Count);
        }
        Assert.Equal([0L, journal[2].Offset], feed.Starts);
    }

    /// <summary>A journal that was put back from a backup ends before what the view has, or has other events there by now.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_view_of_another_journal_is_built_anew(bool wentOn)
    {
        var journal = Journal([(0, 0), (0, 1), (0, 2), (1, 0)]);
        await using (var projection = await StartAsync(new ListFeed(journal), "restored"))
            await projection.CaughtUp.WaitAsync(TimeSpan.FromSeconds(10));

        var restored = Journal(wentOn ? [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2), (3, 0)] : [(0, 0), (0, 1)]);
        Assert.Equal(journal[..2], restored[..2]);
        await using (var projection = await StartAsync(new ListFeed(restored), "restored"))
            await projection.CaughtUp.WaitAsync(TimeSpan.FromSeconds(10));
        Assert.Equal(Build(restored, [int.MaxValue]), Dump("restored"));
    }

    [Fact]
    public async Task A_feed_that_fails_is_read_again_and_the_trouble_is_told()
    {
        var journal = Journal([(0, 0), (0, 1), (0, 2)]);
        var feed = new ListFeed(journal) { FailsAfter = 1 };
        await using var projection = await StartAsync(feed, "fails");
        await ApiUnderTest.UntilAsync(() => projection.Trouble == "The feed broke.");
        Assert.Equal(journal[0].Offset, projection.Index);
        feed.FailsAfter = int.MaxValue;
        await ApiUnderTest.UntilAsync(() => projection.Index == journal[^1].Offset);
        Assert.Null(projection.Trouble);
    }

    [Fact]
    public async Task A_view_that_was_behind_at_its_start_says_when_it_has_caught_up()
    {
        var journal = Journal([(0, 0), (0, 1), (0, 2)]);
        var feed = new ListFeed(journal) { FailsAfter = 1 };
        await using var projection = await StartAsync(feed, "behind");
        Assert.False(projection.CaughtUp.IsCompleted);
        feed.FailsAfter = int.MaxValue;
        await projection.CaughtUp.WaitAsync(TimeSpan.FromSeconds(10));
        Assert.Equal(journal[^1].Offset, projection.Index);
    }

    [Fact]
    public async Task Names_are_released_when_a_microVM_is_gone_even_if_that_fails()
    {
        var journal = Journal([(0, 0), (0, 9), (0, 9), (1, 0)]);
        var gone = new System.Collections.Concurrent.ConcurrentQueue<string>();
        await using var projection = new ViewProjection(new(File("gone")), new ListFeed(journal), (ids, _) =>
        {
            foreach (var id in ids)
                gone.Enqueue(id);
            throw new InvalidOperationException("The store is full.");
        }, TimeProvider.System, NullLogger.Instance);
        await projection.StartAsync(default);
        await ApiUnderTest.UntilAsync(() => projection.Index == journal[^1].Offset && !gone.IsEmpty);
        Assert.Equal(["vm-0"], gone);
        Assert.Null(projection.Trouble);
    }

    private string Build(List<JournalEvent> journal, int[] cuts)
    {
        var name = Guid.NewGuid().ToString("n");
        var at = 0;
        var cut = 0;
        while (at < journal.Count)
        {
            // Each turn is a process: it takes a batch, and is cut off in the middle of another that is then lost.
            using var writer = Open(name);
            at = journal.Count(e => e.Offset <= writer.Offset);
            var size = Math.Min(cuts[cut++ % cuts.Length], journal.Count - at);
            writer.Apply([.. journal.Skip(at).Take(size)]);
            at += size;
            if (at + 1 < journal.Count)
                Assert.ThrowsAny<Exception>(() => writer.Apply([journal[at], new(long.MaxValue, "vm/x", 1, new HostRemoved())]));
        }
        return Dump(name);
    }

    private string Dump(string name)
    {
        using var connection = new SqliteConnection(Connection(name));
        connection.Open();
        var text = new StringBuilder();
        foreach (var table in new[] { "meta", "vms", "vm_labels", "hosts", "changes" })
        {
            using var exists = new SqliteCommand($"SELECT COUNT(*) FROM sqlite_master WHERE name = '{table}'", connection);
            if ((long)exists.ExecuteScalar()! == 0)
                continue;
            using var command = new SqliteCommand($"SELECT * FROM {table} ORDER BY 1, 2", connection);
            using var reader = command.ExecuteReader();
            while (reader.Read())
            {
                text.Append(table);
                for (var i = 0; i < reader.FieldCount; i++)
                    text.Append(' ').Append(reader.GetValue(i) is byte[] bytes ? Convert.ToHexString(bytes) : reader.GetValue(i));
                text.Append('\n');
            }
        }
        return text.ToString();
    }

    private static List<JournalEvent> Journal(IEnumerable<(int Vm, int What)> steps)
    {
        var clock = new ManualClock();
        var cell = new FakeCell(clock);
        var made = new Dictionary<int, int>();
        var states = new Dictionary<int, VmState>();
        foreach (var (vm, what) in steps)
        {
            var id = $"vm-{vm}";
            clock.Advance(TimeSpan.FromMilliseconds(what));
            var state = states.GetValueOrDefault(vm);
            if (what == 8)
            {
                cell.Connect($"h{vm}");
            }
            else if (state == VmState.Unspecified)
            {
                cell.Vm(id, new VmCreated { At = Google.Protobuf.WellKnownTypes.Timestamp.FromDateTimeOffset(clock.GetUtcNow()), Id = id, Spec = new VmSpec { Name = $"n{vm}", Labels = { ["app"] = $"{vm % 2}" } } });
                states[vm] = VmState.Pending;
            }
            else if (what == 9)
            {
                // Also after the end: late events of the dead change nothing.
                cell.Gone(id);
                states[vm] = VmState.Deleted;
            }
            else if (state == VmState.Pending)
            {
                cell.Vm(id, new VmPlaced { Host = $"h{what}", Epoch = 1 });
                states[vm] = VmState.Starting;
            }
            else if (state == VmState.Starting)
            {
                cell.Vm(id, new VmRunning { Epoch = 1, Driver = "qemu" });
                states[vm] = VmState.Running;
            }
            else if (state != VmState.Deleted)
            {
                cell.Vm(id, new VmStopRequested { GraceMs = (uint)what });
            }
        }
        return [.. cell.Journal];
    }

    private string File(string name) => Path.Combine(_folder.FullName, name + ".db");

    private string Connection(string name) => new SqliteConnectionStringBuilder { DataSource = File(name), Pooling = false }.ToString();

    private ViewWriter Open(string name, long changeBytesKept = 1 << 20) => new(Connection(name), ChangesKept, changeBytesKept, NullLogger.Instance);

    private async Task<ViewProjection> StartAsync(IEventFeed feed, string name)
    {
        var projection = new ViewProjection(new(File(name)), feed, (_, _) => Task.CompletedTask, TimeProvider.System, NullLogger.Instance);
        await projection.StartAsync(default);
        return projection;
    }

    private sealed class ListFeed(IEnumerable<JournalEvent> events) : IEventFeed
    {
        private readonly List<JournalEvent> _events = [.. events];

        public List<long> Starts { get; } = [];

        public string? Trouble => null;

        public int FailsAfter { get; set; } = int.MaxValue;

        public void Add(IEnumerable<JournalEvent> more) => _events.AddRange(more);

        public IAsyncEnumerable<JournalEvent> ReadOneAsync(string persistenceId, long after, int most, CancellationToken cancellation) => throw new NotSupportedException();

        public Task<JournalEvent?> FindAsync(long offset, CancellationToken cancellation) => Task.FromResult(_events.Find(entry => entry.Offset == offset));

        public Task<long> EndAsync(CancellationToken cancellation) => Task.FromResult(_events.Count == 0 ? 0 : _events[^1].Offset);

        public async IAsyncEnumerable<JournalEvent> ReadAsync(long after, [EnumeratorCancellation] CancellationToken cancellation)
        {
            Starts.Add(after);
            var given = 0;
            foreach (var entry in _events.Where(e => e.Offset > after))
            {
                if (given++ >= FailsAfter)
                    throw new IOException("The feed broke.");
                yield return entry;
            }
            await Task.Delay(Timeout.Infinite, cancellation);
        }
    }
}
