using Fleet.Scheduler.Admin;
using Fleet.Shared.Admin;
using Xunit;

namespace Fleet.Scheduler.Tests.Admin;

public sealed class CommandOutputTests
{
    private readonly List<CommandFrame> _frames = [];

    private CommandOutput Output(bool forPrograms = false, bool streams = false) => new(
        frame =>
        {
            _frames.Add(frame);
            return ValueTask.CompletedTask;
        },
        forPrograms,
        streams);

    private static readonly object?[][] Rows = [["a", 1UL, true], ["a longer\none", null, false]];

    [Fact]
    public async Task Should_align_rows_for_people_and_keep_each_on_a_line()
    {
        await Output().TableAsync(["name", "free_cpus", "up"], Rows, "None.");
        Assert.Equal(["NAME          FREE CPUS  UP", "a             1          yes", "a longer one  -          no"], _frames.Select(frame => frame.Text));
        _frames.Clear();
        await Output().TableAsync(["name"], [], "None.");
        Assert.Equal("None.", Assert.Single(_frames).Text);
    }

    [Fact]
    public async Task Should_give_programs_typed_fields()
    {
        await Output(forPrograms: true).TableAsync(["name", "free_cpus", "up"], Rows, "None.");
        Assert.Equal(["""{"name":"a","free_cpus":1,"up":true}""", """{"name":"a longer\none","free_cpus":null,"up":false}"""], _frames.Select(frame => frame.Row!.ToJsonString()));
        _frames.Clear();
        await Output(forPrograms: true).TableAsync(["name"], [], "None.");
        Assert.Empty(_frames);
        await Output(forPrograms: true).EntryAsync("text", ("at", DateTimeOffset.UnixEpoch), ("share", 0.5), ("none", double.NaN));
        Assert.Equal("""{"at":"1970-01-01T00:00:00.000Z","share":0.5,"none":null}""", _frames[0].Row!.ToJsonString());
    }

    [Fact]
    public async Task Should_end_an_answer_that_has_no_end_unless_it_streams()
    {
        var output = Output();
        for (var i = 0; i < CommandOutput.MaxFrames; i++)
            await output.SayAsync("x");
        Assert.Equal("payload_too_large", (await Assert.ThrowsAsync<CommandException>(async () => await output.SayAsync("x"))).Code);
        var stream = Output(streams: true);
        for (var i = 0; i < CommandOutput.MaxFrames + 5; i++)
            await stream.SayAsync("x");
    }

    [Fact]
    public async Task Should_cut_a_line_that_is_too_long()
    {
        await Output().SayAsync(new string('x', CommandOutput.MaxLine + 1));
        Assert.Equal(CommandOutput.MaxLine + 1, Assert.Single(_frames).Text!.Length);
        Assert.EndsWith("x…", _frames[0].Text, StringComparison.Ordinal);
    }
}
