using System.IO.Pipes;
using Fleet.Vmm.Linux;
using Xunit;

namespace Fleet.Vmm.Tests.Api;

public sealed class EventLoopTests
{
    [Fact]
    public void Should_call_back_and_return_the_first_code()
    {
        using var loop = new EventLoop();
        using var pipe = new Pipe();
        var calls = 0;
        loop.Add(pipe.Reader, () =>
        {
            calls++;
            loop.Exit(calls + 6);
            loop.Exit(99);
        });
        pipe.Write();
        Assert.Equal(7, loop.Run());
        Assert.Equal(1, calls);
    }

    [Fact]
    public void Should_forget_a_descriptor_within_its_own_callback_and_within_anothers()
    {
        using var loop = new EventLoop();
        using var one = new Pipe();
        using var two = new Pipe();
        using var timer = new LoopTimer(loop, () => loop.Exit(0));
        var calls = new List<int>();

        // Both are ready in the same batch: whichever comes first removes the other and itself.
        void Remove(int which)
        {
            calls.Add(which);
            loop.Remove(one.Reader);
            loop.Remove(two.Reader);
            timer.Start(TimeSpan.FromMilliseconds(20), TimeSpan.Zero);
        }

        loop.Add(one.Reader, () => Remove(1));
        loop.Add(two.Reader, () => Remove(2));
        one.Write();
        two.Write();
        Assert.Equal(0, loop.Run());
        Assert.Single(calls);
    }

    [Fact]
    public void Should_not_take_an_old_event_for_a_new_owner_of_the_number()
    {
        using var loop = new EventLoop();
        using var one = new Pipe();
        using var two = new Pipe();
        using var timer = new LoopTimer(loop, () => loop.Exit(0));
        var wrong = 0;
        void First(int other)
        {
            // The other's event of this batch was meant for its old registration.
            loop.Remove(one.Reader);
            loop.Remove(two.Reader);
            loop.Add(other, LoopEvents.None, _ => wrong++);
            timer.Start(TimeSpan.FromMilliseconds(20), TimeSpan.Zero);
        }

        loop.Add(one.Reader, () => First(two.Reader));
        loop.Add(two.Reader, () => First(one.Reader));
        one.Write();
        two.Write();
        Assert.Equal(0, loop.Run());
        Assert.Equal(0, wrong);
    }

    [Fact]
    public void Should_tick()
    {
        using var loop = new EventLoop();
        var ticks = 0;
        using var timer = new LoopTimer(loop, () =>
        {
            if (++ticks == 3)
            {
                loop.Exit(3);
            }
        });
        timer.Start(TimeSpan.FromMilliseconds(1), TimeSpan.FromMilliseconds(1));
        Assert.Equal(3, loop.Run());
    }

    [Fact]
    public void Should_refuse_misuse_and_tell_of_files()
    {
        using var loop = new EventLoop();
        using var pipe = new Pipe();
        using var files = new ScratchDirectory();
        loop.Add(pipe.Reader, () => { });
        Assert.Throws<InvalidOperationException>(() => loop.Add(pipe.Reader, () => { }));
        Assert.Throws<InvalidOperationException>(() => loop.Change(999, LoopEvents.Readable));
        loop.Remove(999);
        using var file = File.OpenHandle(files.File("f", "x"));
        var failure = Assert.Throws<SystemCallException>(() => loop.Add((int)file.DangerousGetHandle(), () => { }));
        Assert.Equal(SystemCallException.NotPermitted, failure.ErrorNumber);
    }

    [Fact]
    public void Should_hand_out_what_a_callback_throws()
    {
        using var loop = new EventLoop();
        using var pipe = new Pipe();
        loop.Add(pipe.Reader, () => throw new InvalidTimeZoneException());
        pipe.Write();
        Assert.Throws<InvalidTimeZoneException>(() => loop.Run());
    }

    private sealed class Pipe : IDisposable
    {
        private readonly AnonymousPipeServerStream _stream = new(PipeDirection.Out);

        public int Reader => (int)_stream.ClientSafePipeHandle.DangerousGetHandle();

        public void Write() => _stream.WriteByte(1);

        public void Dispose() => _stream.Dispose();
    }
}
