using Npgsql;

namespace Fleet.Scheduler.Journal;

/// <summary>Which PostgreSQL database a cell shares, and how its connections behave.</summary>
public sealed class PostgresDatabase
{
    /// <summary>
    /// The server ends a transaction whose client says nothing for this long. A node that stopped in the middle of one would otherwise hold up
    /// the readers of the journal and the names for as long as it is away.
    /// </summary>
    private const int IdleInTransactionMs = 5000;

    private const int StatementMs = 8000;

    /// <summary>For what reads and for recoveries.</summary>
    private const int MostConnections = 20;

    /// <summary>For what writes: one, and one more while a broken one is still being closed.</summary>
    public const int WriterConnections = 2;

    private readonly NpgsqlConnectionStringBuilder _settings;

    private PostgresDatabase(NpgsqlConnectionStringBuilder settings) => _settings = settings;

    /// <param name="text">
    /// Npgsql's words (<c>Host=db;Database=fleet;Username=fleet</c>) or <c>postgresql://user:password@host:port/database</c>. A password may also
    /// stand in <c>~/.pgpass</c> or PGPASSWORD.
    /// </param>
    /// <exception cref="ArgumentException">It is neither; the message does not repeat it, since it may hold a password.</exception>
    public static PostgresDatabase Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        try
        {
            var settings = text.StartsWith("postgres://", StringComparison.Ordinal) || text.StartsWith("postgresql://", StringComparison.Ordinal)
                ? FromUri(new Uri(text))
                : new NpgsqlConnectionStringBuilder(text);
            if (string.IsNullOrEmpty(settings.Host))
                throw new FormatException();
            settings.ApplicationName ??= "fleet";
            settings.Timeout = 5;
            settings.CommandTimeout = 10;
            // By the kernel, and what is cancelled is cut off: Npgsql's own keep-alive, and its word to the server that a command is cancelled, each hold a thread of the
            // pool for as long as the database says nothing. Twenty connections of a node that does not reach it stood still for 10 s, and with them its heartbeats.
            settings.KeepAlive = 0;
            settings.TcpKeepAlive = true;
            settings.TcpKeepAliveTime = 5;
            settings.TcpKeepAliveInterval = 2;
            settings.CancellationTimeout = -1;
            settings.MaxPoolSize = Math.Min(settings.MaxPoolSize, MostConnections);
            settings.Options = $"{settings.Options} -c idle_in_transaction_session_timeout={IdleInTransactionMs} -c statement_timeout={StatementMs} -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3".Trim();
            return new PostgresDatabase(settings);
        }
        catch (Exception fault) when (fault is ArgumentException or FormatException)
        {
            throw new ArgumentException(fault is NotSupportedQueryException
                ? "A database's URI takes no settings after '?'. Write them in Npgsql's words: Host=HOST;Database=NAME;Username=USER;SSL Mode=VerifyFull;Root Certificate=FILE."
                : "A database is named as postgresql://USER@HOST:PORT/DATABASE, or in Npgsql's words: Host=HOST;Database=NAME;Username=USER.", nameof(text));
        }
    }

    /// <summary>Without user and password.</summary>
    public override string ToString() => $"{_settings.Database ?? _settings.Username} on {_settings.Host}:{_settings.Port}";

    /// <summary>May hold a password: never log it.</summary>
    internal string ConnectionString => _settings.ConnectionString;

    /// <param name="most">Connections at once; null: as many as a pool may have.</param>
    internal NpgsqlDataSource ToSource(int? most = null) => NpgsqlDataSource.Create(
        new NpgsqlConnectionStringBuilder(_settings.ConnectionString) { MaxPoolSize = Math.Min(most ?? _settings.MaxPoolSize, _settings.MaxPoolSize) });

    private sealed class NotSupportedQueryException : FormatException;

    private static NpgsqlConnectionStringBuilder FromUri(Uri uri)
    {
        // Left out in silence, somebody would believe that his certificate is looked at.
        if (uri.Query.Length > 0)
            throw new NotSupportedQueryException();
        var user = uri.UserInfo.Split(':', 2);
        return new NpgsqlConnectionStringBuilder
        {
            Host = uri.IdnHost,
            Port = uri.Port > 0 ? uri.Port : 5432,
            Database = Uri.UnescapeDataString(uri.AbsolutePath.TrimStart('/')) is { Length: > 0 } name ? name : null,
            Username = user[0].Length > 0 ? Uri.UnescapeDataString(user[0]) : null,
            Password = user.Length > 1 ? Uri.UnescapeDataString(user[1]) : null,
        };
    }
}
