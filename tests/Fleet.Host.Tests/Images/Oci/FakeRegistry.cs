using System.Collections.Concurrent;
using System.Globalization;
using System.Net;
using System.Text;
using Fleet.Tests;

namespace Fleet.Host.Tests.Images.Oci;

/// <summary>A registry that does what a test wants, on loopback.</summary>
internal sealed class FakeRegistry : IDisposable
{
    private readonly HttpListener _listener = new();
    private readonly Task _serving;

    public FakeRegistry(TestImage image, string tag = "1")
    {
        Address = $"127.0.0.1:{FreePort.Next()}";
        foreach (var (digest, blob) in image.Blobs) Blobs[digest] = blob;
        Tags[tag] = image.Manifest;
        _listener.Prefixes.Add($"http://{Address}/");
        _listener.Start();
        _serving = ServeAsync();
    }

    public string Address { get; }

    public string Reference => $"{Address}/some/image:1";

    public ConcurrentDictionary<string, byte[]> Blobs { get; } = new();

    public ConcurrentDictionary<string, byte[]> Tags { get; } = new();

    /// <summary>Every request: its path, and where its range begins.</summary>
    public ConcurrentQueue<(string Path, string? Range, string? Authorization)> Requests { get; } = new();

    /// <summary>Answers instead, if it says so. Called by one request after the other.</summary>
    public Func<HttpListenerContext, bool> Fault { get; set; } = _ => false;

    public bool KnowsRanges { get; set; } = true;

    public int Asked(string part) => Requests.Count(request => request.Path.Contains(part, StringComparison.Ordinal));

    public static bool Answer(HttpListenerContext context, int status, byte[]? body = null, params (string Name, string Value)[] headers)
    {
        context.Response.StatusCode = status;
        foreach (var (name, value) in headers) context.Response.Headers[name] = value;
        context.Response.ContentLength64 = body?.Length ?? 0;
        if (body is not null) context.Response.OutputStream.Write(body);
        context.Response.Close();
        return true;
    }

    /// <summary>Promises all of the bytes and breaks off after some.</summary>
    public static bool BreakOff(HttpListenerContext context, byte[] body, int after)
    {
        context.Response.ContentLength64 = body.Length;
        context.Response.OutputStream.Write(body, 0, after);
        context.Response.OutputStream.Flush();
        context.Response.Abort();
        return true;
    }

    public void Dispose()
    {
        _listener.Close();
        _serving.Wait(TimeSpan.FromSeconds(5));
    }

    private async Task ServeAsync()
    {
        while (true)
        {
            HttpListenerContext context;
            try
            {
                context = await _listener.GetContextAsync();
            }
            catch (Exception closed) when (closed is HttpListenerException or ObjectDisposedException)
            {
                return;
            }
            var path = context.Request.Url!.AbsolutePath;
            Requests.Enqueue((path, context.Request.Headers["Range"], context.Request.Headers["Authorization"]));
            try
            {
                if (!Fault(context)) Serve(context, path);
            }
            catch (Exception gone) when (gone is HttpListenerException or IOException or ObjectDisposedException or InvalidOperationException)
            {
                // Who asked has gone away.
            }
        }
    }

    private void Serve(HttpListenerContext context, string path)
    {
        var name = path[(path.LastIndexOf('/') + 1)..];
        if (!Tags.TryGetValue(name, out var body) && !Blobs.TryGetValue(name, out body))
        {
            Answer(context, 404, Encoding.ASCII.GetBytes("{}"));
            return;
        }
        if (KnowsRanges && context.Request.Headers["Range"] is { } range)
        {
            var from = int.Parse(range["bytes=".Length..].TrimEnd('-'), CultureInfo.InvariantCulture);
            Answer(context, 206, body[from..], ("Content-Range", $"bytes {from}-{body.Length - 1}/{body.Length}"));
            return;
        }
        Answer(context, 200, body);
    }
}
