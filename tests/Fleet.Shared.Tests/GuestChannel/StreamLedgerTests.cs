using CsCheck;
using Fleet.Shared.GuestChannel;
using Xunit;

namespace Fleet.Shared.Tests.GuestChannel;

public sealed class StreamLedgerTests
{
    private static StreamLedger Running()
    {
        var ledger = new StreamLedger();
        Assert.Null(ledger.ToGuest(FrameType.Open, "{}"u8));
        Assert.Null(ledger.FromGuest(FrameType.Started, []));
        return ledger;
    }

    [Fact]
    public void Should_let_a_whole_conversation_pass()
    {
        var ledger = Running();
        Assert.Null(ledger.ToGuest(FrameType.Input, "x"u8));
        Assert.Null(ledger.FromGuest(FrameType.Credit, Frame.Number(StreamLedger.Overhead + 1)));
        Assert.Null(ledger.ToGuest(FrameType.Resize, [24, 0, 80, 0]));
        Assert.Null(ledger.ToGuest(FrameType.Signal, [15]));
        Assert.Null(ledger.ToGuest(FrameType.InputEnd, []));
        Assert.Null(ledger.FromGuest(FrameType.Output, "y"u8));
        Assert.Null(ledger.FromGuest(FrameType.Errors, "z"u8));
        Assert.Null(ledger.ToGuest(FrameType.Credit, Frame.Number(2 * (StreamLedger.Overhead + 1))));
        Assert.Equal(StreamLedger.OutputWindow, ledger.OutputLeft);
        Assert.Null(ledger.FromGuest(FrameType.Exit, Frame.Number(3)));
        Assert.True(ledger.Ended);
        Assert.NotNull(ledger.FromGuest(FrameType.Output, "late"u8));
        Assert.NotNull(ledger.ToGuest(FrameType.Input, "late"u8));
    }

    [Fact]
    public void Should_hold_each_side_to_the_order_of_frames()
    {
        var ledger = new StreamLedger();
        Assert.NotNull(ledger.ToGuest(FrameType.Input, "x"u8));
        Assert.NotNull(ledger.FromGuest(FrameType.Started, []));
        Assert.Null(ledger.ToGuest(FrameType.Open, "{}"u8));
        Assert.NotNull(ledger.ToGuest(FrameType.Open, "{}"u8));
        Assert.NotNull(ledger.FromGuest(FrameType.Output, "x"u8));
        Assert.NotNull(ledger.FromGuest(FrameType.Exit, Frame.Number(0)));
        Assert.NotNull(ledger.ToGuest(FrameType.Input, "x"u8));
        Assert.Null(ledger.FromGuest(FrameType.Started, []));
        Assert.NotNull(ledger.FromGuest(FrameType.Started, []));
        Assert.NotNull(ledger.FromGuest(FrameType.Open, "{}"u8));
        Assert.NotNull(ledger.ToGuest(FrameType.Output, "x"u8));
        Assert.Null(ledger.ToGuest(FrameType.InputEnd, []));
        Assert.NotNull(ledger.ToGuest(FrameType.Input, "x"u8));
    }

    [Theory]
    [InlineData("too_many There are too many.", true)]
    [InlineData("too_many ", true)]
    [InlineData("too_many", false)]
    [InlineData(" words", false)]
    [InlineData("\u001b[2J words", false)]
    [InlineData("Code words", false)]
    public void Should_let_refusals_with_a_code_pass_only(string words, bool passes)
    {
        var refused = Running().FromGuest(FrameType.Refused, System.Text.Encoding.UTF8.GetBytes(words));
        Assert.Equal(passes, refused is null);
    }

    [Fact]
    public void Should_bound_what_is_under_way_however_small_the_frames()
    {
        var ledger = Running();
        var frames = 0;
        while (ledger.FromGuest(FrameType.Output, "x"u8) is null) frames++;
        Assert.Equal(StreamLedger.OutputWindow / (StreamLedger.Overhead + 1), frames);
        frames = 0;
        while (ledger.ToGuest(FrameType.Signal, [1]) is null) frames++;
        Assert.Equal(StreamLedger.InputWindow / (StreamLedger.Overhead + 1), frames);
    }

    [Fact]
    public void Should_take_no_credit_beyond_what_was_sent_or_too_small()
    {
        var ledger = Running();
        Assert.NotNull(ledger.ToGuest(FrameType.Credit, Frame.Number(StreamLedger.Overhead)));
        Assert.Null(ledger.FromGuest(FrameType.Output, "hello"u8));
        Assert.NotNull(ledger.ToGuest(FrameType.Credit, Frame.Number(1)));
        Assert.NotNull(ledger.ToGuest(FrameType.Credit, [1, 2, 3]));
        Assert.NotNull(ledger.ToGuest(FrameType.Credit, Frame.Number(uint.MaxValue)));
        Assert.Null(ledger.ToGuest(FrameType.Credit, Frame.Number(StreamLedger.Overhead + 5)));
    }

    /// <summary>Whatever either side says, the windows hold.</summary>
    [Fact]
    public void Should_never_leave_its_windows() =>
        Gen.Select(Gen.Bool, Gen.Int[0, 15].Select(type => (FrameType)type), Gen.OneOf(Gen.Byte.Array[0, 5], Gen.Byte.Array[Frame.MaxPayload, Frame.MaxPayload + 1])).Array[0, 60]
            .Sample(frames =>
            {
                var ledger = new StreamLedger();
                ledger.ToGuest(FrameType.Open, "{}"u8);
                ledger.FromGuest(FrameType.Started, []);
                foreach (var (toGuest, type, payload) in frames)
                {
                    _ = toGuest ? ledger.ToGuest(type, payload) : ledger.FromGuest(type, payload);
                    Assert.InRange(ledger.InputLeft, 0, StreamLedger.InputWindow);
                    Assert.InRange(ledger.OutputLeft, 0, StreamLedger.OutputWindow);
                }
            }, iter: 3000);
}
