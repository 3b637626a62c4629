using CsCheck;
using Fleet.Host.Agent;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Host.Tests.Agent;

public sealed class ReportOutboxTests
{
    private static readonly TimeSpan Resend = TimeSpan.FromSeconds(2);

    [Fact]
    public void Should_send_each_once_until_it_is_time_again()
    {
        var outbox = new ReportOutbox(Resend, 10);
        outbox.Put(Report("a", 1));
        outbox.Put(Report("b", 1));
        Assert.Equal(["a1", "b1"], Drain(outbox, TimeSpan.Zero));
        Assert.Empty(Drain(outbox, TimeSpan.FromSeconds(1.9)));
        Assert.Equal(["a1", "b1"], Drain(outbox, Resend));
    }

    [Fact]
    public void Should_keep_only_the_newest_of_an_epoch()
    {
        var outbox = new ReportOutbox(Resend, 10);
        outbox.Put(Report("a", 1));
        outbox.Put(Report("a", 2));
        Assert.Equal(["a2"], Drain(outbox, TimeSpan.Zero));
        outbox.Put(Report("a", 3));
        Assert.Equal(["a3"], Drain(outbox, TimeSpan.FromSeconds(1)));
        Assert.Empty(Drain(outbox, TimeSpan.FromSeconds(2))); // the turn of the one that was replaced
        Assert.Equal(["a3"], Drain(outbox, TimeSpan.FromSeconds(3)));
    }

    [Fact]
    public void Should_believe_an_acknowledgement_only_of_what_it_names()
    {
        var outbox = new ReportOutbox(Resend, 10);
        outbox.Put(Report("a", 2));
        outbox.Acknowledge("a", 1, 1);
        outbox.Acknowledge("a", 2, 2);
        Assert.Equal(["a2"], Drain(outbox, TimeSpan.Zero));
        outbox.Acknowledge("a", 1, 2);
        Assert.Equal(0, outbox.Count);
        Assert.Empty(Drain(outbox, TimeSpan.FromHours(1)));
    }

    [Fact]
    public void Should_send_everything_again_on_a_new_link()
    {
        var outbox = new ReportOutbox(Resend, 10);
        outbox.Put(Report("a", 1));
        Drain(outbox, TimeSpan.Zero);
        outbox.LinkLost();
        Assert.Equal(["a1"], Drain(outbox, TimeSpan.Zero));
    }

    [Fact]
    public void Should_give_every_report_its_turn()
    {
        var outbox = new ReportOutbox(Resend, 100);
        for (var i = 0; i < 100; i++)
            outbox.Put(Report($"{i:00}-", 1));
        var heard = new HashSet<string>();
        // A link that takes ten at a time, and a control plane that acknowledges nothing.
        for (var second = 0; second < 20; second++)
        {
            for (var i = 0; i < 10 && outbox.Next(TimeSpan.FromSeconds(second)) is { } report; i++)
            {
                heard.Add(report.VmId);
                outbox.Sent(TimeSpan.FromSeconds(second));
            }
        }

        Assert.Equal(100, heard.Count);
    }

    [Fact]
    public void Should_be_bounded()
    {
        var outbox = new ReportOutbox(Resend, 2);
        Assert.True(outbox.Put(Report("a", 1)));
        Assert.True(outbox.Put(Report("b", 1)));
        Assert.False(outbox.Put(Report("c", 1)));
        Assert.True(outbox.Put(Report("a", 2)));
    }

    /// <summary>Whatever happens, what is not acknowledged comes again, and nothing else.</summary>
    [Fact]
    public void Should_forget_only_what_was_acknowledged() =>
        Gen.Select(Gen.Int[0, 3], Gen.Int[0, 2]).Array[0, 60].Sample(steps =>
        {
            var outbox = new ReportOutbox(Resend, 100);
            var newest = new Dictionary<string, ulong>();
            var now = TimeSpan.Zero;
            ulong sequence = 0;
            foreach (var (what, which) in steps)
            {
                var id = "abc"[which].ToString();
                now += TimeSpan.FromSeconds(0.7);
                switch (what)
                {
                    case 0:
                        outbox.Put(Report(id, newest[id] = ++sequence));
                        break;
                    case 1 when newest.Remove(id, out var last):
                        outbox.Acknowledge(id, 1, last);
                        break;
                    case 2:
                        Drain(outbox, now);
                        break;
                    case 3:
                        outbox.LinkLost();
                        break;
                }
            }

            var sent = Drain(outbox, now + Resend);
            Assert.Equal(newest.Select(pair => $"{pair.Key}{pair.Value}").Order(), sent.Order());
        });

    [Fact]
    public void Should_remember_the_latest_removed_epochs()
    {
        var removed = new RemovedEpochs(2);
        removed.Add("a", 3, 30);
        removed.Add("a", 2, 20);
        Assert.True(removed.Contains("a", 1));
        Assert.True(removed.Contains("a", 3));
        Assert.False(removed.Contains("a", 4));
        Assert.Equal(30UL, removed.LastSequence("a"));
        removed.Add("b", 1, 1);
        removed.Add("c", 1, 1);
        Assert.False(removed.Contains("a", 1));
        Assert.True(removed.Contains("c", 1));
        Assert.Equal(0UL, removed.LastSequence("a"));
    }

    private static List<string> Drain(ReportOutbox outbox, TimeSpan now)
    {
        var sent = new List<string>();
        while (outbox.Next(now) is { } report)
        {
            sent.Add($"{report.VmId}{report.Sequence}");
            outbox.Sent(now);
        }

        return sent;
    }

    private static VmReport Report(string id, ulong sequence) => new() { VmId = id, Epoch = 1, Sequence = sequence, State = HostVmState.Running };
}
