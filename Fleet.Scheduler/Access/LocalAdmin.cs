using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Node;
using Fleet.Shared.Access;
using Fleet.Shared.Files;

namespace Fleet.Scheduler.Access;

/// <summary>
/// The credentials that a node leaves for the people of its own machine: an admin's token that only the node's user can read, and the
/// cell's root certificate. Whoever can read them can read the node's data as well.
/// </summary>
public static class LocalAdmin
{
    public const string TokenFile = "admin.token", AuthorityFile = "ca.crt";

    private const int MostTries = 3;

    /// <summary>Writes the root, and a token when there is none of this cell; the node makes it known when it starts.</summary>
    /// <returns>The token of the file.</returns>
    /// <exception cref="SchedulerStartException">The folder can't be written.</exception>
    public static AccessToken Prepare(string folder, CertificateAuthority authority)
    {
        ArgumentNullException.ThrowIfNull(authority);
        return Guarded(folder, () =>
        {
            OwnFile.Write(Path.Combine(folder, AuthorityFile), authority.Certificate.ExportCertificatePem() + "\n", OwnFile.Private | UnixFileMode.GroupRead | UnixFileMode.OtherRead);
            var file = Path.Combine(folder, TokenFile);
            return File.Exists(file) && AccessToken.Parse(File.ReadAllText(file).Trim()) is { } there && there.Pin == authority.Pin
                ? there
                : Replace(folder, authority);
        });
    }

    /// <summary>Sees to it that the folder has a token that counts.</summary>
    /// <exception cref="SchedulerStartException">The folder can't be written, or the cell does not take the token.</exception>
    internal static async Task EnsureAsync(string folder, CertificateAuthority authority, Tokens tokens, CancellationToken cancellation)
    {
        var token = Prepare(folder, authority);
        var verdict = tokens.Check(token.Text);
        if (verdict.Token is { Role: TokenRole.Admin })
            return;
        // One that is unknown to a cell that has had tokens may have been revoked so long ago that it is forgotten: only a cell's first may come from the file.
        if (verdict.Token is not null || verdict.Code is "token_revoked" or "token_expired" || tokens.All.Count > 0)
            token = Guarded(folder, () => Replace(folder, authority));
        for (var tried = 1; ; tried++)
        {
            try
            {
                await tokens.PutAsync(token, new TokenRequest(TokenRole.Admin) { Note = $"of the node on {Environment.MachineName}" }, "", cancellation);
                return;
            }
            catch (CellException late) when (late.Code == "unavailable" && tried < MostTries)
            {
                // The actor may just be on its way, or its disk slow. The same token again is no second one.
            }
            catch (CellException refused)
            {
                throw new SchedulerStartException($"The token in {Path.Combine(folder, TokenFile)} could not be made known to the cell: {refused.Message}", refused);
            }
        }
    }

    private static AccessToken Replace(string folder, CertificateAuthority authority)
    {
        var token = AccessToken.New(authority.Pin);
        OwnFile.Write(Path.Combine(folder, TokenFile), token.Text + "\n");
        return token;
    }

    private static AccessToken Guarded(string folder, Func<AccessToken> work)
    {
        try
        {
            // Others may pass through to the certificate; the token's own mode keeps it.
            Directory.CreateDirectory(folder);
            return work();
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            throw new SchedulerStartException($"The credentials in {folder} can't be read or written: {fault.Message}", fault);
        }
    }
}
