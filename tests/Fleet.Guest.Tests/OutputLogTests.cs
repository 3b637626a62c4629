using System.Text;
using Fleet.Guest.Logs;
using Fleet.Shared.GuestChannel;
using Xunit;

namespace Fleet.Guest.Tests;

/// <summary>What a command wrote, until the host has it.</summary>
public sealed class OutputLogTests
{
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(30);
    private static readonly byte[] Full = new byte[OutputLog.MostPieces * Frame.MaxPayload];

    private static OutputLog New(TimeSpan patience, TimeSpan? first = null) => new(patience, first ?? patience, () => { });

    [Fact]
    public void Should_give_the_outputs_apart_and_in_order()
    {
        var log = New(Soon);
        log.Put(FrameType.Output, "one "u8);
        log.Put(FrameType.Output, "two"u8);
        log.Put(FrameType.Errors, "bad"u8);
        log.Put(FrameType.Output, "three"u8);
        log.Attach(0);
        Assert.Equal([(FrameType.Output, 0L, "one two"), (FrameType.Errors, 7, "bad"), (FrameType.Output, 10, "three")], Drain(log));
    }

    [Fact]
    public async Task Should_have_a_command_wait_while_the_host_goes_on_taking()
    {
        var log = New(Soon);
        log.Attach(0);
        var writing = Task.Run(() =>
        {
            log.Put(FrameType.Output, Full);
            log.Put(FrameType.Output, "more"u8);
        });
        Assert.True(SpinWait.SpinUntil(() => log.Waits, Soon));
        Assert.True(log.TryNext(Frame.MaxPayload, out _, out _, out _));
        log.Took();
        await writing.WaitAsync(Soon);
        var rest = Drain(log);
        Assert.Equal((Full.Length, "more"), ((int)rest[^1].Position, rest[^1].Text));
        Assert.Equal(OutputLog.MostPieces, rest.Count);
    }

    [Fact]
    public void Should_let_the_oldest_go_where_nobody_takes_and_show_what_is_missing_by_positions()
    {
        var log = New(TimeSpan.Zero);
        log.Put(FrameType.Output, "first"u8);
        log.Put(FrameType.Errors, "second"u8);
        log.Put(FrameType.Output, Full);
        log.Attach(0);
        var left = Drain(log);
        Assert.Equal(OutputLog.MostPieces, left.Count);
        Assert.Equal("first".Length + "second".Length, left[0].Position);
    }

    [Fact]
    public void Should_keep_what_is_under_way_and_let_what_is_behind_it_go()
    {
        var log = New(TimeSpan.Zero);
        log.Put(FrameType.Errors, "under way"u8);
        log.Attach(0);
        Assert.True(log.TryNext(Frame.MaxPayload, out _, out _, out _));
        log.Put(FrameType.Output, Full);
        log.Took();
        Assert.Equal(9 + Frame.MaxPayload, Drain(log)[0].Position);
    }

    [Fact]
    public void Should_never_have_all_under_way_so_that_there_is_one_that_can_go()
    {
        var log = New(TimeSpan.Zero);
        log.Attach(0);
        for (var i = 0; i < OutputLog.MostPieces; i++) log.Put(i % 2 == 0 ? FrameType.Output : FrameType.Errors, "x"u8);
        var underWay = 0;
        while (log.TryNext(Frame.MaxPayload, out _, out _, out _)) underWay++;
        log.Put(FrameType.Output, "y"u8);
        for (var i = 0; i < underWay; i++) log.Took();
        Assert.Equal([(FrameType.Output, (long)OutputLog.MostPieces, "y")], Drain(log));
    }

    [Fact]
    public void Should_send_the_next_host_what_the_first_has_not_and_nothing_twice()
    {
        var log = New(Soon);
        log.Put(FrameType.Output, "taken"u8);
        log.Attach(0);
        Assert.True(log.TryNext(Frame.MaxPayload, out _, out _, out _));
        // It has written it down and died before it could say so.
        log.Detach();
        log.Put(FrameType.Output, " and more"u8);
        log.Put(FrameType.Errors, "!"u8);
        log.Attach(5);
        Assert.Equal([(FrameType.Output, 5L, " and more"), (FrameType.Errors, 14, "!")], Drain(log));
    }

    [Fact]
    public void Should_not_wait_at_the_end_for_a_host_that_never_came_or_can_not()
    {
        var log = New(Soon, first: TimeSpan.Zero);
        log.Put(FrameType.Output, "x"u8);
        log.WaitUntilTaken();

        log = New(Soon);
        log.Put(FrameType.Output, "x"u8);
        log.GiveUp();
        log.WaitUntilTaken();
        log.Put(FrameType.Output, Full);
        log.Put(FrameType.Output, "x"u8);
    }

    [Fact]
    public async Task Should_wait_at_the_end_until_the_host_has_all()
    {
        var log = New(Soon);
        log.Put(FrameType.Output, "x"u8);
        log.Attach(0);
        var waiting = Task.Run(log.WaitUntilTaken);
        Assert.True(log.TryNext(1, out _, out _, out _));
        Assert.False(waiting.IsCompleted);
        log.Took();
        await waiting.WaitAsync(Soon);
    }

    private static List<(FrameType Output, long Position, string Text)> Drain(OutputLog log)
    {
        var all = new List<(FrameType, long, string)>();
        while (log.TryNext(Frame.MaxPayload, out var output, out var position, out var bytes))
        {
            all.Add((output, position, Encoding.ASCII.GetString(bytes.Span)));
            log.Took();
        }
        return all;
    }
}
