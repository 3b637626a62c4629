using Fleet.Host.Consoles;
using Fleet.Host.Link;
using Fleet.Shared.Contracts;
using Google.Protobuf;
using Xunit;

namespace Fleet.Host.Tests.Link;

public sealed class LinkSessionTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-session-").FullName;
    private readonly CancellationTokenSource _stream = new();

    public void Dispose()
    {
        _stream.Dispose();
        Directory.Delete(_folder, true);
    }

    [Fact]
    public async Task Should_send_reports_before_consoles()
    {
        var session = new LinkSession(_stream);
        await session.SendConsoleAsync(Console(1), default);
        await session.SendConsoleAsync(Console(2), default);
        await using var sent = session.ReadAllAsync(default).GetAsyncEnumerator();
        Assert.True(await sent.MoveNextAsync());
        Assert.Equal(1UL, sent.Current.Console.StreamId);
        Assert.True(session.TrySend(Report(7)));
        Assert.True(await sent.MoveNextAsync());
        Assert.Equal(7UL, sent.Current.Report.Epoch);
        Assert.True(await sent.MoveNextAsync());
        Assert.Equal(2UL, sent.Current.Console.StreamId);
    }

    [Fact]
    public async Task Should_have_room_for_reports_while_consoles_wait()
    {
        var session = new LinkSession(_stream);
        var waiting = Enumerable.Range(0, 200).Select(i => session.SendConsoleAsync(Console(i), default).AsTask()).ToArray();
        Assert.Contains(waiting, task => !task.IsCompleted);
        Assert.True(session.TrySend(Report(1)));
        await using var sent = session.ReadAllAsync(default).GetAsyncEnumerator();
        Assert.True(await sent.MoveNextAsync());
        Assert.NotNull(sent.Current.Report);
        for (var i = 0; i < waiting.Length; i++)
            Assert.True(await sent.MoveNextAsync());
        await Task.WhenAll(waiting);
    }

    [Fact]
    public async Task Should_be_bounded_and_say_when_there_is_room_again()
    {
        var session = new LinkSession(_stream);
        ulong sent = 0;
        while (session.TrySend(Report(sent)))
            Assert.True(++sent < 10_000, "takes without end");
        var room = session.WaitForRoomAsync();
        Assert.False(room.IsCompleted);
        await using var reading = session.ReadAllAsync(default).GetAsyncEnumerator();
        Assert.True(await reading.MoveNextAsync());
        Assert.True(await room);
    }

    [Fact]
    public async Task Should_send_what_is_there_and_end()
    {
        var session = new LinkSession(_stream);
        session.TrySend(Report(1));
        session.Complete();
        Assert.False(session.TrySend(Report(2)));
        var sent = new List<HostMessage>();
        await foreach (var message in session.ReadAllAsync(default))
            sent.Add(message);
        Assert.Equal(1UL, Assert.Single(sent).Report.Epoch);
    }

    [Fact]
    public void Should_bound_readers_of_a_microvm_and_of_the_host()
    {
        var session = new LinkSession(_stream);
        var readers = new ConsoleReaders();
        var never = new TaskCompletionSource().Task;
        for (ulong i = 0; i < ConsoleReaders.MostPerVm; i++)
            Assert.NotNull(Open(i, "one"));
        Assert.Null(Open(100, "one"));
        var first = Open(0, "one"); // the same number again takes the place of the older
        Assert.NotNull(first);
        Assert.Null(Open(100, "one"));
        readers.Close(1);
        Assert.NotNull(Open(100, "one"));
        readers.Done(100, first.Value.Reader); // not the one that has this number
        Assert.Null(Open(101, "one"));

        for (ulong i = 1000; readers.Count < ConsoleReaders.Most; i++)
            Assert.NotNull(Open(i, $"vm{i}"));
        Assert.Null(Open(99_999, "another"));
        readers.CloseAll();
        Assert.NotNull(Open(99_999, "another"));
        readers.CloseAll();

        (ConsoleReader Reader, Task Run)? Open(ulong stream, string vm) => readers.TryOpen(
            new OpenConsole { StreamId = stream, VmId = vm, Follow = true }, _folder, never, TimeProvider.System, session);
    }

    [Fact]
    public async Task Should_tell_a_reader_that_its_log_cant_be_read()
    {
        var session = new LinkSession(_stream);
        Directory.CreateDirectory(Path.Combine(_folder, ConsoleLog.FileName)); // a folder where the log should be
        var opened = new ConsoleReaders().TryOpen(new OpenConsole { StreamId = 1, VmId = "one" }, _folder, Task.CompletedTask, TimeProvider.System, session)!.Value;
        await opened.Run;
        session.Complete();
        var sent = new List<ConsoleChunk>();
        await foreach (var message in session.ReadAllAsync(default))
            sent.Add(message.Console);
        Assert.Equal("unavailable", Assert.Single(sent, chunk => chunk.End).Error.Code);
    }

    private static HostMessage Console(int stream) => new() { Console = new ConsoleChunk { StreamId = (ulong)stream, Data = ByteString.CopyFromUtf8("x") } };

    private static HostMessage Report(ulong epoch) => new() { Report = new VmReport { VmId = "vm", Epoch = epoch } };
}
