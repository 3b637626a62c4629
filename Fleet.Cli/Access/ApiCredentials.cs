using System.CommandLine;
using System.Net.Security;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Fleet.Cli.Api;
using Fleet.Cli.Node;
using Fleet.Scheduler.Access;
using Fleet.Shared.Access;

namespace Fleet.Cli.Access;

/// <summary>
/// What the command line shows to the API and knows it by: <c>--token</c> or FLEET_TOKEN, else the token that the node on this machine
/// left in its data directory. Over HTTPS the server must be of the cell that made the token.
/// </summary>
/// <param name="given">The token's text, if one was given.</param>
/// <param name="authorityFile">A root certificate to trust instead of the token's own pin.</param>
/// <param name="data">Where the node's own are.</param>
internal sealed class ApiCredentials(string? given, FileInfo? authorityFile, DataDirectory data)
{
    public static ApiCredentials Of(ParseResult parsed) => new(
        parsed.GetValue(CommandContext.Token), parsed.GetValue(CommandContext.Authority), DataDirectory.Of(parsed.GetRequiredValue(CommandContext.Data)));

    /// <summary>The token; null when there is none. Looked for each time: the node may just be writing it.</summary>
    /// <exception cref="ApiException">It is none, or may not be read.</exception>
    public AccessToken? Token()
    {
        if (given is not null)
            return AccessToken.Parse(given.Trim()) ?? throw new ApiException("token_malformed", "That is no token: it looks like fleet.ID.SECRET.PIN.");
        var file = TokenFile;
        try
        {
            return File.Exists(file) ? AccessToken.Parse(File.ReadAllText(file).Trim()) : null;
        }
        catch (Exception closed) when (closed is UnauthorizedAccessException or IOException)
        {
            throw new ApiException("unauthenticated", $"{file} can't be read ({closed.Message}). Run as the user that runs Fleet, or give a token of your own: --token or FLEET_TOKEN.");
        }
    }

    /// <summary>The refusal, with what is to be done about it here when no token was given.</summary>
    public ApiException Missing(ApiException refused) => refused.Code != "unauthenticated" || given is not null ? refused
        : new ApiException(refused.Code, Token() is null
            ? $"There is no token in {data.Credentials}. Give one (--token or FLEET_TOKEN), or the data directory of the node on this machine (--data or FLEET_DATA)."
            : $"{refused.Message} It is the one in {TokenFile}. Give one of the fleet that is asked (--token or FLEET_TOKEN), or the data directory of its node (--data or FLEET_DATA).")
        {
            Problem = refused.Problem,
        };

    private string TokenFile => Path.Combine(data.Credentials, LocalAdmin.TokenFile);

    /// <summary>TLS to the right cell: by the root of <c>--ca</c>, else by the pin of the token, against which the server's own root is held.</summary>
    /// <exception cref="ApiException"><c>wrong_cell</c>, or there is nothing to know the server by.</exception>
    public async Task<SslClientAuthenticationOptions> TlsAsync(Uri api, CancellationToken cancellation)
    {
        if (authorityFile is not null)
            return CellTls.To(Read(authorityFile), TimeProvider.System);
        if (Token() is not { } token)
            throw new ApiException("unauthenticated", $"Nothing tells whether {api} is the right Fleet. Give a token (--token or FLEET_TOKEN) or the cell's root certificate (--ca or FLEET_CA).");
        using var http = new HttpClient(new SocketsHttpHandler { UseProxy = false, ConnectTimeout = TimeSpan.FromSeconds(5), SslOptions = CellTls.ToAnybody() })
        {
            Timeout = TimeSpan.FromSeconds(15), MaxResponseContentBufferSize = 64 * 1024,
        };
        byte[] root;
        try
        {
            root = await http.GetByteArrayAsync(new Uri(api, "v1/authority"), cancellation);
        }
        catch (Exception failed) when (failed is HttpRequestException or TaskCanceledException && !cancellation.IsCancellationRequested)
        {
            throw new ApiException(ApiException.Unreachable, $"No Fleet API at {api} ({failed.InnerException?.Message ?? failed.Message}).{(failed is HttpRequestException { HttpRequestError: HttpRequestError.SecureConnectionError } ? " If it speaks http alone, write that." : "")}");
        }
        return NodeTrust.Pinned(root, token.Pin) is { } right
            ? CellTls.To(right, TimeProvider.System)
            : throw new ApiException("wrong_cell", $"{api} is not of the cell that made the token{(given is null ? $" in {TokenFile}" : "")}. Nothing was sent to it.");
    }

    private static X509Certificate2 Read(FileInfo file)
    {
        try
        {
            return X509CertificateLoader.LoadCertificateFromFile(file.FullName);
        }
        catch (Exception wrong) when (wrong is CryptographicException or IOException or UnauthorizedAccessException)
        {
            throw new ApiException("invalid_field", $"{file.FullName} is no certificate that can be read: {wrong.Message}");
        }
    }
}
