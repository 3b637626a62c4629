using System.Net;
using System.Net.Http.Headers;
using System.Net.Sockets;
using System.Text.Json;
using Fleet.Host.Drivers;
using Fleet.Shared.Vms;

namespace Fleet.Host.Images.Oci;

/// <summary>
/// An image in a registry (OCI distribution API). A registry on this very machine is spoken to without TLS, every other with. A token that the
/// registry asks for is sent to no other host, and never to where a redirect leads; so are the host's credentials for it, but to where it says that tokens are. Nothing but a registry on this machine
/// leads to this machine: whoever names an image must not reach by it what listens here, or the cloud's metadata service.
/// </summary>
internal sealed class RegistryOrigin : IImageOrigin
{
    private const int MostRedirects = 5, MostToken = 64 * 1024;

    private const string DockerHub = "docker.io", DockerHubApi = "registry-1.docker.io";

    private static readonly TimeSpan AnswerLimit = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan LongestWait = TimeSpan.FromSeconds(30);

    private static readonly string[] Documents =
    [
        "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
    ];

    private readonly ImageReference _reference;
    private readonly HttpClient _http;
    private readonly Uri _base;
    private readonly bool _ofThisMachine;
    private readonly string? _identity;
    private volatile AuthenticationHeaderValue? _authorization;

    /// <param name="reference">Of a registry.</param>
    /// <param name="identity">User and password in base64; null: the host has none for it.</param>
    public RegistryOrigin(ImageReference reference, string? identity)
    {
        (_reference, _identity) = (reference, identity);
        var host = reference.Registry == DockerHub ? DockerHubApi : reference.Registry;
        _ofThisMachine = ImageReference.IsLoopback(host);
        _base = new Uri($"{(_ofThisMachine ? "http" : "https")}://{host}/v2/{reference.Repository}/");
        _http = new HttpClient(new SocketsHttpHandler
        {
            ConnectCallback = ConnectAsync,
            AllowAutoRedirect = false,
            AutomaticDecompression = DecompressionMethods.None,
            UseCookies = false,
            ConnectTimeout = TimeSpan.FromSeconds(10),
            MaxResponseHeadersLength = 64,
        })
        {
            Timeout = Timeout.InfiniteTimeSpan,
        };
        _http.DefaultRequestHeaders.UserAgent.ParseAdd("fleet");
    }

    public async Task<byte[]> ReadManifestAsync(string? digest, CancellationToken cancellation)
    {
        var wanted = digest ?? (_reference.Digest.Length > 0 ? _reference.Digest : null);
        using var answer = await GetAsync(new Uri(_base, $"manifests/{wanted ?? _reference.Tag}"), Documents, 0, cancellation).ConfigureAwait(false);
        await using var body = await BodyAsync(answer, cancellation).ConfigureAwait(false);
        return ImageDocument.Verified(await ImageDocument.ReadAsync(body, "manifest", cancellation).ConfigureAwait(false), wanted, "manifest");
    }

    public async Task<BlobBytes> OpenBlobAsync(Descriptor blob, long from, CancellationToken cancellation)
    {
        var answer = await GetAsync(new Uri(_base, $"blobs/{blob.Digest}"), [], from, cancellation).ConfigureAwait(false);
        try
        {
            var begins = answer.StatusCode == HttpStatusCode.PartialContent ? answer.Content.Headers.ContentRange?.From ?? -1 : 0;
            if (begins != 0 && begins != from) throw new TransientFault("The registry sent another part of a layer than it was asked for");
            return new BlobBytes(new PatientStream(await answer.Content.ReadAsStreamAsync(cancellation).ConfigureAwait(false), answer), begins);
        }
        catch
        {
            answer.Dispose();
            throw;
        }
    }

    public void Dispose() => _http.Dispose();

    private async Task<HttpResponseMessage> GetAsync(Uri address, string[] accept, long from, CancellationToken cancellation)
    {
        var asked = false;
        for (var redirects = 0; ;)
        {
            using var request = new HttpRequestMessage(HttpMethod.Get, address);
            foreach (var type in accept) request.Headers.Accept.ParseAdd(type);
            if (from > 0) request.Headers.Range = new RangeHeaderValue(from, null);
            var own = IsOwn(address);
            if (own) request.Headers.Authorization = _authorization;
            var answer = await SendAsync(request, cancellation).ConfigureAwait(false);
            if (answer.StatusCode is HttpStatusCode.OK || (answer.StatusCode == HttpStatusCode.PartialContent && from > 0)) return answer;
            using (answer)
            {
                switch ((int)answer.StatusCode)
                {
                    case 401 when own && !asked:
                        _authorization = await AuthorizeAsync(answer, cancellation).ConfigureAwait(false);
                        asked = true;
                        continue;
                    case 401 or 403:
                        throw NotShown();
                    case 404:
                        throw ImageFault.NotFound($"{_reference} does not exist: the registry has no {(accept.Length > 0 ? "such name" : "layer that its manifest names")}.");
                    case 416 when from > 0:
                        // It says that there is no more: then what is here already is wrong, or it lied about the size.
                        from = 0;
                        continue;
                    case 301 or 302 or 303 or 307 or 308 when answer.Headers.Location is { } location:
                        if (++redirects > MostRedirects) throw ImageFault.Unavailable($"The registry {_reference.Registry} sends from one address to the next without end.");
                        address = Allowed(new Uri(address, location), address);
                        continue;
                    case 408 or 429 or >= 500:
                        throw new TransientFault($"The registry {_reference.Registry} answered {(int)answer.StatusCode}", RetryAfter(answer));
                    case var status:
                        throw ImageFault.Unavailable($"The registry {_reference.Registry} answered {status}, which is no answer to a pull.");
                }
            }
        }
    }

    private LaunchFailedException NotShown() => ImageFault.NotFound(_identity is null
        ? $"{_reference} does not exist, or the registry shows it to nobody without credentials; the host gets some by fleet image login."
        : $"{_reference} does not exist, or the registry does not show it to the user that this host is there; fleet image login changes that.");

    private async Task<AuthenticationHeaderValue> AuthorizeAsync(HttpResponseMessage refusal, CancellationToken cancellation)
    {
        if (Challenge("Bearer") is { } bearer) return new("Bearer", await AskForTokenAsync(bearer, cancellation).ConfigureAwait(false));
        return Challenge("Basic") is not null && _identity is not null ? new("Basic", _identity) : throw NotShown();

        AuthenticationHeaderValue? Challenge(string scheme) => refusal.Headers.WwwAuthenticate.FirstOrDefault(one => one.Scheme.Equals(scheme, StringComparison.OrdinalIgnoreCase));
    }

    private async Task<string> AskForTokenAsync(AuthenticationHeaderValue challenge, CancellationToken cancellation)
    {
        var fields = BearerChallenge.Parse(challenge.Parameter ?? "");
        if (!fields.TryGetValue("realm", out var realm) || !Uri.TryCreate(realm, UriKind.Absolute, out var address)) throw NotShown();
        var scope = $"repository:{_reference.Repository}:pull";
        var query = $"service={Uri.EscapeDataString(fields.GetValueOrDefault("service", ""))}&scope={Uri.EscapeDataString(scope)}";
        using var request = new HttpRequestMessage(HttpMethod.Get, new UriBuilder(Allowed(address, _base)) { Query = query }.Uri);
        if (_identity is not null) request.Headers.Authorization = new("Basic", _identity);
        using var answer = await SendAsync(request, cancellation).ConfigureAwait(false);
        if ((int)answer.StatusCode is 429 or >= 500) throw new TransientFault($"{address.Host} gives no token now: {(int)answer.StatusCode}", RetryAfter(answer));
        if (answer.StatusCode != HttpStatusCode.OK) throw NotShown();
        await using var body = await BodyAsync(answer, cancellation).ConfigureAwait(false);
        var json = await ImageDocument.ReadAsync(body, "token", cancellation).ConfigureAwait(false);
        try
        {
            using var document = JsonDocument.Parse(json);
            foreach (var name in (string[])["token", "access_token"])
            {
                if (document.RootElement.TryGetProperty(name, out var value) && value.GetString() is { Length: > 0 and < MostToken } token
                    && token.All(c => c is > ' ' and < '\u007f')) return token;
            }
        }
        catch (Exception wrong) when (wrong is JsonException or InvalidOperationException)
        {
            // Told below: what it says is not repeated.
        }
        throw ImageFault.Unavailable($"{address.Host}, which the registry names for tokens, gave none.");
    }

    private async Task<HttpResponseMessage> SendAsync(HttpRequestMessage request, CancellationToken cancellation)
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(AnswerLimit);
        try
        {
            return await _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, limit.Token).ConfigureAwait(false);
        }
        catch (HttpRequestException failed) when (failed.InnerException is LaunchFailedException refused)
        {
            throw ImageFault.Unavailable(refused.Message, failed);
        }
        catch (HttpRequestException failed)
        {
            throw new TransientFault($"{request.RequestUri!.Authority} can't be reached: {failed.InnerException?.Message ?? failed.Message}", null, failed);
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new TransientFault($"{request.RequestUri!.Host} did not answer within {AnswerLimit.TotalSeconds:0} s");
        }
    }

    private static async Task<Stream> BodyAsync(HttpResponseMessage answer, CancellationToken cancellation) =>
        new PatientStream(await answer.Content.ReadAsStreamAsync(cancellation).ConfigureAwait(false), null);

    private Uri Allowed(Uri to, Uri from)
    {
        if (!_ofThisMachine && (ImageReference.IsLoopback(to.Host) || (IPAddress.TryParse(to.DnsSafeHost, out var address) && IsNear(address)))) throw LeadsHere(to.Host);
        var safe = to.Scheme == Uri.UriSchemeHttps || (to.Scheme == Uri.UriSchemeHttp && from.Scheme == Uri.UriSchemeHttp && ImageReference.IsLoopback(to.Authority));
        return safe ? to : throw ImageFault.Unavailable($"The registry {_reference.Registry} sends to {to.Scheme}://{to.Authority}, which is not asked: only TLS, or this machine, is.");
    }

    private bool IsOwn(Uri address) => address.Scheme == _base.Scheme && address.Authority == _base.Authority;

    /// <summary>Whether only this machine, or what is on its own link, is at the address.</summary>
    internal static bool IsNear(IPAddress address)
    {
        var plain = address.IsIPv4MappedToIPv6 ? address.MapToIPv4() : address;
        return ImageReference.IsLoopback(plain) || plain.IsIPv6LinkLocal || (plain.AddressFamily == AddressFamily.InterNetwork && plain.GetAddressBytes() is [169, 254, ..]);
    }

    // Names are looked at as they are resolved for the connection: anybody's name may lead to 127.0.0.1.
    private async ValueTask<Stream> ConnectAsync(SocketsHttpConnectionContext context, CancellationToken cancellation)
    {
        var (host, port) = (context.DnsEndPoint.Host, context.DnsEndPoint.Port);
        var addresses = await Dns.GetHostAddressesAsync(host, cancellation).ConfigureAwait(false);
        // A proxy of this host's own choice may be on this machine.
        var direct = host.Equals(context.InitialRequestMessage.RequestUri!.IdnHost, StringComparison.OrdinalIgnoreCase);
        if (direct && !_ofThisMachine && addresses.Any(IsNear)) throw LeadsHere(host);
        var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
        try
        {
            await socket.ConnectAsync(addresses, port, cancellation).ConfigureAwait(false);
            return new NetworkStream(socket, ownsSocket: true);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    private LaunchFailedException LeadsHere(string host) =>
        ImageFault.Unavailable($"The registry {_reference.Registry} leads to {host}, which is an address of this machine or its link, and is not asked.");

    private static TimeSpan? RetryAfter(HttpResponseMessage answer) =>
        answer.Headers.RetryAfter?.Delta is { } delay ? delay < LongestWait ? delay : LongestWait : null;

    /// <summary>A body that must go on: what stands still for too long is a fault that may pass.</summary>
    private sealed class PatientStream(Stream inner, HttpResponseMessage? owner) : ForwardStream
    {
        private static readonly TimeSpan Stall = TimeSpan.FromSeconds(30);

        public override async ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
        {
            using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
            limit.CancelAfter(Stall);
            try
            {
                return await inner.ReadAsync(buffer, limit.Token).ConfigureAwait(false);
            }
            catch (OperationCanceledException) when (!cancellationToken.IsCancellationRequested)
            {
                throw new TransientFault($"The registry sent nothing for {Stall.TotalSeconds:0} s");
            }
            catch (Exception broken) when (broken is IOException or HttpRequestException)
            {
                throw new TransientFault("The connection to the registry broke", null, broken);
            }
        }

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        protected override void Dispose(bool disposing)
        {
            if (disposing)
            {
                inner.Dispose();
                owner?.Dispose();
            }
            base.Dispose(disposing);
        }
    }
}

/// <summary>What a registry says of how to get a token: <c>realm="…",service="…",scope="…"</c>.</summary>
internal static class BearerChallenge
{
    public static IReadOnlyDictionary<string, string> Parse(string text)
    {
        var fields = new Dictionary<string, string>(StringComparer.OrdinalIgnoreCase);
        for (var at = 0; at < text.Length;)
        {
            var equals = text.IndexOf('=', at);
            if (equals < 0) break;
            var name = text[at..equals].Trim(' ', ',');
            int end;
            string value;
            if (equals + 1 < text.Length && text[equals + 1] == '"')
            {
                end = text.IndexOf('"', equals + 2);
                if (end < 0) break;
                value = text[(equals + 2)..end];
                end++;
            }
            else
            {
                end = text.IndexOf(',', equals);
                if (end < 0) end = text.Length;
                value = text[(equals + 1)..end];
            }
            fields.TryAdd(name, value);
            at = end;
        }
        return fields;
    }
}
