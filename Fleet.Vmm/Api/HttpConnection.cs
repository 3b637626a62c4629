using System.Buffers;
using System.Runtime.InteropServices;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Api;

/// <summary>An answer: status and, unless it is 204, a JSON body.</summary>
internal readonly record struct ApiAnswer(int Status, byte[]? Json)
{
    public static readonly ApiAnswer Done = new(204, null);

    public static ApiAnswer Ok(byte[] json) => new(200, json);

    public static ApiAnswer Fault(string message, int status = 400) => new(status, JsonText.Fault(message));
}

/// <summary>Carries out one request. Must not throw.</summary>
internal delegate ApiAnswer ApiHandler(HttpMethod method, string target, ReadOnlySpan<byte> body);

/// <summary>
/// One client: bytes in, requests one after another, answers in the same order. While an answer waits for room in the
/// socket nothing more is read, so a client that does not read holds two buffers and no more.
/// </summary>
internal sealed class HttpConnection : IDisposable
{
    /// <summary>Enough for any request of Firecracker's clients but a long command line; grows up to the limits and back.</summary>
    private const int UsualInput = 2048;

    /// <summary>Thrown away at most before a close, so that the client finds our answer and not a reset connection; unix(7).</summary>
    private const int MostDrained = 256 * 1024;

    private readonly EventLoop _loop;
    private readonly ApiHandler _handler;
    private readonly Action<HttpConnection> _onClosed;
    private readonly int _largestBody;
    private readonly ArrayBufferWriter<byte> _output = new(512);
    private int _fd;
    private byte[] _input = [];
    private int _received;
    private int _sent;
    private bool _closing;
    private bool _continued;
    private LoopEvents _interest = LoopEvents.Readable;

    public HttpConnection(EventLoop loop, int fd, int largestBody, ApiHandler handler, Action<HttpConnection> onClosed)
    {
        _loop = loop;
        _fd = fd;
        _largestBody = largestBody;
        _handler = handler;
        _onClosed = onClosed;
        loop.Add(fd, LoopEvents.Readable, OnReady);
    }

    /// <summary>Answers the 11th client and its like without reading a request.</summary>
    public static void Refuse(int fd)
    {
        var output = new ArrayBufferWriter<byte>(256);
        WriteAnswer(output, new ApiAnswer(503, JsonText.Fault("Too many open connections")), keepAlive: false);
        _ = Sockets.Send(fd, output.WrittenSpan);
        _ = Descriptors.close(fd);
    }

    public void Dispose()
    {
        if (_fd >= 0)
        {
            _loop.Remove(_fd);
            _ = Descriptors.close(_fd);
            _fd = -1;
        }
    }

    private void OnReady(LoopEvents events)
    {
        if ((events & LoopEvents.Writable) != 0 && !Send())
        {
            return;
        }

        // Readable comes with HungUp while there is still something to read; without it the client is gone.
        if ((events & LoopEvents.Readable) != 0 && _interest == LoopEvents.Readable)
        {
            Receive();
        }
        else if ((events & (LoopEvents.HungUp | LoopEvents.Failed)) != 0 && (events & LoopEvents.Writable) == 0)
        {
            Close();
        }
    }

    private void Receive()
    {
        if (_received == _input.Length)
        {
            Array.Resize(ref _input, Math.Max(UsualInput, _input.Length * 2));
        }

        var got = Sockets.Receive(_fd, _input.AsSpan(_received));
        if (got < 0)
        {
            if (Marshal.GetLastPInvokeError() is not (SystemCallException.TryAgain or SystemCallException.Interrupted))
            {
                Close();
            }

            return;
        }

        if (got == 0)
        {
            Close();
            return;
        }

        _received += got;
        CarryOut();
    }

    /// <summary>Takes requests from the input until it has no whole one, or an answer does not leave at once.</summary>
    private void CarryOut()
    {
        var taken = 0;
        try
        {
            while (!_closing && TakeRequest(_input.AsSpan(taken, _received - taken), out var size))
            {
                taken += size;
                if (!Send() || _interest != LoopEvents.Readable)
                {
                    break;
                }
            }
        }
        catch (BadRequestException bad)
        {
            taken = _received;
            _closing = true;
            WriteAnswer(_output, ApiAnswer.Fault(bad.Message), keepAlive: false);
        }

        Forget(taken);
        if (_fd >= 0)
        {
            Send();
        }
    }

    /// <summary>Answers the request at the start of the input; false while it is not complete.</summary>
    private bool TakeRequest(ReadOnlySpan<byte> input, out int size)
    {
        size = 0;
        var head = HttpRequestHead.Parse(input, _largestBody);
        if (head is null)
        {
            return false;
        }

        if (input.Length < head.Length + head.ContentLength)
        {
            if (head.ExpectsContinue && !_continued)
            {
                _continued = true;
                _output.Write("HTTP/1.1 100 Continue\r\n\r\n"u8);
            }

            return false;
        }

        _continued = false;
        size = head.Length + head.ContentLength;
        _closing = !head.KeepAlive;
        WriteAnswer(_output, _handler(head.Method, head.Target, input.Slice(head.Length, head.ContentLength)), head.KeepAlive);
        return true;
    }

    private void Forget(int taken)
    {
        _received -= taken;
        if (_received == 0 && _input.Length > UsualInput)
        {
            _input = [];
        }
        else if (taken > 0)
        {
            _input.AsSpan(taken, _received).CopyTo(_input);
        }
    }

    /// <summary>Sends what is there; false when the connection is closed.</summary>
    private bool Send()
    {
        while (_sent < _output.WrittenCount)
        {
            var sent = Sockets.Send(_fd, _output.WrittenSpan[_sent..]);
            if (sent < 0)
            {
                switch (Marshal.GetLastPInvokeError())
                {
                    case SystemCallException.Interrupted:
                        continue;
                    case SystemCallException.TryAgain:
                        WaitFor(LoopEvents.Writable);
                        return true;
                    default:
                        Close();
                        return false;
                }
            }

            _sent += sent;
        }

        _output.ResetWrittenCount();
        _sent = 0;
        if (_closing)
        {
            Close();
            return false;
        }

        if (_interest == LoopEvents.Writable)
        {
            // Requests that came before the socket was full stand in the input; no event will tell of them.
            WaitFor(LoopEvents.Readable);
            CarryOut();
            return _fd >= 0;
        }

        return true;
    }

    private void WaitFor(LoopEvents interest)
    {
        if (_interest != interest)
        {
            _interest = interest;
            _loop.Change(_fd, interest);
        }
    }

    private void Close()
    {
        if (_fd < 0)
        {
            return;
        }

        if (_closing)
        {
            Span<byte> unread = stackalloc byte[4096];
            for (var drained = 0; drained < MostDrained;)
            {
                var got = Sockets.Receive(_fd, unread);
                if (got <= 0)
                {
                    break;
                }

                drained += got;
            }
        }

        Dispose();
        _onClosed(this);
    }

    private static void WriteAnswer(ArrayBufferWriter<byte> output, ApiAnswer answer, bool keepAlive)
    {
        // Firecracker's order of headers; a status line without reason phrase is what it sends, and allowed (RFC 9112 §4).
        output.Write("HTTP/1.1 "u8);
        WriteNumber(output, answer.Status);
        output.Write(" \r\nServer: fleet-vmm\r\nConnection: "u8);
        output.Write(keepAlive ? "keep-alive"u8 : "close"u8);
        if (answer.Json is { } json)
        {
            output.Write("\r\nContent-Type: application/json\r\nContent-Length: "u8);
            WriteNumber(output, json.Length);
            output.Write("\r\n\r\n"u8);
            output.Write(json);
        }
        else
        {
            output.Write("\r\n\r\n"u8);
        }
    }

    private static void WriteNumber(ArrayBufferWriter<byte> output, int value)
    {
        _ = System.Buffers.Text.Utf8Formatter.TryFormat(value, output.GetSpan(11), out var length);
        output.Advance(length);
    }
}
