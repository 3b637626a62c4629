using Serilog;

namespace Fleet.Host.Link;

/// <summary>Fetches the host's next certificate in time, for as long as the agent lives. The open stream goes on; the next one shows the new certificate.</summary>
internal sealed class CertificateRenewal : IAsyncDisposable
{
    // Also how long a failure waits for its next try: ten days are left then.
    private static readonly TimeSpan Look = TimeSpan.FromHours(1);

    private readonly IReadOnlyList<Uri> _links;
    private readonly LinkCredentials _credentials;
    private readonly TimeProvider _clock;
    private readonly ILogger _log;
    private readonly CancellationTokenSource _stop = new();
    private readonly Task _running;
    private int _tries;

    public CertificateRenewal(IReadOnlyList<Uri> links, LinkCredentials credentials, TimeProvider clock, ILogger log)
    {
        _links = links;
        _credentials = credentials;
        _clock = clock;
        _log = log.ForContext<CertificateRenewal>();
        _running = Task.Run(RunAsync);
    }

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync().ConfigureAwait(false);
        await _running.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        _stop.Dispose();
    }

    private async Task RunAsync()
    {
        while (true)
        {
            if (_clock.GetUtcNow() >= _credentials.RenewAt)
                await TryAsync().ConfigureAwait(false);
            await Task.Delay(Look, _clock, _stop.Token).ConfigureAwait(false);
        }
    }

    private async Task TryAsync()
    {
        try
        {
            await HostEnrolment.RenewAsync(_links[_tries++ % _links.Count], _credentials, _clock, _stop.Token).ConfigureAwait(false);
            _log.Information("The host's certificate was renewed; it is valid until {ExpiresAt:u}", _credentials.ExpiresAt);
        }
        catch (Exception failed) when (failed is LinkException or IOException or UnauthorizedAccessException)
        {
            _log.Warning("The host's certificate, valid until {ExpiresAt:u}, could not be renewed: {Problem:l} ({Code:l}). It is tried again each hour",
                _credentials.ExpiresAt, failed.Message, (failed as LinkException)?.Code ?? "disk");
        }
    }
}
