using CsCheck;
using Fleet.Scheduler.Journal;
using Xunit;

namespace Fleet.Scheduler.Tests.Journal;

public sealed class SettledWindowTests
{
    /// <summary>
    /// Writers take numbers in order and become visible in any order, or never; a reader that follows the window hands out each row that
    /// ever becomes visible once, in order, and gets to the end.
    /// </summary>
    [Fact]
    public void Should_skip_no_row_in_whatever_order_writers_end() =>
        Gen.Select(Gen.Int[1, 40].SelectMany(rows => Gen.Shuffle(Enumerable.Range(1, rows).ToArray())), Gen.Int[0, 3].Array[40], Gen.Int[1, 5])
            .Sample((order, pauses, atOnce) =>
            {
                var visible = new SortedSet<long>();
                var open = order.Select(number => (long)number).ToHashSet();
                var window = new SettledWindow(0);
                var seen = new List<long>();
                HashSet<long> openAtMark = [];

                void Read()
                {
                    if (window.Mark is not null && !openAtMark.Overlaps(open))
                        window.MarkIsPast();
                    var rows = visible.Where(number => number > window.Last).Take(atOnce).ToList();
                    var taken = window.Take(rows);
                    seen.AddRange(rows[..taken]);
                    if (taken < rows.Count && window.Mark is null)
                    {
                        openAtMark = [.. open];
                        window.Marked(1, rows[^1]);
                    }
                }

                for (var i = 0; i < order.Length; i++)
                {
                    open.Remove(order[i]);
                    // Every fifth is rolled back: its number never shows.
                    if (order[i] % 5 != 0)
                        visible.Add(order[i]);
                    for (var read = 0; read < pauses[i]; read++)
                        Read();
                }
                for (var read = 0; read < 4 * order.Length; read++)
                    Read();
                return seen.SequenceEqual(visible);
            });
}
