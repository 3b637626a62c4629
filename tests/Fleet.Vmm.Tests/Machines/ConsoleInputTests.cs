using System.Diagnostics;
using System.IO.Pipes;
using System.Runtime.InteropServices;
using Fleet.Vmm.Devices;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Tests.Api;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Vmm.Tests.Machines;

/// <summary>An input that the kernel refuses to wait for: here a regular file (EPERM), in life a user out of watches.</summary>
public sealed class ConsoleInputTests : IDisposable
{
    private readonly SafeFileHandle _file = File.OpenHandle(typeof(ConsoleInputTests).Assembly.Location);
    private readonly SafeFileHandle _input = File.OpenHandle("/dev/null");
    private readonly AnonymousPipeServerStream _pipe = new(PipeDirection.Out);
    private readonly EventLoop _loop = new();
    private readonly EventCounter _room = new();
    private readonly SerialPort _port;
    private readonly List<string> _warnings = [];

    public ConsoleInputTests() => _port = new SerialPort(new NoInterrupt(), new ByteSink(-1), _room.Signal);

    [Fact]
    public void Should_listen_as_soon_as_the_kernel_lets_it()
    {
        Become(_file);
        using var input = Listen();
        Assert.Contains("Operation not permitted", Assert.Single(_warnings), StringComparison.Ordinal);
        input.Retry();
        Become(_pipe.ClientSafePipeHandle);
        input.Retry();
        _pipe.Write("x"u8);
        Run((() => _port.BytesIn == 1, () => { }));
        Assert.Single(_warnings);
    }

    [Fact]
    public void Should_not_end_the_loop_when_it_can_not_listen_again()
    {
        Become(_pipe.ClientSafePipeHandle);
        using var input = Listen();
        _pipe.Write(new byte[SerialPort.ReceiveCapacity + 1]);

        // The input is reported until it is no longer listened to: a few rounds later that is so.
        var rounds = 0;
        Run(
            (() => _port.BytesIn == SerialPort.ReceiveCapacity && ++rounds == 5, () =>
            {
                Become(_file);
                for (var i = 0; i < SerialPort.ReceiveCapacity; i++)
                {
                    _ = _port.Read(0);
                }
            }),
            (() => _warnings.Count > 0, () =>
            {
                Become(_pipe.ClientSafePipeHandle);
                input.Retry();
            }),
            (() => _port.BytesIn == SerialPort.ReceiveCapacity + 1, () => { }));
    }

    public void Dispose()
    {
        _loop.Dispose();
        _room.Dispose();
        _pipe.DisposeLocalCopyOfClientHandle();
        _pipe.Dispose();
        _input.Dispose();
        _file.Dispose();
    }

    private ConsoleInput Listen() => new(_loop, Number(_input), _port, _room, _warnings.Add);

    /// <summary>Puts another open file behind the input's number.</summary>
    private void Become(SafeHandle other) => Assert.Equal(Number(_input), Native.dup2(Number(other), Number(_input)));

    /// <summary>Runs the loop; does each step as soon as its condition holds.</summary>
    private void Run(params (Func<bool> Reached, Action Then)[] steps)
    {
        var clock = Stopwatch.StartNew();
        var step = 0;
        using var timer = new LoopTimer(_loop, () =>
        {
            if (steps[step].Reached())
            {
                steps[step++].Then();
            }

            if (step == steps.Length || clock.Elapsed > RunningVmm.Patience)
            {
                _loop.Exit(step);
            }
        });
        timer.Start(TimeSpan.FromMilliseconds(1), TimeSpan.FromMilliseconds(1));
        Assert.Equal(steps.Length, _loop.Run());
    }

    private static int Number(SafeHandle handle) => (int)handle.DangerousGetHandle();

    private sealed class NoInterrupt : IInterruptLine
    {
        public void Set(bool high)
        {
        }
    }
}
