using System.Text.Json;

namespace Fleet.Cli.Api;

/// <summary>Requests that outlast a control plane which is away for a moment.</summary>
internal static class Persistence
{
    // Together a minute: longer than a node needs to come back, shorter than somebody waits for a fleet that is gone.
    private const int Attempts = 120;
    private static readonly TimeSpan Pause = TimeSpan.FromMilliseconds(500);

    /// <summary>Asks again while the control plane is away, as long as a restart of it may take.</summary>
    /// <param name="answered">It was there before. If not, nobody at the address means that there is no Fleet.</param>
    /// <param name="request">May be sent again.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <param name="waits">Hears once why it was not done at the first time, if it was not.</param>
    public static async Task<JsonElement> AskAsync(bool answered, Func<Task<JsonElement>> request, CancellationToken cancellation, Action<string>? waits = null)
    {
        for (var attempt = 1; ; attempt++)
        {
            try
            {
                return await request();
            }
            catch (ApiException away) when (attempt < Attempts
                && (away.Code == "unavailable" || away.IsCut || (away.Code == ApiException.Unreachable && answered)))
            {
                answered = true;
                if (attempt == 1)
                    waits?.Invoke(away.Message);
                await Task.Delay(Pause, cancellation);
            }
        }
    }
}
